//! Two ends of a session on two threads.

use std::os::unix::net::UnixStream as StdUnixStream;
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use berth_link::flow::{FlowHeader, FlowKind};
use berth_link::hello::SessionId;
use berth_link::mux::{self, Inbox, Incoming, LONGEST_WINDOW, Limits, Mux, Side, WINDOW_BUDGET};
use rustix::time::{ClockId, clock_gettime};
use tokio::net::UnixStream;
use tokio::runtime;
use tokio_util::task::TaskTracker;

use super::Cost;

/// What the products keep.
const LIMITS: Limits = Limits {
    own_streams: 8192,
    peer_streams: 8192,
    window: LONGEST_WINDOW,
    budget: WINDOW_BUDGET,
};

/// CPU time of this thread so far.
pub(super) fn cpu_time() -> Duration {
    Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap()
}

/// A thread with a name, so that a profiler tells them apart.
pub(super) fn thread<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    Builder::new().name(name.to_owned()).spawn(work).unwrap()
}

/// Runs one end on a current-thread runtime; the session is driven until `work` is done.
fn run_end<F: Future>(
    io: StdUnixStream,
    side: Side,
    work: impl FnOnce(Mux, Incoming, TaskTracker) -> F,
) -> (F::Output, Duration) {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        io.set_nonblocking(true).unwrap();
        let io = UnixStream::from_std(io).unwrap();
        let session = SessionId([0; 16]);
        let (mux, mut incoming, mut driver) = mux::new(io, Inbox::default(), side, session, LIMITS);
        let tracker = TaskTracker::new();
        let driving = tracker.spawn(async move { driver.run().await });
        // Every session has its control stream.
        let _control = match side {
            Side::Host => mux.open(&FlowHeader::control()).unwrap(),
            Side::Guest => incoming.accept().await.unwrap().1,
        };
        let before = cpu_time();
        let done = work(mux.clone(), incoming, tracker).await;
        let cpu = cpu_time().saturating_sub(before);
        if side == Side::Host {
            mux.say_bye();
        }
        driving.await.unwrap();
        (done, cpu)
    })
}

/// Both ends; the host's result, how long it took, and the CPU time of both.
pub(super) fn run<H: Future, G: Future>(
    host: impl FnOnce(Mux, TaskTracker) -> H,
    guest: impl FnOnce(Incoming, TaskTracker) -> G + Send + 'static,
) -> (H::Output, Cost) {
    let (ours, theirs) = StdUnixStream::pair().unwrap();
    let guest = thread("guest", move || {
        let work = |mux, incoming, tracker| {
            drop::<Mux>(mux);
            guest(incoming, tracker)
        };
        run_end(theirs, Side::Guest, work).1
    });
    let began = Instant::now();
    let (done, cpu) = run_end(ours, Side::Host, |mux, _incoming, tracker| {
        host(mux, tracker)
    });
    let took = began.elapsed();
    let cpu = cpu + guest.join().unwrap();
    (done, Cost { took, cpu })
}

pub(super) fn header() -> FlowHeader {
    FlowHeader::new(FlowKind::Tcp, "127.0.0.1:80").unwrap()
}
