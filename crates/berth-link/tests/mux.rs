//! The multiplexer: two of them over a pipe, and one against bytes by hand.

#![allow(clippy::unwrap_used, reason = "tests only")]

mod support;

use std::io::ErrorKind;

use berth_link::flow::{FlowHeader, FlowKind};
use berth_link::frame::{HEADER_LEN, INITIAL_CREDIT, MAX_PAYLOAD, ResetCode};
use berth_link::hello::SessionId;
use berth_link::mux::{self, Inbox, Incoming, Limits, LinkStream, Mux, OpenError, Side};
use proptest::prelude::*;
use support::{causes, frame, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_util::task::TaskTracker;

const LIMITS: Limits = Limits {
    own_streams: 8,
    peer_streams: 4,
    window: INITIAL_CREDIT,
    budget: 0,
};
const SESSION: SessionId = SessionId([9; 16]);

/// One end, driven in the background; the task's result is why the session ended, with all causes.
struct End {
    mux: Mux,
    incoming: Option<Incoming>,
    ended: tokio::task::JoinHandle<String>,
}

fn end(tracker: &TaskTracker, io: DuplexStream, side: Side) -> End {
    let (mux, incoming, mut driver) = mux::new(io, Inbox::default(), side, SESSION, LIMITS);
    End {
        mux,
        incoming: Some(incoming),
        ended: tracker.spawn(async move { causes(&driver.run().await) }),
    }
}

impl End {
    async fn accept(&mut self) -> LinkStream {
        within(self.incoming.as_mut().unwrap().accept())
            .await
            .expect("session over")
            .1
    }

    async fn why(self) -> String {
        within(self.ended).await.unwrap()
    }
}

fn pair(tracker: &TaskTracker) -> (End, End) {
    // Smaller than a frame, so that every frame is cut.
    let (a, b) = tokio::io::duplex(1000);
    (end(tracker, a, Side::Host), end(tracker, b, Side::Guest))
}

/// The host's end against a peer by hand.
fn against_bytes(tracker: &TaskTracker) -> (End, DuplexStream) {
    let (a, b) = tokio::io::duplex(1 << 20);
    (end(tracker, a, Side::Host), b)
}

fn tcp() -> FlowHeader {
    FlowHeader::new(FlowKind::Tcp, "10.0.0.1:80").unwrap()
}

fn window() -> usize {
    usize::try_from(INITIAL_CREDIT).unwrap()
}

async fn text(stream: &mut LinkStream) -> std::io::Result<String> {
    let mut text = String::new();
    within(stream.read_to_string(&mut text)).await?;
    Ok(text)
}

#[tokio::test]
async fn one_direction_may_end_before_the_other() {
    let tracker = TaskTracker::new();
    let (host, mut guest) = pair(&tracker);
    let mut ours = host.mux.open(&tcp()).unwrap();
    ours.write_all(b"question").await.unwrap();
    ours.shutdown().await.unwrap();
    let mut theirs = guest.accept().await;
    assert_eq!(text(&mut theirs).await.unwrap(), "question");
    theirs.write_all(b"answer").await.unwrap();
    theirs.shutdown().await.unwrap();
    assert_eq!(text(&mut ours).await.unwrap(), "answer");
    assert_eq!(
        ours.write(b"x").await.unwrap_err().kind(),
        ErrorKind::BrokenPipe
    );
}

#[tokio::test]
async fn a_reset_is_an_error_even_for_a_reader_that_has_shut_down_its_own_side() {
    let tracker = TaskTracker::new();
    let (host, mut guest) = pair(&tracker);
    let mut ours = host.mux.open(&tcp()).unwrap();
    ours.write_all(b"question").await.unwrap();
    ours.shutdown().await.unwrap();
    let mut theirs = guest.accept().await;
    theirs.write_all(b"half an ans").await.unwrap();
    assert_eq!(text(&mut theirs).await.unwrap(), "question");
    theirs.reset(ResetCode::Unreachable);
    assert_eq!(
        text(&mut ours).await.unwrap_err().kind(),
        ErrorKind::HostUnreachable
    );
}

#[tokio::test]
async fn dropping_a_stream_that_is_not_over_resets_it() {
    let tracker = TaskTracker::new();
    let (host, mut guest) = pair(&tracker);
    let mut ours = host.mux.open(&tcp()).unwrap();
    ours.write_all(b"x").await.unwrap();
    drop(guest.accept().await);
    assert_eq!(
        text(&mut ours).await.unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
    let error = within(async {
        loop {
            if let Err(error) = ours.write_all(b"more").await {
                return error;
            }
        }
    });
    assert_eq!(error.await.kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_lost_carrier_is_an_error_and_never_an_end_of_file() {
    let tracker = TaskTracker::new();
    let (host, mut peer) = against_bytes(&tracker);
    let mut stream = host.mux.open(&tcp()).unwrap();
    peer.write_all(&frame(2, 1, b"par")).await.unwrap();
    let mut part = [0; 3];
    within(stream.read_exact(&mut part)).await.unwrap();
    drop(peer);
    let error = text(&mut stream).await.unwrap_err();
    assert_eq!(
        (error.kind(), &part),
        (ErrorKind::ConnectionAborted, b"par")
    );
    assert_eq!(host.mux.open(&tcp()).unwrap_err(), OpenError::Over);
    assert_eq!(host.why().await, "the other end hung up");
}

#[tokio::test]
async fn bulk_in_both_directions_of_many_streams_arrives_whole() {
    const BYTES: usize = 400_000;
    let tracker = TaskTracker::new();
    let (host, mut guest) = pair(&tracker);
    let pattern = |seed: usize| (0..BYTES).map(move |at| (at * 31 + seed).to_be_bytes()[7]);
    let mut ends = Vec::new();
    for seed in 0..4 {
        let ours = host.mux.open(&tcp()).unwrap();
        ends.push((seed, ours));
        ends.push((seed, guest.accept().await));
    }
    let transfers = ends.into_iter().map(|(seed, stream)| {
        tracker.spawn(async move {
            let (mut read, mut write) = tokio::io::split(stream);
            let bytes: Vec<u8> = pattern(seed).collect();
            let mut received = Vec::new();
            let send = async {
                write.write_all(&bytes).await?;
                write.shutdown().await
            };
            let (sending, receiving) = tokio::join!(send, read.read_to_end(&mut received));
            sending.and(receiving).unwrap();
            assert!(received == bytes, "stream {seed} differs");
        })
    });
    for transfer in transfers.collect::<Vec<_>>() {
        within(transfer).await.unwrap();
    }
}

#[tokio::test]
async fn a_reader_that_does_not_read_stops_its_own_stream_only() {
    let tracker = TaskTracker::new();
    let (host, mut guest) = pair(&tracker);
    let mut stuck = host.mux.open(&tcp()).unwrap();
    let _unread = guest.accept().await;
    let window = window();
    within(stuck.write_all(&vec![0; window])).await.unwrap();
    let mut other = host.mux.open(&tcp()).unwrap();
    let reading = tracker.spawn(async move {
        let mut peer = guest.accept().await;
        let mut read = Vec::new();
        peer.read_to_end(&mut read)
            .await
            .map(|_| (read.len(), guest))
    });
    let writing = async {
        other.write_all(&vec![1; 3 * window]).await.unwrap();
        other.shutdown().await.unwrap();
        within(reading).await.unwrap().unwrap()
    };
    tokio::select! {
        biased;
        _ = stuck.write_all(b"beyond") => panic!("written beyond the credit"),
        (count, _guest) = writing => assert_eq!(count, 3 * window),
    }
}

#[tokio::test]
async fn streams_beyond_the_limit_are_refused_and_room_comes_back() {
    let tracker = TaskTracker::new();
    let (host, mut guest) = pair(&tracker);
    let mut open: Vec<_> = (0..LIMITS.own_streams)
        .map(|_| host.mux.open(&tcp()).unwrap())
        .collect();
    assert_eq!(
        host.mux.open(&tcp()).unwrap_err(),
        OpenError::TooMany(LIMITS.own_streams)
    );
    // The peer takes fewer: the rest is reset.
    for stream in &mut open[LIMITS.peer_streams..] {
        assert_eq!(
            text(stream).await.unwrap_err().to_string(),
            ResetCode::TooMany.to_string()
        );
    }
    open.clear();
    let mut again = host.mux.open(&tcp()).unwrap();
    again.write_all(b"new").await.unwrap();
    again.shutdown().await.unwrap();
    // Streams that are reset before anybody accepts them vanish; the accepted ones are errors.
    let first_whole = async {
        loop {
            if let Ok(read) = text(&mut guest.accept().await).await {
                return read;
            }
        }
    };
    assert_eq!(within(first_whole).await, "new");
}

#[tokio::test]
async fn whoever_accepts_no_streams_refuses_each() {
    let tracker = TaskTracker::new();
    let (host, mut guest) = pair(&tracker);
    let mut early = host.mux.open(&tcp()).unwrap();
    early.write_all(b"x").await.unwrap();
    let mut taken = guest.accept().await;
    let mut waiting = host.mux.open(&tcp()).unwrap();
    drop(guest.incoming.take());
    assert_eq!(
        text(&mut waiting).await.unwrap_err().kind(),
        ErrorKind::Unsupported
    );
    let mut late = host.mux.open(&tcp()).unwrap();
    assert_eq!(
        text(&mut late).await.unwrap_err().kind(),
        ErrorKind::Unsupported
    );
    assert_eq!(within(taken.read_u8()).await.unwrap(), b'x');
}

#[tokio::test]
async fn bye_leaves_after_everything_that_was_written() {
    let tracker = TaskTracker::new();
    let (host, mut guest) = pair(&tracker);
    let mut ours = host.mux.open(&tcp()).unwrap();
    ours.write_all(&[7; 5000]).await.unwrap();
    ours.shutdown().await.unwrap();
    host.mux.say_bye();
    let mut theirs = guest.accept().await;
    assert_eq!(text(&mut theirs).await.unwrap().len(), 5000);
    assert_eq!(guest.why().await, "the other end said good-bye");
    assert_eq!(host.why().await, "the link was shut down");
}

#[tokio::test]
async fn every_breach_of_the_rules_ends_the_session_by_its_name() {
    let all = vec![0; window()];
    let beyond = vec![0; MAX_PAYLOAD];
    for (bytes, expected) in [
        (frame(0, 1, b""), "frame kind 0x00 does not exist"),
        (
            vec![2, 7, 0, 1, 0, 0, 0, 1, 0],
            "a frame of kind Data cannot have a payload of 458753 bytes",
        ),
        (
            frame(2, 1, b""),
            "a frame of kind Data cannot have a payload of 0 bytes",
        ),
        (
            frame(4, 0, b""),
            "a frame of kind Fin cannot be about stream 0",
        ),
        (frame(1, 3, b"\x02a"), "stream 3 was opened out of turn"),
        (
            [frame(1, 4, b"\x02a"), frame(1, 2, b"\x02a")].concat(),
            "stream 2 was opened out of turn",
        ),
        (frame(2, 3, b"x"), "stream 3 was never opened"),
        (frame(2, 2, b"x"), "stream 2 was never opened"),
        (
            [frame(2, 1, &all), frame(2, 1, b"xy")].concat(),
            "2 bytes beyond the credit of stream 1",
        ),
        (
            frame(2, 1, &beyond),
            "57344 bytes beyond the credit of stream 1",
        ),
        (
            [frame(4, 1, b""), frame(2, 1, b"x")].concat(),
            "more frames on stream 1 after its FIN",
        ),
        (
            [frame(4, 1, b""), frame(4, 1, b"")].concat(),
            "more frames on stream 1 after its FIN",
        ),
        (
            frame(3, 1, &[0; 4]),
            "credit of stream 1 was changed by nothing, or by too much",
        ),
        (
            frame(3, 1, &[0xff; 4]),
            "credit of stream 1 was changed by nothing, or by too much",
        ),
        (
            frame(8, 1, &[0; 4]),
            "credit of stream 1 was changed by nothing, or by too much",
        ),
        (
            frame(8, 1, &[0, 0, 0x20, 1]),
            "credit of stream 1 was changed by nothing, or by too much",
        ),
        (
            frame(7, 1, b"x"),
            "a frame of kind Recall cannot have a payload of 1 bytes",
        ),
        (
            frame(1, 2, b"\x02\xff"),
            "stream 2 was opened wrongly: the address of a stream is not printable text",
        ),
        (
            vec![0xb5; 64],
            "a greeting in the middle of the session that is damaged or not the peer's to send",
        ),
    ] {
        let tracker = TaskTracker::new();
        let (host, mut peer) = against_bytes(&tracker);
        let _stream = host.mux.open(&tcp()).unwrap();
        peer.write_all(&bytes).await.unwrap();
        assert_eq!(
            host.why().await,
            format!("the other end broke the protocol: {expected}")
        );
    }
}

#[tokio::test]
async fn frames_that_were_under_way_to_a_stream_that_is_gone_are_void() {
    let tracker = TaskTracker::new();
    let (mut host, mut peer) = against_bytes(&tracker);
    drop(host.mux.open(&tcp()).unwrap());
    peer.write_all(&frame(1, 2, b"\x02a")).await.unwrap();
    drop(host.accept().await);
    for id in [1, 2] {
        for late in [
            frame(2, id, b"late"),
            frame(3, id, &[0, 0, 0, 1]),
            frame(4, id, b""),
            frame(5, id, b"\0\x01"),
        ] {
            peer.write_all(&late).await.unwrap();
        }
    }
    peer.write_all(&frame(6, 0, b"")).await.unwrap();
    assert_eq!(host.why().await, "the other end said good-bye");
}

#[tokio::test]
async fn a_stream_of_a_later_version_is_refused_and_the_session_lives() {
    let tracker = TaskTracker::new();
    let (_host, mut peer) = against_bytes(&tracker);
    peer.write_all(&frame(1, 2, b"\x63new")).await.unwrap();
    let mut answer = [0; HEADER_LEN + 2];
    within(peer.read_exact(&mut answer)).await.unwrap();
    assert_eq!(answer[..], frame(5, 2, &[0, 5]));
}

#[tokio::test]
async fn a_peer_that_causes_answers_and_reads_none_is_no_longer_read() {
    let tracker = TaskTracker::new();
    let (_host, mut peer) = against_bytes(&tracker);
    // Each of these is answered by a reset. 2 MiB of answers would have to be kept.
    let flood = (1..200_000u32).flat_map(|n| frame(1, 2 * n, b"\x63"));
    let flood: Vec<u8> = flood.collect();
    let mut written = 0;
    // The pipe holds 1 MiB each way; then the host must have stopped reading.
    let stuck = async {
        while written < flood.len() {
            written += peer.write(&flood[written..]).await.unwrap();
        }
    };
    tokio::select! {
        biased;
        () = stuck => {}
        () = idle() => {}
    }
    // 10 bytes of answer for 9 of question: 1 MiB in the pipe, 320 KiB in the host, 1 MiB in the other pipe.
    assert!(written < 2_500_000, "{written} bytes were taken");
    assert!(written > 1_000_000, "{written} bytes were taken");
}

/// Lets every other task run until all of them wait.
async fn idle() {
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever comes: an end with a reason, or patience; never a panic. Debug builds check arithmetic too.
    #[test]
    fn no_bytes_make_it_panic(frames in proptest::collection::vec(any_frame(), 0..60), cut in any::<prop::sample::Index>()) {
        let bytes = frames.concat();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let tracker = TaskTracker::new();
            let (mut host, mut peer) = against_bytes(&tracker);
            let mut streams: Vec<_> = (0..3).map(|_| host.mux.open(&tcp()).unwrap()).collect();
            drop(streams.pop());
            peer.write_all(&bytes[..cut.index(bytes.len() + 1)]).await.unwrap();
            peer.shutdown().await.unwrap();
            let mut incoming = host.incoming.take().unwrap();
            while let Some((_, mut stream)) = within(incoming.accept()).await {
                let _ = stream.read(&mut [0; 64]).await;
                streams.push(stream);
            }
            prop_assert!(!host.why().await.is_empty());
            Ok(())
        })?;
    }
}

/// Frames that are nearly right, so that the checks behind the first one are reached.
fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let id = prop_oneof![0..8u32, any::<u32>()];
    let payload = prop_oneof![
        Just(vec![]),
        Just(vec![0, 1]),
        any::<u32>().prop_map(|credit| credit.to_be_bytes().to_vec()),
        proptest::collection::vec(any::<u8>(), 0..40),
        Just(b"\x02127.0.0.1:80".to_vec()),
        Just(vec![0; MAX_PAYLOAD]),
    ];
    prop_oneof![
        8 => (0..10u8, id, payload).prop_map(|(kind, id, payload)| frame(kind, id, &payload)),
        1 => proptest::collection::vec(any::<u8>(), 0..20),
    ]
}
