//! The bytes of `docs/guest-link.md` are the bytes that this crate sends.

#![allow(clippy::unwrap_used, reason = "tests only")]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use berth_link::event::{
    GuestSocket, PortInterest, Request, ReverseListener, Stage, StepOutcome, StepReport, Transport,
};
use berth_link::files;
use berth_link::flow::{FlowHeader, FlowKind};
use berth_link::frame::{HEADER_LEN, ResetCode};
use berth_link::guest::{Arrival, serve_carrier};
use berth_link::hello::{Ack, GREETING_LEN, Greeting, Hello, SessionId, VERSION};
use berth_link::mount::{Ask, GuestEnd, HostEnd, MountOrder, Told};
use berth_link::mux::{self, Inbox, Limits, LinkStream, Side};
use berth_link::time;
use support::{BOOT, Host, Noted, RawGuest, board, frame, message, snapshot_message, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const SPECIFICATION: &str = include_str!("../../../docs/guest-link.md");

/// The session of the examples.
const SESSION: SessionId = SessionId([
    0x00, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88, 0x99, 0xaa, 0xbb, 0xcc, 0xdd, 0xee, 0xff,
]);

fn hello() -> Greeting {
    Greeting::Hello(Hello {
        version: VERSION,
        session: SESSION,
    })
}

/// The blocks of the specification that begin with ```` ```golden NAME ````.
fn specified() -> BTreeMap<String, Vec<u8>> {
    let mut blocks = BTreeMap::new();
    let mut rest = SPECIFICATION;
    while let Some((_, after)) = rest.split_once("```golden ") {
        let (block, after) = after.split_once("```").unwrap();
        let (name, hex) = block.split_once('\n').unwrap();
        let bytes = hex
            .split_whitespace()
            .map(|byte| u8::from_str_radix(byte, 16).unwrap());
        assert!(
            blocks.insert(name.to_owned(), bytes.collect()).is_none(),
            "{name} twice"
        );
        rest = after;
    }
    blocks
}

fn as_block(bytes: &[u8]) -> String {
    let mut text = String::new();
    for line in bytes.chunks(16) {
        for byte in line {
            write!(text, "{byte:02x} ").unwrap();
        }
        text.truncate(text.len() - 1);
        text.push('\n');
    }
    text
}

async fn read_frames(io: &mut DuplexStream, count: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for _ in 0..count {
        let mut head = [0; HEADER_LEN];
        within(io.read_exact(&mut head)).await.unwrap();
        let mut payload = vec![0; usize::from(u16::from_be_bytes([head[2], head[3]]))];
        within(io.read_exact(&mut payload)).await.unwrap();
        bytes.extend(head);
        bytes.extend(payload);
    }
    bytes
}

/// How the host asks; nobody answers.
async fn asked(host: &Host, guest: &mut RawGuest, request: Request) -> Vec<u8> {
    tokio::select! {
        answer = host.link.request(request) => panic!("{answer:?}"),
        frame = read_frames(&mut guest.0, 1) => frame,
    }
}

/// What the real host writes once its HELLO was answered, and when it asks and stops.
async fn spoken_by_the_host() -> Vec<(&'static str, Vec<u8>)> {
    let mut host = Host::start();
    let mut guest = RawGuest(host.carriers.add_pipe());
    let hello = guest.hello().await;
    guest.ack(hello).await;
    let beginning = read_frames(&mut guest.0, 2).await;
    guest.send(&frame(2, 1, &snapshot_message())).await;
    host.up().await;
    host.snapshot().await;
    host.link.kick();
    let ping = read_frames(&mut guest.0, 1).await;
    let flow = FlowHeader::new(FlowKind::Tcp, "127.0.0.1:8080").unwrap();
    let mut stream = host.link.open_stream(&flow).unwrap();
    stream.write_all(b"GET").await.unwrap();
    stream.shutdown().await.unwrap();
    let flow = read_frames(&mut guest.0, 3).await;
    stream.reset(ResetCode::Cancelled);
    let reset = read_frames(&mut guest.0, 1).await;
    let watch_ports = asked(
        &host,
        &mut guest,
        Request::WatchPorts(PortInterest {
            udp_ranges: vec![53..=53, 32768..=60999],
            system_udp: true,
        }),
    );
    let watch_ports = watch_ports.await;
    let listen = asked(
        &host,
        &mut guest,
        Request::Listen(ReverseListener {
            id: 1,
            path: "/run/host.sock".into(),
        }),
    );
    let listen = listen.await;
    let unlisten = asked(&host, &mut guest, Request::Unlisten { id: 1 }).await;
    let mount = host.link.open_stream(&FlowHeader::mount(1)).unwrap();
    let mut mount = HostEnd::new(mount);
    mount.ask(Ask::Order(order())).await.unwrap();
    let order = read_frames(&mut guest.0, 2).await;
    let data = host.link.open_stream(&FlowHeader::mount_data(1)).unwrap();
    let mount_data = read_frames(&mut guest.0, 1).await;
    mount.ask(Ask::Unmount).await.unwrap();
    let unmount = read_frames(&mut guest.0, 1).await;
    drop((mount, data));
    read_frames(&mut guest.0, 2).await;
    let clock = host.link.open_stream(&FlowHeader::time()).unwrap();
    let mut clock = time::HostEnd::new(clock);
    let reading = tokio::select! {
        answer = clock.ask(time::Ask::Read) => panic!("{answer:?}"),
        frames = read_frames(&mut guest.0, 2) => frames,
    };
    let back = time::Ask::Adjust {
        add_ns: -1_000_000_000,
        step: true,
    };
    let set_back = tokio::select! {
        answer = clock.ask(back) => panic!("{answer:?}"),
        frame = read_frames(&mut guest.0, 1) => frame,
    };
    drop(clock);
    read_frames(&mut guest.0, 1).await;
    let batch = batch();
    let changes = host.link.open_stream(&FlowHeader::files()).unwrap();
    let mut changes = files::HostEnd::new(changes);
    let told_files = tokio::select! {
        answer = changes.tell(&batch) => panic!("{answer:?}"),
        frames = read_frames(&mut guest.0, 2) => frames,
    };
    drop(changes);
    read_frames(&mut guest.0, 1).await;
    host.cancel.cancel();
    let bye = read_frames(&mut guest.0, 1).await;
    vec![
        ("host begins", beginning),
        ("ping", ping),
        ("watch ports", watch_ports),
        ("listen", listen),
        ("unlisten", unlisten),
        ("flow", flow),
        ("reset", reset),
        ("time", reading),
        ("set back", set_back),
        ("files", told_files),
        ("mount order", order),
        ("mount data", mount_data),
        ("unmount", unmount),
        ("bye", bye),
    ]
}

/// What the real guest answers to HELLO, and what its board makes it say.
async fn spoken_by_the_guest() -> Vec<(&'static str, Vec<u8>)> {
    let (mut io, guest) = tokio::io::duplex(64 * 1024);
    let board = board();
    board.reach(Stage::KernelUp, Duration::from_millis(700));
    let (serving, tracker) = (board.clone(), TaskTracker::new());
    let duties = Arc::new(Noted::default());
    let noted = duties.clone();
    tracker.spawn(async move {
        let cancel = CancellationToken::new();
        serve_carrier(guest, Arrival::Knocking, &serving, &*noted, &cancel).await
    });
    let mut greeting = [0; GREETING_LEN];
    within(io.read_exact(&mut greeting)).await.unwrap();
    let knock = greeting.to_vec();
    io.write_all(&hello().encode()).await.unwrap();
    within(io.read_exact(&mut greeting)).await.unwrap();
    let ack = greeting.to_vec();
    io.write_all(&frame(1, 1, b"\x01")).await.unwrap();
    let snapshot = read_frames(&mut io, 1).await;
    board.reach(
        Stage::BootScriptsDone { failed: 1 },
        Duration::from_millis(9_000),
    );
    let stage = read_frames(&mut io, 1).await;
    board.report(StepReport {
        name: "mounts".into(),
        outcome: StepOutcome::Failed,
        exit_code: Some(32),
        tail: "mount: no\n".into(),
        started: Duration::from_millis(800),
        ended: Duration::from_millis(850),
    });
    let step = read_frames(&mut io, 1).await;
    board.cloud_init_line("Cloud-init v. 22.4.2 finished");
    let line = read_frames(&mut io, 1).await;
    io.write_all(&frame(2, 1, &message(b"\x12\x04\x08\x01\x22\x00")))
        .await
        .unwrap();
    let answer = read_frames(&mut io, 1).await;
    io.write_all(&frame(2, 1, &message(b"\x12\x04\x08\x02\x12\x00")))
        .await
        .unwrap();
    let refusal = read_frames(&mut io, 1).await;
    io.write_all(&frame(2, 1, &message(b"\x12\x04\x08\x03\x2a\x00")))
        .await
        .unwrap();
    read_frames(&mut io, 1).await;
    board.set_ports(Arc::new(BTreeSet::from([
        socket(Transport::Tcp, "0.0.0.0:22"),
        socket(Transport::Udp, "[fe80::1%2]:5353"),
    ])));
    let all_ports = read_frames(&mut io, 1).await;
    board.set_ports(Arc::new(BTreeSet::from([
        socket(Transport::Tcp, "0.0.0.0:22"),
        socket(Transport::Tcp, "127.0.0.1:8080"),
    ])));
    let ports = read_frames(&mut io, 1).await;
    let reverse = duties.reverse().open(1).unwrap();
    let opened = read_frames(&mut io, 1).await;
    drop(reverse);
    vec![
        ("all ports", all_ports),
        ("ports", ports),
        ("reverse", opened),
        ("knock", knock),
        ("ack", ack),
        ("snapshot", snapshot),
        ("stage", stage),
        ("step", step),
        ("cloud-init", line),
        ("response", answer),
        ("refusal", refusal),
    ]
}

fn socket(transport: Transport, address: &str) -> GuestSocket {
    GuestSocket::new(transport, address.parse().unwrap()).unwrap()
}

fn order() -> MountOrder {
    MountOrder {
        point: "/home/me".into(),
        source: "/".into(),
        writable: true,
        cache: true,
        follow_symlinks: false,
        map_owner: true,
        file_events: false,
    }
}

fn batch() -> files::Batch {
    let time = std::time::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let change = |path: &str| files::Change {
        path: path.into(),
        time,
    };
    files::Batch {
        point: "/home/me".into(),
        changes: vec![change(""), change("src/main.rs")],
    }
}

/// What a guest says when it is through with a batch.
async fn done_with_files() -> Vec<u8> {
    let (mut peer, stream) = opened(b"\x0a", &FlowHeader::files()).await;
    files::GuestEnd::new(stream).done().await.unwrap();
    read_frames(&mut peer, 1).await
}

/// What a guest answers about its clock.
async fn told_the_time() -> Vec<u8> {
    let (mut peer, stream) = opened(b"\x09", &FlowHeader::time()).await;
    let mut clock = time::GuestEnd::new(stream);
    let reading = time::Reading {
        time: std::time::UNIX_EPOCH + Duration::from_nanos(1_700_000_000_123_456_789),
        kept: true,
    };
    clock.tell(time::Told::Clock(reading)).await.unwrap();
    clock.tell(time::Told::Adjusted).await.unwrap();
    read_frames(&mut peer, 2).await
}

/// The guest's end of a stream that the host opened.
async fn opened(payload: &[u8], wanted: &FlowHeader) -> (DuplexStream, LinkStream) {
    let (io, mut peer) = tokio::io::duplex(64 * 1024);
    let limits = Limits {
        own_streams: 1,
        peer_streams: 1,
        window: 0,
        budget: 0,
    };
    let (_mux, mut incoming, mut driver) =
        mux::new(io, Inbox::default(), Side::Guest, SESSION, limits);
    TaskTracker::new().spawn(async move { driver.run().await });
    peer.write_all(&frame(1, 1, payload)).await.unwrap();
    let (header, stream) = within(incoming.accept()).await.unwrap();
    assert_eq!(&header, wanted);
    (peer, stream)
}

/// What a guest tells about a mount, one after the other.
async fn told_of_a_mount() -> Vec<u8> {
    let (mut peer, stream) = opened(b"\x071", &FlowHeader::mount(1)).await;
    let mut mount = GuestEnd::new(stream);
    let mut frames = Vec::new();
    for told in [
        Told::Ready,
        Told::Mounted,
        Told::Failed("no\u{1b}".into()),
        Told::Unmounted { busy: true },
    ] {
        mount.tell(told).await.unwrap();
        frames.extend(read_frames(&mut peer, 1).await);
    }
    frames
}

/// The credit that a reader gives back.
async fn credit() -> Vec<u8> {
    let (io, mut peer) = tokio::io::duplex(64 * 1024);
    let limits = Limits {
        own_streams: 1,
        peer_streams: 1,
        window: 0,
        budget: 0,
    };
    let (_mux, mut incoming, mut driver) =
        mux::new(io, Inbox::default(), Side::Guest, SESSION, limits);
    TaskTracker::new().spawn(async move { driver.run().await });
    peer.write_all(&frame(1, 1, b"\x02127.0.0.1:80"))
        .await
        .unwrap();
    peer.write_all(&frame(2, 1, &[0; 8192])).await.unwrap();
    let (_, mut stream) = within(incoming.accept()).await.unwrap();
    within(stream.read_exact(&mut [0; 8192])).await.unwrap();
    read_frames(&mut peer, 1).await
}

#[tokio::test]
async fn the_specification_shows_what_is_sent() {
    let mut sent = vec![
        ("hello", hello().encode().to_vec()),
        ("credit", credit().await),
        ("told of a mount", told_of_a_mount().await),
        ("told the time", told_the_time().await),
        ("done with files", done_with_files().await),
    ];
    sent.extend(spoken_by_the_host().await);
    sent.extend(spoken_by_the_guest().await);
    let mut specified = specified();
    let mut differing = String::new();
    for (name, bytes) in sent {
        if specified.remove(name).as_ref() != Some(&bytes) {
            write!(differing, "```golden {name}\n{}```\n", as_block(&bytes)).unwrap();
        }
    }
    assert!(
        differing.is_empty(),
        "docs/guest-link.md should say:\n{differing}"
    );
    assert!(
        specified.is_empty(),
        "nobody sends these: {:?}",
        specified.keys()
    );
}

#[test]
fn the_specified_greetings_are_read() {
    let specified = specified();
    let read = |name: &str| {
        let frame: [u8; GREETING_LEN] = specified[name].as_slice().try_into().unwrap();
        Greeting::decode(&frame).unwrap()
    };
    assert_eq!(read("hello"), hello());
    assert_eq!(read("knock"), Greeting::Knock);
    let ack = Ack {
        version: 1,
        session: SESSION,
        boot_id: BOOT,
        agent_version: "0.1.0".into(),
    };
    assert_eq!(read("ack"), Greeting::Ack(ack));
}
