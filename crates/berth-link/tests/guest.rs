//! The guest's end against a host by hand.

#![allow(clippy::unwrap_used, reason = "tests only")]

mod support;

use std::sync::Arc;
use std::time::Duration;

use berth_link::frame::{FrameHeader, FrameKind, HEADER_LEN};
use berth_link::guest::{Arrival, Board, serve_carrier};
use berth_link::hello::{Ack, GREETING_LEN, Greeting, Hello, MAGIC, SessionId, VERSION};
use support::{Noted, ack, board, frame, message, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// A host by hand, and the guest that it talks to.
struct RawHost {
    io: DuplexStream,
    board: Board,
    duties: Arc<Noted>,
    tracker: TaskTracker,
    cancel: CancellationToken,
    _stop: DropGuard,
}

/// What a guest may send.
#[derive(Debug)]
enum Sent {
    Greeting(Greeting),
    Frame(FrameKind, u32, Vec<u8>),
}

impl RawHost {
    fn new(arrival: Arrival, pipe: usize, duties: Noted) -> Self {
        let (io, guest) = tokio::io::duplex(pipe);
        let (board, duties) = (board(), Arc::new(duties));
        let (tracker, cancel) = (TaskTracker::new(), CancellationToken::new());
        let (serving, noted, stop) = (board.clone(), duties.clone(), cancel.clone());
        tracker.spawn(async move { serve_carrier(guest, arrival, &serving, &*noted, &stop).await });
        Self {
            io,
            board,
            duties,
            tracker,
            _stop: cancel.clone().drop_guard(),
            cancel,
        }
    }

    async fn send(&mut self, bytes: &[u8]) {
        within(self.io.write_all(bytes))
            .await
            .expect("the guest hung up");
    }

    async fn next(&mut self) -> Sent {
        let mut head = [0; HEADER_LEN];
        within(self.io.read_exact(&mut head))
            .await
            .expect("the guest hung up");
        if head == MAGIC {
            let mut frame = [0; GREETING_LEN];
            frame[..HEADER_LEN].copy_from_slice(&head);
            within(self.io.read_exact(&mut frame[HEADER_LEN..]))
                .await
                .unwrap();
            return Sent::Greeting(Greeting::decode(&frame).expect("a whole greeting"));
        }
        let header = FrameHeader::decode(head).expect("a frame or a greeting");
        let mut payload = vec![0; header.length];
        within(self.io.read_exact(&mut payload)).await.unwrap();
        Sent::Frame(header.kind, header.stream, payload)
    }

    async fn greeting(&mut self) -> Greeting {
        match self.next().await {
            Sent::Greeting(greeting) => greeting,
            other @ Sent::Frame(..) => panic!("expected a greeting, got {other:?}"),
        }
    }

    /// The next control message; credit is given back on the way.
    async fn message(&mut self) -> Vec<u8> {
        loop {
            match self.next().await {
                Sent::Frame(FrameKind::Data, 1, payload) => return payload,
                Sent::Frame(FrameKind::Credit, 1, _) => {}
                other => panic!("expected a message, got {other:?}"),
            }
        }
    }

    /// Begins a session, as far as the snapshot.
    async fn join(&mut self, id: u8) -> Hello {
        let hello = hello(id);
        self.send(&Greeting::Hello(hello).encode()).await;
        assert!(is_ack_of(&self.greeting().await, hello));
        self.send(&frame(1, 1, b"\x01")).await;
        let snapshot = self.message().await;
        assert_eq!(snapshot[4], 0x0a, "{snapshot:02x?}");
        hello
    }
}

fn hello(id: u8) -> Hello {
    Hello {
        version: VERSION,
        session: SessionId([id; 16]),
    }
}

fn is_ack_of(greeting: &Greeting, hello: Hello) -> bool {
    matches!(greeting, Greeting::Ack(Ack { session, .. }) if *session == hello.session)
}

/// A guest in its first session.
async fn in_session() -> RawHost {
    let mut host = RawHost::new(Arrival::Quiet, 64 * 1024, Noted::default());
    host.join(1).await;
    host
}

fn request(id: u8, kind: u8) -> Vec<u8> {
    frame(2, 1, &message(&[0x12, 4, 0x08, id, kind, 0]))
}

const FOLLOW: u8 = 0x12;
const SYNC: u8 = 0x1a;
const PING: u8 = 0x22;

#[tokio::test]
async fn a_hello_is_found_behind_anything() {
    let mut host = RawHost::new(Arrival::Quiet, 64 * 1024, Noted::default());
    let mut garbage = frame(2, 1, &[7; 3000]);
    garbage.truncate(2000);
    garbage.extend(&Greeting::Hello(hello(7)).encode()[..40]);
    garbage.extend(ack(hello(8)));
    garbage.extend(Greeting::Knock.encode());
    let mut damaged = Greeting::Hello(hello(9)).encode();
    damaged[20] ^= 0x10;
    garbage.extend(damaged);
    host.send(&garbage).await;
    host.join(1).await;
}

#[tokio::test]
async fn an_agent_that_has_just_come_knocks_and_one_that_waits_does_not() {
    let mut host = RawHost::new(Arrival::Knocking, 1024, Noted::default());
    assert_eq!(host.greeting().await, Greeting::Knock);
    host.join(1).await;
    let mut host = RawHost::new(Arrival::Quiet, 1024, Noted::default());
    host.join(1).await;
}

#[tokio::test]
async fn a_repeated_hello_is_answered_once() {
    let mut host = in_session().await;
    let again = Greeting::Hello(hello(1)).encode();
    host.send(&[&again[..], &again, &request(5, PING)].concat())
        .await;
    assert_eq!(host.message().await, message(b"\x2a\x02\x08\x05"));
}

#[tokio::test]
async fn another_hello_begins_another_session_with_all_there_is() {
    let mut host = in_session().await;
    host.board.set_instance_id("changed");
    host.message().await;
    host.join(2).await;
    host.send(&request(5, PING)).await;
    assert_eq!(host.message().await, message(b"\x2a\x02\x08\x05"));
}

#[tokio::test]
async fn a_later_host_is_answered_in_this_version() {
    let mut host = RawHost::new(Arrival::Quiet, 1024, Noted::default());
    let later = Hello {
        version: 7,
        ..hello(1)
    };
    host.send(&Greeting::Hello(later).encode()).await;
    let Greeting::Ack(ack) = host.greeting().await else {
        panic!("no ACK");
    };
    assert_eq!(
        (ack.version, ack.agent_version.as_str()),
        (VERSION, "0.1.0")
    );
}

#[tokio::test(start_paused = true)]
async fn a_hello_that_was_swallowed_by_half_a_frame_is_asked_for_again() {
    let mut host = in_session().await;
    let before = Instant::now();
    // The host died inside a frame, and its successor's HELLO looks like the rest of it.
    host.send(&frame(2, 1, &[7; 3000])[..2000]).await;
    host.send(&Greeting::Hello(hello(2)).encode()).await;
    assert_eq!(host.greeting().await, Greeting::Knock);
    assert_eq!(before.elapsed().as_secs(), 5);
    host.join(2).await;
}

#[tokio::test]
async fn a_guest_that_lost_its_place_knocks_behind_a_whole_frame() {
    // A pipe so narrow that the snapshot is stuck in the middle when the bad frame comes.
    let mut host = RawHost::new(Arrival::Quiet, 100, Noted::default());
    host.send(&Greeting::Hello(hello(1)).encode()).await;
    assert!(is_ack_of(&host.greeting().await, hello(1)));
    host.board.set_host_keys(vec!["ssh-ed25519 ".repeat(100)]);
    host.send(&frame(1, 1, b"\x01")).await;
    tokio::task::yield_now().await;
    host.send(&frame(9, 1, b"")).await;
    loop {
        match host.next().await {
            Sent::Greeting(greeting) => break assert_eq!(greeting, Greeting::Knock),
            Sent::Frame(kind, ..) => assert_eq!(kind, FrameKind::Data),
        }
    }
}

#[tokio::test]
async fn what_no_host_does_ends_the_session_with_a_knock() {
    let long = frame(2, 1, &[&[0, 1, 0, 1][..], &[0; 100]].concat());
    let second = frame(1, 3, b"\x01");
    for bytes in [
        long,
        second,
        frame(4, 1, b""),
        frame(2, 1, &message(b"\x0a\x01")),
    ] {
        let mut host = in_session().await;
        host.send(&bytes).await;
        assert_eq!(host.greeting().await, Greeting::Knock);
        host.join(2).await;
    }
    let mut host = RawHost::new(Arrival::Quiet, 1024, Noted::default());
    host.send(&Greeting::Hello(hello(1)).encode()).await;
    host.greeting().await;
    host.send(&frame(1, 1, b"\x02127.0.0.1:80")).await;
    assert_eq!(host.greeting().await, Greeting::Knock);
}

#[tokio::test]
async fn after_good_bye_the_guest_waits_quietly() {
    let mut host = in_session().await;
    host.send(&frame(6, 0, b"")).await;
    host.join(2).await;
}

#[tokio::test]
async fn requests_are_answered_by_their_id_and_too_many_are_refused() {
    let duties = Noted {
        syncs_never_end: true,
        ..Noted::default()
    };
    let mut host = RawHost::new(Arrival::Quiet, 64 * 1024, duties);
    host.join(1).await;
    for id in 1..=8 {
        host.send(&request(id, SYNC)).await;
    }
    host.send(&request(9, PING)).await;
    assert_eq!(
        host.message().await,
        message(b"\x2a\x1d\x08\x09\x12\x19too many requests at once")
    );
    // Another session starts with free hands.
    host.join(2).await;
    host.send(&request(1, FOLLOW)).await;
    assert_eq!(
        host.message().await,
        message(b"\x2a\x17\x08\x01\x12\x13no\\u{1b} cloud-init")
    );
    host.send(&request(2, 0x7a)).await;
    let unknown = host.message().await;
    assert!(
        unknown.ends_with(b"does not know the request"),
        "{unknown:?}"
    );
}

#[tokio::test]
async fn the_welcome_reaches_the_agent() {
    let mut host = in_session().await;
    host.send(&frame(2, 1, &message(b"\x0a\x06\x08\x80\x94\xeb\xdc\x03")))
        .await;
    host.send(&request(1, PING)).await;
    host.message().await;
    let welcomes = host.duties.welcomes.lock().unwrap();
    assert_eq!(
        welcomes[0].host_time,
        std::time::UNIX_EPOCH + Duration::from_secs(1)
    );
}

#[tokio::test]
async fn a_host_that_does_not_read_costs_no_memory_and_loses_no_stage() {
    const LINES: u64 = 10_000;
    let mut host = in_session().await;
    for number in 0..LINES {
        host.board.cloud_init_line(&format!("line {number}"));
        tokio::task::yield_now().await;
    }
    host.board.reach(
        berth_link::event::Stage::SshListening,
        Duration::from_secs(1),
    );
    host.board.cloud_init_completed();
    // Every line is told or counted, and the last message tells of the end.
    let mut bytes = Vec::new();
    let (mut told, mut stages) = (0, 0);
    let mut consumed = 0;
    'reading: loop {
        let payload = host.message().await;
        consumed += u32::try_from(payload.len()).unwrap();
        if consumed > 8000 {
            host.send(&frame(3, 1, &consumed.to_be_bytes())).await;
            consumed = 0;
        }
        bytes.extend(payload);
        while let Some(prefix) = bytes.first_chunk::<4>() {
            let end = 4 + usize::try_from(u32::from_be_bytes(*prefix)).unwrap();
            if bytes.len() < end {
                break;
            }
            let said: Vec<u8> = bytes.drain(..end).skip(4).collect();
            let message: berth_link::message::GuestMessage =
                prost::Message::decode(&said[..]).unwrap();
            match message.kind.unwrap() {
                berth_link::message::GuestKind::CloudInit(progress) => {
                    told += progress.dropped + u64::from(progress.line.is_some());
                    if progress.completed {
                        break 'reading;
                    }
                }
                berth_link::message::GuestKind::Snapshot(snapshot) => {
                    stages = snapshot.stages.len();
                    let progress = snapshot.cloud_init.unwrap();
                    told += progress.dropped;
                    if progress.completed {
                        break 'reading;
                    }
                }
                berth_link::message::GuestKind::Stage(_) => stages += 1,
                other => panic!("{other:?}"),
            }
        }
    }
    assert_eq!((told, stages), (LINES, 1));
}

#[tokio::test]
async fn an_agent_that_is_told_to_stop_says_bye() {
    let mut host = in_session().await;
    host.cancel.cancel();
    assert!(matches!(
        host.next().await,
        Sent::Frame(FrameKind::Bye, 0, _)
    ));
    host.tracker.close();
    within(host.tracker.wait()).await;
}

#[tokio::test(start_paused = true)]
async fn a_guest_without_a_host_and_one_in_a_quiet_session_hold_no_timer() {
    let hour = Duration::from_secs(3600);
    let mut host = RawHost::new(Arrival::Quiet, 1024, Noted::default());
    assert!(tokio::time::timeout(hour, host.io.read_u8()).await.is_err());
    let mut host = in_session().await;
    assert!(tokio::time::timeout(hour, host.io.read_u8()).await.is_err());
}
