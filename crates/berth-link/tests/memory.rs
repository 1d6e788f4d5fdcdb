//! What sessions keep: counted by the allocator, both ends together.

#![cfg(unix)]
#![allow(
    unsafe_code,
    clippy::unwrap_used,
    reason = "tests only; an allocator that counts is unsafe by its trait"
)]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use berth_link::flow::{FlowHeader, FlowKind};
use berth_link::frame::INITIAL_CREDIT;
use berth_link::hello::SessionId;
use berth_link::mux::{
    self, Inbox, Incoming, LONGEST_WINDOW, Limits, LinkStream, Mux, Side, WINDOW_BUDGET,
};
use support::within;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::task::TaskTracker;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Passes on to the system, and counts bytes.
struct Counting;

static HELD: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged; counting touches no memory of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let held = HELD.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(held, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        HELD.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// One test at a time: all of them count in one place.
static ALONE: Mutex<()> = Mutex::new(());

fn held() -> usize {
    HELD.load(Ordering::Relaxed)
}

/// The most that is held from now on, until the next call.
fn peak_since_last_time() -> usize {
    PEAK.swap(held(), Ordering::Relaxed)
}

/// Runs a test alone, and on one thread.
fn alone<F: Future<Output = ()>>(test: F) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_all().build().unwrap();
    runtime.block_on(test);
}

struct Ends {
    mux: Mux,
    incoming: Incoming,
    _control: [LinkStream; 2],
    _guest: Mux,
}

/// A session with its control stream, as it is when it has just begun.
async fn ends() -> Ends {
    let limits = Limits {
        own_streams: 8192,
        peer_streams: 8192,
        window: LONGEST_WINDOW,
        budget: WINDOW_BUDGET,
    };
    let (host, guest) = tokio::net::UnixStream::pair().unwrap();
    let session = SessionId([9; 16]);
    let (mux, _, mut driver) = mux::new(host, Inbox::default(), Side::Host, session, limits);
    TaskTracker::new().spawn(async move { driver.run().await });
    let (guest, mut incoming, mut driver) =
        mux::new(guest, Inbox::default(), Side::Guest, session, limits);
    TaskTracker::new().spawn(async move { driver.run().await });
    let ours = mux.open(&FlowHeader::control()).unwrap();
    let theirs = accept(&mut incoming).await;
    Ends {
        mux,
        incoming,
        _control: [ours, theirs],
        _guest: guest,
    }
}

async fn accept(incoming: &mut Incoming) -> LinkStream {
    within(incoming.accept()).await.unwrap().1
}

/// A new stream, both ends of it.
async fn stream(ends: &mut Ends) -> (LinkStream, LinkStream) {
    let header = FlowHeader::new(FlowKind::Tcp, "127.0.0.1:80").unwrap();
    let ours = ends.mux.open(&header).unwrap();
    (ours, accept(&mut ends.incoming).await)
}

async fn idle() {
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
}

/// Sends so many bytes through a stream whose reader keeps up.
async fn transfer((mut ours, mut theirs): (LinkStream, LinkStream), bytes: usize) {
    let writing = async {
        let chunk = vec![7; 64 * KIB];
        for _ in 0..bytes / chunk.len() {
            ours.write_all(&chunk).await.unwrap();
        }
        ours.shutdown().await.unwrap();
        assert_eq!(ours.read(&mut [0]).await.unwrap(), 0);
    };
    let reading = async {
        let mut chunk = vec![0; 64 * KIB];
        while theirs.read(&mut chunk).await.unwrap() > 0 {}
        theirs.shutdown().await.unwrap();
    };
    within(async { tokio::join!(writing, reading) }).await;
}

#[test]
fn an_idle_stream_costs_less_than_a_kilobyte_at_each_end_and_nothing_when_it_is_gone() {
    const STREAMS: usize = 1500;
    alone(async {
        let mut ends = ends().await;
        let before = held();
        let mut open = Vec::with_capacity(STREAMS);
        for _ in 0..STREAMS {
            let (mut ours, mut theirs) = stream(&mut ends).await;
            // Not fresh ones: each has carried something.
            ours.write_all(b"question").await.unwrap();
            within(theirs.read_exact(&mut [0; 8])).await.unwrap();
            open.push((ours, theirs));
        }
        let each = (held() - before) / STREAMS / 2;
        assert!(each < KIB, "{each} bytes");
        drop(open);
        idle().await;
        let left = held().saturating_sub(before);
        assert!(left < 256 * KIB, "{left} bytes are left");
    });
}

#[test]
fn bulk_costs_a_few_megabytes_and_leaves_next_to_nothing() {
    alone(async {
        let mut ends = ends().await;
        idle().await;
        let before = held();
        peak_since_last_time();
        let mut transfers = Vec::new();
        for _ in 0..8 {
            let stream = stream(&mut ends).await;
            transfers.push(TaskTracker::new().spawn(transfer(stream, 16 * MIB)));
        }
        for transfer in transfers {
            within(transfer).await.unwrap();
        }
        let peak = peak_since_last_time() - before;
        assert!(peak < 8 * MIB, "{peak} bytes at the peak");
        idle().await;
        let left = held().saturating_sub(before);
        assert!(left < 512 * KIB, "{left} bytes are left");
    });
}

#[test]
fn readers_that_stop_keep_no_more_than_the_budget() {
    const STREAMS: usize = 200;
    alone(async {
        let mut ends = ends().await;
        idle().await;
        let before = held();
        peak_since_last_time();
        let tracker = TaskTracker::new();
        let mut stuck = Vec::new();
        for _ in 0..STREAMS {
            let (mut ours, mut theirs) = stream(&mut ends).await;
            tracker.spawn(async move { while ours.write_all(&[7; 8 * KIB]).await.is_ok() {} });
            // Fast for long enough that the window grows.
            let mut chunk = vec![0; 2 * MIB];
            within(theirs.read_exact(&mut chunk)).await.unwrap();
            stuck.push(theirs);
        }
        idle().await;
        let initial = STREAMS * usize::try_from(INITIAL_CREDIT).unwrap();
        let budget = usize::try_from(WINDOW_BUDGET).unwrap();
        // Frames under way, the table, and what the test reads into.
        let others = 5 * MIB;
        let peak = peak_since_last_time() - before;
        assert!(peak < budget + initial + others, "{peak} bytes at the peak");
        // A newcomer is not starved by them.
        let newcomer = stream(&mut ends).await;
        transfer(newcomer, 4 * MIB).await;
        drop(stuck);
        tracker.close();
        within(tracker.wait()).await;
        idle().await;
        let left = held().saturating_sub(before);
        assert!(left < 512 * KIB, "{left} bytes are left");
    });
}
