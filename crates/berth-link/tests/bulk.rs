//! Bulk between other frames: windows, turns, and ways without a copy.

#![allow(clippy::unwrap_used, reason = "tests only")]

mod support;

use std::io::ErrorKind;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use berth_link::flow::{FlowHeader, FlowKind};
use berth_link::frame::{FrameKind, INITIAL_CREDIT, MAX_PAYLOAD};
use berth_link::hello::SessionId;
use berth_link::mux::{
    self, Inbox, Incoming, LONGEST_WINDOW, Limits, LinkStream, Mux, OpenError, Side, WINDOW_BUDGET,
};
use berth_relay::remote::{Lending as _, LendingError, Source};
use proptest::prelude::*;
use support::{RawGuest, frame, within};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio_util::task::TaskTracker;

const LIMITS: Limits = Limits {
    own_streams: 8192,
    peer_streams: 8192,
    window: LONGEST_WINDOW,
    budget: WINDOW_BUDGET,
};
const WINDOW: usize = INITIAL_CREDIT as usize;

fn start(io: DuplexStream, side: Side, limits: Limits) -> (Mux, Incoming) {
    let session = SessionId([9; 16]);
    let (mux, incoming, mut driver) = mux::new(io, Inbox::default(), side, session, limits);
    TaskTracker::new().spawn(async move { driver.run().await });
    (mux, incoming)
}

fn pair() -> (Mux, Incoming) {
    let (host, guest) = tokio::io::duplex(100_000);
    let (mux, _) = start(host, Side::Host, LIMITS);
    let (_, incoming) = start(guest, Side::Guest, LIMITS);
    (mux, incoming)
}

/// The host's end against a guest by hand, with a pipe of `space` bytes.
fn against_bytes(space: usize, limits: Limits) -> (Mux, RawGuest) {
    let (host, guest) = tokio::io::duplex(space);
    let (mux, _) = start(host, Side::Host, limits);
    (mux, RawGuest(guest))
}

fn open(mux: &Mux) -> LinkStream {
    let header = FlowHeader::new(FlowKind::Tcp, "127.0.0.1:80").unwrap();
    mux.open(&header).unwrap()
}

async fn accept(incoming: &mut Incoming) -> LinkStream {
    within(incoming.accept()).await.unwrap().1
}

/// The next frame, without those that open streams.
async fn next(guest: &mut RawGuest) -> (FrameKind, u32, Vec<u8>) {
    loop {
        let (header, payload) = guest.frame().await;
        if header.kind != FrameKind::Open {
            return (header.kind, header.stream, payload);
        }
    }
}

async fn credit(guest: &mut RawGuest, stream: u32, more: u32) {
    guest.send(&frame(3, stream, &more.to_be_bytes())).await;
}

/// Lets every other task run until all of them wait.
async fn idle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

fn pattern(length: usize) -> Vec<u8> {
    (0..length)
        .map(|at| at.wrapping_mul(31).to_be_bytes()[6])
        .collect()
}

#[tokio::test]
async fn bulk_streams_take_turns_and_small_frames_overtake_them() {
    let (mux, mut guest) = against_bytes(1000, LIMITS);
    let (mut first, mut second, mut small) = (open(&mux), open(&mux), open(&mux));
    for stream in [1, 3] {
        credit(&mut guest, stream, 1_000_000).await;
    }
    idle().await;
    let bulk = vec![7; 2 * MAX_PAYLOAD];
    within(first.write_all(&bulk)).await.unwrap();
    within(second.write_all(&bulk)).await.unwrap();
    idle().await;
    // A part of the first frame has left; nothing overtakes that.
    within(small.write_all(b"ls\n")).await.unwrap();
    small.shutdown().await.unwrap();
    let mut order = Vec::new();
    for _ in 0..6 {
        let (kind, stream, payload) = next(&mut guest).await;
        order.push((kind, stream, payload.len()));
    }
    let (data, fin) = (FrameKind::Data, FrameKind::Fin);
    assert_eq!(
        order,
        [
            (data, 1, MAX_PAYLOAD),
            (data, 5, 3),
            (fin, 5, 0),
            (data, 3, MAX_PAYLOAD),
            (data, 1, MAX_PAYLOAD),
            (data, 3, MAX_PAYLOAD),
        ]
    );
}

#[tokio::test]
async fn small_writes_behind_bulk_do_not_overtake_their_own_stream() {
    let (mux, mut incoming) = pair();
    let mut ours = open(&mux);
    let sent = pattern(700_000);
    let mut theirs = accept(&mut incoming).await;
    let writing = async {
        let mut rest = &sent[..];
        for length in [1, 9000, 3, 70_000, 4096, 4097, 5].into_iter().cycle() {
            let (piece, behind) = rest.split_at(rest.len().min(length));
            within(ours.write_all(piece)).await.unwrap();
            rest = behind;
            if rest.is_empty() {
                break;
            }
        }
        ours.shutdown().await.unwrap();
    };
    let mut received = Vec::new();
    let (read, ()) = tokio::join!(within(theirs.read_to_end(&mut received)), writing);
    read.unwrap();
    assert!(received == sent);
}

#[tokio::test]
async fn small_frames_that_have_to_wait_do_not_let_later_bulk_of_their_stream_pass() {
    let (mux, mut guest) = against_bytes(150_000, LIMITS);
    let mut streams: Vec<_> = (0..4).map(|_| open(&mux)).collect();
    for stream in [1, 3, 5, 7] {
        credit(&mut guest, stream, 1_000_000).await;
    }
    idle().await;
    // The carrier is full, and has a part of a frame.
    for stream in &mut streams[..2] {
        within(stream.write_all(&vec![7; 2 * MAX_PAYLOAD]))
            .await
            .unwrap();
    }
    idle().await;
    // More than a little waits for it already when the stream begins to write.
    for stream in &mut streams[2..] {
        within(stream.write_all(&[7; 4000])).await.unwrap();
    }
    idle().await;
    within(streams[3].write_all(b"before")).await.unwrap();
    idle().await;
    within(streams[3].write_all(&vec![7; MAX_PAYLOAD]))
        .await
        .unwrap();
    idle().await;
    let mut lengths = Vec::new();
    while lengths.len() < 3 {
        let (_, stream, payload) = next(&mut guest).await;
        if stream == 7 {
            lengths.push(payload.len());
        }
    }
    assert_eq!(lengths, [4000, 6, MAX_PAYLOAD]);
}

#[tokio::test]
async fn many_small_writes_become_few_frames_while_the_carrier_is_busy() {
    let (mux, mut guest) = against_bytes(1000, LIMITS);
    let mut stream = open(&mux);
    credit(&mut guest, 1, 1_000_000).await;
    idle().await;
    for _ in 0..1000 {
        within(stream.write_all(&[7; 100])).await.unwrap();
    }
    let (mut frames, mut bytes) = (0, 0);
    while bytes < 100_000 {
        let (_, _, payload) = next(&mut guest).await;
        bytes += payload.len();
        frames += 1;
    }
    // A few of them left at once.
    assert!(frames <= 50, "{frames} frames");
}

#[tokio::test]
async fn a_stream_may_be_dropped_after_its_end_while_its_bytes_wait() {
    let (mux, mut guest) = against_bytes(1000, LIMITS);
    let mut stream = open(&mux);
    credit(&mut guest, 1, 1_000_000).await;
    guest.send(&frame(4, 1, b"")).await;
    assert_eq!(within(stream.read(&mut [0; 9])).await.unwrap(), 0);
    within(stream.write_all(&vec![7; 100_000])).await.unwrap();
    stream.shutdown().await.unwrap();
    drop(stream);
    let (_, _, first) = next(&mut guest).await;
    let (_, _, second) = next(&mut guest).await;
    assert_eq!(first.len() + second.len(), 100_000);
    assert_eq!(next(&mut guest).await.0, FrameKind::Fin);
    mux.say_bye();
    assert_eq!(next(&mut guest).await.0, FrameKind::Bye);
}

#[tokio::test]
async fn good_bye_waits_for_bulk_of_every_stream() {
    let (mux, mut guest) = against_bytes(1000, LIMITS);
    let (mut first, mut second) = (open(&mux), open(&mux));
    for stream in [1, 3] {
        credit(&mut guest, stream, 1_000_000).await;
    }
    idle().await;
    for stream in [&mut first, &mut second] {
        within(stream.write_all(&vec![7; 100_000])).await.unwrap();
        stream.shutdown().await.unwrap();
    }
    mux.say_bye();
    let error = within(first.write_all(b"more")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    let (mut bytes, mut ends) = (0, 0);
    loop {
        match next(&mut guest).await {
            (FrameKind::Data, _, payload) => bytes += payload.len(),
            (FrameKind::Fin, ..) => ends += 1,
            (kind, ..) => break assert_eq!(kind, FrameKind::Bye),
        }
    }
    assert_eq!((bytes, ends), (200_000, 2));
}

/// How much a stream takes whose other end does not read.
async fn taken(stream: &mut LinkStream) -> usize {
    let mut taken = 0;
    let writing = async {
        loop {
            taken += stream.write(&[7; 1000]).await.unwrap();
        }
    };
    tokio::select! {
        biased;
        () = writing => {}
        () = idle() => {}
    }
    taken
}

#[tokio::test]
async fn a_window_grows_with_its_reader() {
    let (mux, mut incoming) = pair();
    let mut ours = open(&mux);
    let mut theirs = accept(&mut incoming).await;
    let sent = vec![7; 4 << 20];
    let mut read = vec![0; sent.len()];
    let (written, read) = tokio::join!(
        within(ours.write_all(&sent)),
        within(theirs.read_exact(&mut read))
    );
    assert!(written.is_ok() && read.is_ok());
    let longest = usize::try_from(LONGEST_WINDOW).unwrap();
    let window = taken(&mut ours).await;
    assert!((longest / 2..=longest).contains(&window), "{window}");
    let mut fresh = open(&mux);
    let _unread = accept(&mut incoming).await;
    assert_eq!(taken(&mut fresh).await, WINDOW);
}

#[tokio::test]
async fn credit_that_nobody_uses_is_asked_back_and_goes_to_others() {
    let limits = Limits {
        budget: 64 * 1024 - INITIAL_CREDIT,
        ..LIMITS
    };
    let (mux, mut guest) = against_bytes(100_000, limits);
    let (mut first, mut second) = (open(&mux), open(&mux));
    let mut read = vec![0; WINDOW];
    guest.send(&frame(2, 1, &pattern(WINDOW))).await;
    within(first.read_exact(&mut read)).await.unwrap();
    let given = (64_u32 * 1024).to_be_bytes().to_vec();
    assert_eq!(next(&mut guest).await, (FrameKind::Credit, 1, given));
    // Nothing is left for the second one, beyond what each has.
    guest.send(&frame(2, 3, &pattern(WINDOW))).await;
    within(second.read_exact(&mut read)).await.unwrap();
    let initial = INITIAL_CREDIT.to_be_bytes().to_vec();
    assert_eq!(next(&mut guest).await, (FrameKind::Credit, 3, initial));
    assert_eq!(next(&mut guest).await, (FrameKind::Recall, 1, vec![]));
    let back = (64 * 1024 - INITIAL_CREDIT).to_be_bytes();
    guest.send(&frame(8, 1, &back)).await;
    guest.send(&frame(2, 3, &pattern(WINDOW))).await;
    within(second.read_exact(&mut read)).await.unwrap();
    let (kind, stream, more) = next(&mut guest).await;
    let more = u32::from_be_bytes(more.try_into().unwrap());
    assert_eq!((kind, stream, more), (FrameKind::Credit, 3, 64 * 1024));
}

#[tokio::test]
async fn only_credit_that_is_not_needed_is_returned() {
    let (mux, mut guest) = against_bytes(1000, LIMITS);
    let (mut busy, _idle, _fresh) = (open(&mux), open(&mux), open(&mux));
    for stream in [1, 3] {
        credit(&mut guest, stream, 500_000).await;
    }
    idle().await;
    within(busy.write_all(&vec![7; MAX_PAYLOAD])).await.unwrap();
    for stream in [1, 3, 3, 5] {
        guest.send(&frame(7, stream, b"")).await;
    }
    idle().await;
    mux.say_bye();
    let mut seen = Vec::new();
    loop {
        let (kind, stream, payload) = next(&mut guest).await;
        match kind {
            FrameKind::Data => {}
            FrameKind::Bye => break,
            _ => seen.push((kind, stream, payload)),
        }
    }
    let back = 500_000_u32.to_be_bytes().to_vec();
    assert_eq!(seen, [(FrameKind::Return, 3, back)]);
}

/// A source that is no socket.
struct Reading<'a, R>(&'a mut R);

impl<R: AsyncRead + Unpin> Source for Reading<'_, R> {
    fn poll_read(&mut self, cx: &mut Context<'_>, room: &mut [u8]) -> Poll<std::io::Result<usize>> {
        let mut room = ReadBuf::new(room);
        ready!(Pin::new(&mut *self.0).poll_read(cx, &mut room))?;
        Poll::Ready(Ok(room.filled().len()))
    }
}

#[tokio::test]
async fn a_source_is_sent_without_a_copy_to_its_end() {
    let (mux, mut incoming) = pair();
    let mut ours = open(&mux);
    let mut theirs = accept(&mut incoming).await;
    let sent = pattern(500_000);
    let (mut feed, mut source) = tokio::io::duplex(30_000);
    let feeding = async {
        feed.write_all(&sent).await.unwrap();
        drop(feed);
    };
    let sending = async {
        loop {
            let sent =
                std::future::poll_fn(|cx| ours.poll_send_from(cx, &mut Reading(&mut source)));
            if within(sent).await.unwrap() == 0 {
                break;
            }
        }
        ours.shutdown().await.unwrap();
    };
    let mut received = Vec::new();
    let receiving = async {
        loop {
            let bytes = within(theirs.fill_buf()).await.unwrap();
            if bytes.is_empty() {
                break;
            }
            // As a socket that takes only a part.
            let count = bytes.len().div_ceil(2);
            received.extend_from_slice(&bytes[..count]);
            theirs.consume(count);
        }
    };
    tokio::join!(feeding, sending, receiving);
    assert!(received == sent);
}

#[tokio::test]
async fn a_source_is_not_read_while_the_stream_takes_nothing_and_its_errors_are_told() {
    struct Broken;
    impl AsyncRead for Broken {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut ReadBuf<'_>,
        ) -> Poll<std::io::Result<()>> {
            Poll::Ready(Err(ErrorKind::TimedOut.into()))
        }
    }
    let (mux, mut guest) = against_bytes(1000, LIMITS);
    let mut stream = open(&mux);
    within(stream.write_all(&[7; WINDOW])).await.unwrap();
    let blocked = std::future::poll_fn(|cx| {
        let sent = stream.poll_send_from(cx, &mut Reading(&mut Broken));
        Poll::Ready(sent.is_pending())
    });
    assert!(blocked.await, "read without credit");
    credit(&mut guest, 1, 1).await;
    let sent = std::future::poll_fn(|cx| stream.poll_send_from(cx, &mut Reading(&mut Broken)));
    // The pipe holds less than what was written.
    let (error, _) = tokio::join!(within(sent), next(&mut guest));
    match error.unwrap_err() {
        LendingError::Local(why) => assert_eq!(why.kind(), ErrorKind::TimedOut),
        LendingError::Stream(why) => panic!("{why}"),
    }
    // The stream itself is as it was.
    within(stream.write_all(b"x")).await.unwrap();
}

#[tokio::test]
async fn streams_of_a_driver_that_is_dropped_end() {
    let (host, _guest) = tokio::io::duplex(1000);
    let session = SessionId([9; 16]);
    let (mux, _incoming, driver) = mux::new(host, Inbox::default(), Side::Host, session, LIMITS);
    let mut stream = open(&mux);
    let dropping = async {
        tokio::task::yield_now().await;
        drop(driver);
    };
    let (read, ()) = tokio::join!(within(stream.read_u8()), dropping);
    assert_eq!(read.unwrap_err().kind(), ErrorKind::ConnectionAborted);
}

#[tokio::test]
async fn thousands_of_streams_are_open_at_once_and_all_work() {
    let (mux, mut incoming) = pair();
    let mut ours: Vec<_> = (0..8192).map(|_| open(&mux)).collect();
    let header = FlowHeader::new(FlowKind::Tcp, "127.0.0.1:80").unwrap();
    assert_eq!(mux.open(&header).unwrap_err(), OpenError::TooMany(8192));
    let mut theirs = Vec::new();
    for _ in 0..8192 {
        theirs.push(accept(&mut incoming).await);
    }
    let writing = async {
        for (number, stream) in (0_u32..).zip(&mut ours) {
            within(stream.write_all(&number.to_be_bytes()))
                .await
                .unwrap();
        }
    };
    let reading = async {
        for (number, stream) in (0..).zip(&mut theirs) {
            assert_eq!(within(stream.read_u32()).await.unwrap(), number);
        }
    };
    tokio::join!(writing, reading);
}

#[tokio::test]
async fn more_writers_than_there_is_room_for_all_get_their_turn() {
    let (mux, mut incoming) = pair();
    let tracker = TaskTracker::new();
    let bytes = 3 * MAX_PAYLOAD + 5;
    let writers: Vec<_> = (0..100)
        .map(|_| {
            let mut stream = open(&mux);
            tracker.spawn(async move {
                stream.write_all(&vec![7; bytes]).await.unwrap();
                stream.shutdown().await.unwrap();
                // Until the other end has read all of it.
                assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
            })
        })
        .collect();
    for _ in 0..100 {
        let mut stream = accept(&mut incoming).await;
        tracker.spawn(async move {
            let mut read = Vec::new();
            stream.read_to_end(&mut read).await.unwrap();
            assert_eq!(read.len(), bytes);
            stream.shutdown().await.unwrap();
        });
    }
    for writer in writers {
        within(writer).await.unwrap();
    }
}

/// Writes pieces of these lengths, one after the other, with a pause behind those that have one.
async fn write_pieces(mut stream: LinkStream, pieces: Vec<(usize, bool)>) -> LinkStream {
    let all = pattern(pieces.iter().map(|piece| piece.0).sum());
    let mut rest = &all[..];
    for (length, pause) in pieces {
        let (piece, behind) = rest.split_at(length);
        within(stream.write_all(piece)).await.unwrap();
        rest = behind;
        if pause {
            idle().await;
        }
    }
    stream.shutdown().await.unwrap();
    stream
}

/// Reads to the end, in bites.
async fn read_all(mut stream: LinkStream, bite: usize) -> Vec<u8> {
    let mut all = Vec::new();
    let mut space = vec![0; bite];
    loop {
        match within(stream.read(&mut space)).await.unwrap() {
            0 => break,
            count => all.extend_from_slice(&space[..count]),
        }
    }
    stream.shutdown().await.unwrap();
    all
}

fn any_pieces() -> impl Strategy<Value = Vec<(usize, bool)>> {
    let length = prop_oneof![1..200_usize, 3000..5000_usize, 60_000..70_000_usize];
    proptest::collection::vec((length, proptest::bool::weighted(0.1)), 0..30)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_written_arrives_whole_and_in_order(
        streams in proptest::collection::vec((any_pieces(), 1..100_000_usize), 1..6),
        space in prop_oneof![50..2000_usize, 10_000..300_000_usize],
        budget in prop_oneof![Just(0), Just(WINDOW_BUDGET), 0..500_000_u32],
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let limits = Limits { budget, ..LIMITS };
            let (host, guest) = tokio::io::duplex(space);
            let (mux, _) = start(host, Side::Host, limits);
            let (_, mut incoming) = start(guest, Side::Guest, limits);
            let mut readers = Vec::new();
            let tracker = TaskTracker::new();
            for (pieces, bite) in streams {
                let expected = pattern(pieces.iter().map(|piece| piece.0).sum());
                let writer = tracker.spawn(write_pieces(open(&mux), pieces));
                let stream = accept(&mut incoming).await;
                readers.push((expected, writer, tracker.spawn(read_all(stream, bite))));
            }
            for (expected, writer, reader) in readers {
                prop_assert!(within(reader).await.unwrap() == expected);
                drop(within(writer).await.unwrap());
            }
            Ok(())
        })?;
    }
}
