//! The host's end against a guest by hand.

#![allow(clippy::unwrap_used, reason = "tests only")]

mod support;

use std::io;
use std::time::Duration;

use berth_link::event::{GuestEvent, Request};
use berth_link::frame::FrameKind;
use berth_link::hello::{Ack, Greeting, SessionId};
use berth_link::host::{LinkError, LinkState};
use support::{
    BOOT, Host, RawGuest, ack, frame, line_message, message, snapshot_message, stage_message,
    within,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout};

/// A host and the guest's end of its first carrier.
fn begin() -> (Host, RawGuest) {
    let host = Host::start();
    let guest = RawGuest(host.carriers.add_pipe());
    (host, guest)
}

/// A host in a session.
async fn in_session() -> (Host, RawGuest) {
    let (mut host, mut guest) = begin();
    guest.join().await;
    assert_eq!(host.up().await, 1);
    assert_eq!(host.snapshot().await.boot_id, BOOT);
    (host, guest)
}

#[tokio::test]
async fn whatever_an_earlier_peer_left_behind_is_discarded() {
    let (mut host, mut guest) = begin();
    let hello = guest.hello().await;
    let mut stale = b"login: \xb5berth\r\n".to_vec();
    let mut old = hello;
    old.session = SessionId([1; 16]);
    stale.extend(ack(old));
    stale.extend(frame(2, 1, &snapshot_message()));
    stale.extend(&frame(2, 1, &[0xb5; 9000])[..5000]);
    // An echo, as a terminal in the way would make it, and an ACK that was damaged.
    stale.extend(Greeting::Hello(hello).encode());
    let mut damaged = ack(hello);
    damaged[30] ^= 1;
    stale.extend(damaged);
    guest.send(&stale).await;
    guest.ack(hello).await;
    guest.opening().await;
    guest.send(&frame(2, 1, &snapshot_message())).await;
    host.up().await;
    host.snapshot().await;
}

#[tokio::test]
async fn a_knock_during_the_greeting_repeats_the_same_hello() {
    let (mut host, mut guest) = begin();
    let first = guest.hello().await;
    guest.send(&Greeting::Knock.encode()).await;
    assert_eq!(guest.hello().await, first);
    guest.ack(first).await;
    host.up().await;
}

#[tokio::test]
async fn a_knock_and_an_answer_in_one_piece_are_both_seen() {
    let (mut host, mut guest) = begin();
    let hello = guest.hello().await;
    guest
        .send(&[Greeting::Knock.encode(), ack(hello)].concat())
        .await;
    assert_eq!(guest.hello().await, hello);
    host.up().await;
}

#[tokio::test(start_paused = true)]
async fn a_guest_agent_that_starts_anew_gets_a_new_session_at_once() {
    let (mut host, mut guest) = in_session().await;
    let before = Instant::now();
    let mut next = RawGuest(host.carriers.add_pipe());
    guest.send(&Greeting::Knock.encode()).await;
    assert_eq!(host.down().await, "the guest agent started anew");
    assert!(guest.at_end().await);
    next.join().await;
    assert_eq!(host.up().await, 2);
    assert_eq!(before.elapsed(), Duration::ZERO);
}

#[tokio::test]
async fn every_session_has_an_id_of_its_own_and_the_old_ones_bytes_do_not_reach_it() {
    let (mut host, mut guest) = begin();
    let first = guest.join().await;
    host.up().await;
    host.snapshot().await;
    let mut next = RawGuest(host.carriers.add_pipe());
    drop(guest);
    assert_eq!(host.down().await, "the other end hung up");
    let second = next.hello().await;
    assert_ne!(first.session, second.session);
    // What the guest had sent into the first session, cut anywhere, comes out of the second carrier.
    let old = [
        frame(2, 1, &stage_message(1)),
        frame(2, 1, &line_message("old")),
    ]
    .concat();
    next.send(&ack(first)).await;
    next.send(&old[3..]).await;
    next.ack(second).await;
    next.opening().await;
    next.send(&frame(2, 1, &snapshot_message())).await;
    assert_eq!(host.up().await, 2);
    host.snapshot().await;
    next.send(&frame(2, 1, &stage_message(2))).await;
    let GuestEvent::Stage(stage) = host.guest_event().await else {
        panic!("no stage");
    };
    assert_eq!(stage.uptime, Duration::from_millis(2));
}

#[tokio::test(start_paused = true)]
async fn silence_inside_a_frame_or_a_message_ends_the_session() {
    let whole = frame(2, 1, &stage_message(1));
    for half in [
        &whole[..3],
        &whole[..whole.len() - 1],
        &frame(2, 1, &message(b"\x12\x04")[..5]),
    ] {
        let (mut host, mut guest) = in_session().await;
        let before = Instant::now();
        guest.send(half).await;
        let reason = host.down().await;
        assert_eq!(
            reason,
            "the other end stopped in the middle of a frame for 5s"
        );
        assert_eq!(before.elapsed().as_secs(), 5);
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_frame_is_not_silence() {
    let (mut host, mut guest) = in_session().await;
    for byte in frame(2, 1, &stage_message(1)) {
        guest.send(&[byte]).await;
        tokio::time::sleep(Duration::from_secs(4)).await;
    }
    assert!(matches!(host.guest_event().await, GuestEvent::Stage(_)));
}

#[tokio::test(start_paused = true)]
async fn a_link_on_which_nothing_happens_holds_no_timer() {
    let (host, mut guest) = begin();
    guest.hello().await;
    let hour = Duration::from_secs(3600);
    assert!(
        timeout(hour, guest.0.read_u8()).await.is_err(),
        "the host repeated its HELLO"
    );
    assert_eq!(
        (host.carriers.asked().len(), host.link.state()),
        (1, LinkState::Greeting)
    );

    let (host, mut guest) = in_session().await;
    assert!(
        timeout(hour, guest.0.read_u8()).await.is_err(),
        "the host spoke by itself"
    );
    assert_eq!(host.link.state(), LinkState::Up { generation: 1 });
}

#[tokio::test]
async fn what_no_guest_agent_says_ends_the_session_by_its_name() {
    let long = [&[0, 1, 0, 1][..], &[0; 100]].concat();
    let other_boot = message(&[&[0x0a, 0x12, 0x0a, 0x10][..], &[9; 16]].concat());
    let short_boot = message(&[0x0a, 0x03, 0x0a, 0x01, 0x00]);
    let kernel = message(b"\x0a\x17\x0a\x10................\x12\x03a\x1bb");
    let step = message(b"\x1a\x05\x0a\x01a\x10\x07");
    for (bytes, expected) in [
        (long, "a control message of 65537 bytes, more than 65536"),
        (
            vec![0xff; 4],
            "a control message of 4294967295 bytes, more than 65536",
        ),
        (
            message(b"\x0a\x01"),
            "a control message that cannot be decoded: ",
        ),
        (
            other_boot,
            "field snapshot.boot_id of a control message differs from the one in the ACK",
        ),
        (
            short_boot,
            "field snapshot.boot_id of a control message has 1 bytes, not 16",
        ),
        (
            kernel,
            "field snapshot.kernel of a control message is not printable ASCII",
        ),
        (
            step,
            "field step.outcome of a control message is 7, which is no outcome",
        ),
    ] {
        let (mut host, mut guest) = in_session().await;
        guest.send(&frame(2, 1, &bytes)).await;
        let reason = host.down().await;
        let expected = format!("the other end sent a bad message: {expected}");
        assert!(
            reason.starts_with(&expected),
            "{reason} instead of {expected}"
        );
    }
}

#[tokio::test]
async fn the_control_stream_lives_as_long_as_its_session() {
    for end in [frame(4, 1, b""), frame(5, 1, &[0, 1])] {
        let (mut host, mut guest) = in_session().await;
        guest.send(&end).await;
        let expected =
            "the other end sent a bad message: the control stream ended before the session did";
        assert_eq!(host.down().await, expected);
    }
}

#[tokio::test]
async fn a_session_begins_with_a_snapshot_or_not_at_all() {
    let (mut host, mut guest) = begin();
    let hello = guest.hello().await;
    guest.ack(hello).await;
    guest.opening().await;
    guest.send(&frame(2, 1, &stage_message(1))).await;
    host.up().await;
    let expected =
        "the other end sent a bad message: the control stream did not begin with a snapshot";
    assert_eq!(host.down().await, expected);
}

#[tokio::test]
async fn messages_of_a_later_version_are_ignored() {
    let (mut host, mut guest) = in_session().await;
    for unknown in [&b"\x7a\x01x"[..], b"\x12\x02\x08\x63", b""] {
        guest.send(&frame(2, 1, &message(unknown))).await;
    }
    guest.send(&frame(2, 1, &stage_message(1))).await;
    assert!(matches!(host.guest_event().await, GuestEvent::Stage(_)));
}

#[tokio::test]
async fn a_guest_of_another_version_is_named() {
    let (host, mut guest) = begin();
    let hello = guest.hello().await;
    let later = Greeting::Ack(Ack {
        version: 2,
        session: hello.session,
        boot_id: BOOT,
        agent_version: "9".into(),
    });
    guest.send(&later.encode()).await;
    assert!(guest.at_end().await);
    let failure = "the guest agent speaks version 2 of the link protocol, this host up to 1";
    let failure = Some(failure.to_owned());
    assert_eq!(host.link.state(), LinkState::Connecting { failure });
}

#[tokio::test]
async fn endless_garbage_is_not_scanned_for_ever() {
    let (_host, mut guest) = begin();
    guest.hello().await;
    let mut sent: u64 = 0;
    // Until the host hangs up.
    while within(guest.0.write_all(&[b'x'; 4096])).await.is_ok() {
        sent += 4096;
        assert!(sent < 16 << 20, "the host is still reading");
    }
    assert!(sent >= 8 << 20);
}

#[tokio::test]
async fn a_guest_may_not_open_streams_and_the_session_lives() {
    let (mut host, mut guest) = in_session().await;
    guest.send(&frame(1, 2, b"\x02127.0.0.1:22")).await;
    let (reset, code) = guest.frame().await;
    assert_eq!(
        (reset.kind, reset.stream, &code[..]),
        (FrameKind::Reset, 2, &[0, 5][..])
    );
    guest.send(&frame(2, 1, &stage_message(1))).await;
    assert!(matches!(host.guest_event().await, GuestEvent::Stage(_)));
}

#[tokio::test]
async fn a_flood_of_lines_past_a_slow_reader_drops_the_oldest_and_loses_no_stage() {
    const LINES: u64 = 10_000;
    let (mut host, guest) = begin();
    let tracker = host.tracker.clone();
    let mut control = guest.join_with_mux(&tracker).await;
    for number in 0..LINES {
        if number % 1000 == 0 {
            let uptime = u8::try_from(number / 1000 + 1).unwrap();
            within(control.write_all(&stage_message(uptime)))
                .await
                .unwrap();
        }
        within(control.write_all(&line_message(&format!("line {number}"))))
            .await
            .unwrap();
    }
    within(control.write_all(&stage_message(127)))
        .await
        .unwrap();
    // Nothing was read until now.
    host.up().await;
    host.snapshot().await;
    let (mut lines, mut dropped, mut stages) = (0, 0, Vec::new());
    while stages.last() != Some(&127) {
        match host.guest_event().await {
            GuestEvent::CloudInit(progress) => {
                lines += 1;
                dropped += progress.dropped;
            }
            GuestEvent::Stage(stage) => stages.push(stage.uptime.as_millis()),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(lines + dropped, LINES);
    assert!(lines < 1000, "{lines} lines were kept");
    assert_eq!(stages, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 127]);
}

#[tokio::test]
async fn a_flood_that_may_not_be_dropped_makes_the_guest_wait() {
    let (mut host, guest) = begin();
    let tracker = host.tracker.clone();
    let mut control = guest.join_with_mux(&tracker).await;
    let flood = async {
        let mut sent = 0u32;
        loop {
            control.write_all(&stage_message(1)).await.unwrap();
            sent += 1;
            tokio::task::yield_now().await;
            if sent == 100_000 {
                return;
            }
        }
    };
    tokio::select! {
        biased;
        () = flood => panic!("100,000 stages were taken and nobody read them"),
        () = async { for _ in 0..20_000 { tokio::task::yield_now().await } } => {}
    }
    host.up().await;
    host.snapshot().await;
    assert!(matches!(host.guest_event().await, GuestEvent::Stage(_)));
}

#[tokio::test(start_paused = true)]
async fn requests_end_by_answer_by_deadline_or_with_the_session() {
    let (host, mut guest) = in_session().await;
    let link = &host.link;
    let answers = async {
        let (_, request) = guest.frame().await;
        assert_eq!(request, message(b"\x12\x04\x08\x01\x1a\x00"));
        guest
            .send(&frame(2, 1, &message(b"\x2a\x02\x08\x63")))
            .await;
        guest
            .send(&frame(2, 1, &message(b"\x2a\x02\x08\x01")))
            .await;
    };
    let (answer, ()) = tokio::join!(link.request(Request::Sync), answers);
    assert_eq!(answer, Ok(Ok(())));

    let before = Instant::now();
    let late = link.request(Request::Ping).await.unwrap_err();
    assert_eq!(
        late.to_string(),
        "the guest agent did not answer Ping within 3s"
    );
    assert_eq!(before.elapsed().as_secs(), 3);
    // The late answer changes nothing.
    guest
        .send(&frame(2, 1, &message(b"\x2a\x02\x08\x02")))
        .await;

    let (lost, ()) = tokio::join!(link.request(Request::Sync), async {
        guest.frame().await;
        guest.frame().await;
        drop(guest);
    });
    assert_eq!(lost, Err(LinkError::Lost(Request::Sync)));
    assert_eq!(link.request(Request::Ping).await, Err(LinkError::Down));
}

#[tokio::test(start_paused = true)]
async fn requests_beyond_the_limit_are_refused_at_once() {
    let (host, _guest) = in_session().await;
    let before = Instant::now();
    let mut requests = futures_util::stream::FuturesUnordered::new();
    for _ in 0..40 {
        requests.push(host.link.request(Request::Ping));
    }
    let mut refused = 0;
    while before.elapsed() < Duration::from_secs(1) {
        let next = futures_util::StreamExt::next(&mut requests);
        match timeout(Duration::from_secs(1), next).await {
            Ok(Some(answer)) => {
                assert_eq!(answer, Err(LinkError::Busy));
                refused += 1;
            }
            Ok(None) => panic!("all were refused"),
            Err(_) => break,
        }
    }
    assert_eq!(refused, 8);
}

#[tokio::test(start_paused = true)]
async fn a_kick_repeats_the_hello_and_checks_a_session() {
    let (mut host, mut guest) = begin();
    let hello = guest.hello().await;
    host.link.kick();
    assert_eq!(guest.hello().await, hello);
    guest.ack(hello).await;
    guest.opening().await;
    guest.send(&frame(2, 1, &snapshot_message())).await;
    host.up().await;
    host.snapshot().await;

    host.link.kick();
    let (_, ping) = guest.frame().await;
    assert_eq!(ping, message(b"\x12\x04\x08\x01\x22\x00"));
    guest
        .send(&frame(2, 1, &message(b"\x2a\x02\x08\x01")))
        .await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(host.link.state(), LinkState::Up { generation: 1 });

    host.link.kick();
    let before = Instant::now();
    assert_eq!(
        host.down().await,
        "the guest agent did not answer Ping within 3s"
    );
    assert_eq!(before.elapsed().as_secs(), 3);
}

#[tokio::test(start_paused = true)]
async fn attempts_slow_down_and_a_kick_ends_the_pause() {
    let host = Host::start();
    for _ in 0..9 {
        host.carriers
            .add_failure(io::ErrorKind::ConnectionRefused.into());
    }
    tokio::time::sleep(Duration::from_secs(30)).await;
    let asked = host.carriers.asked();
    let pauses: Vec<_> = asked
        .windows(2)
        .map(|pair| (pair[1] - pair[0]).as_millis())
        .collect();
    assert_eq!(pauses, [0, 50, 100, 200, 400, 800, 1600, 2000, 2000]);

    let failure = Some("could not connect to the carrier: connection refused".to_owned());
    assert_eq!(host.link.state(), LinkState::Connecting { failure });
    host.carriers
        .add_failure(io::ErrorKind::ConnectionRefused.into());
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    let before = Instant::now();
    host.link.kick();
    let mut guest = RawGuest(host.carriers.add_pipe());
    guest.hello().await;
    assert_eq!(before.elapsed(), Duration::ZERO);
}

#[tokio::test]
async fn a_link_that_is_shut_down_says_bye_and_leaves_nothing() {
    let (mut host, mut guest) = in_session().await;
    host.cancel.cancel();
    let (bye, _) = guest.frame().await;
    assert_eq!((bye.kind, bye.stream), (FrameKind::Bye, 0));
    assert!(guest.at_end().await);
    host.tracker.close();
    within(host.tracker.wait()).await;
    assert!(host.events.recv().await.is_none());
    assert_eq!(
        host.link.request(Request::Ping).await,
        Err(LinkError::Stopped)
    );
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_does_not_read_does_not_keep_the_host() {
    let host = Host::start();
    let (io, guest) = tokio::io::duplex(64);
    host.carriers.add(io);
    let mut guest = RawGuest(guest);
    let hello = guest.hello().await;
    guest.ack(hello).await;
    guest.frame().await;
    host.cancel.cancel();
    host.tracker.close();
    within(host.tracker.wait()).await;
}

#[tokio::test]
async fn a_link_whose_events_nobody_reads_any_more_ends() {
    for join in [false, true] {
        let (host, mut guest) = begin();
        if join {
            guest.join().await;
        } else {
            guest.hello().await;
        }
        drop(host.events);
        host.tracker.close();
        within(host.tracker.wait()).await;
    }
}
