//! Ports of the guest on their way to the host: whole, capped, and at the reader's pace.

#![allow(clippy::unwrap_used, reason = "tests only")]

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;

use berth_link::event::{
    GuestEvent, GuestSocket, MAX_PORTS, PortInterest, PortsUpdate, Request, Transport,
};
use berth_link::guest::{Arrival, Board, serve_carrier};
use berth_link::message::{self as wire, GuestKind, GuestMessage};
use prost::Message;
use support::{Host, Noted, RawGuest, board, frame, message, within};
use tokio_util::sync::CancellationToken;

fn serve(host: &Host, board: &Board) -> CancellationToken {
    let (io, board, cancel) = (
        host.carriers.add_pipe(),
        board.clone(),
        host.cancel.child_token(),
    );
    let stop = cancel.clone();
    host.tracker.spawn(async move {
        serve_carrier(io, Arrival::Knocking, &board, &Noted::default(), &stop).await;
    });
    cancel
}

fn sockets(ports: impl IntoIterator<Item = u16>) -> Arc<BTreeSet<GuestSocket>> {
    let socket = |port| GuestSocket::new(Transport::Tcp, ([127, 0, 0, 1], port).into()).unwrap();
    Arc::new(ports.into_iter().map(socket).collect())
}

/// What a reader of events knows of the guest's ports.
#[derive(Default)]
struct Known(BTreeSet<GuestSocket>);

impl Known {
    fn take_in(&mut self, update: &PortsUpdate) {
        assert!(!update.more);
        if update.all {
            self.0.clear();
        }
        for socket in &update.removed {
            assert!(self.0.remove(socket), "{socket} was not known");
        }
        for socket in &update.added {
            assert!(self.0.insert(*socket), "{socket} was known");
        }
    }
}

async fn next_update(host: &mut Host) -> PortsUpdate {
    match host.guest_event().await {
        GuestEvent::Ports(update) => update,
        other => panic!("expected ports, got {other:?}"),
    }
}

async fn watch(host: &Host) {
    let request = Request::WatchPorts(PortInterest::default());
    assert_eq!(within(host.link.request(request)).await, Ok(Ok(())));
}

#[tokio::test]
async fn ports_are_told_once_asked_for_and_anew_in_each_session() {
    let mut host = Host::start();
    let board = board();
    board.set_ports(sockets([22]));
    let first = serve(&host, &board);
    host.up().await;
    host.snapshot().await;
    // Nothing of ports before anybody asks.
    assert_eq!(within(host.link.request(Request::Ping)).await, Ok(Ok(())));
    board.set_ports(sockets([22, 80]));
    watch(&host).await;
    let update = next_update(&mut host).await;
    assert_eq!((update.all, update.added.len()), (true, 2));
    board.set_ports(sockets([22, 443]));
    let update = next_update(&mut host).await;
    let ports = |sockets: &[GuestSocket]| {
        let ports = sockets.iter().map(|socket| socket.address().port());
        ports.collect::<Vec<_>>()
    };
    assert_eq!(
        (ports(&update.added), ports(&update.removed)),
        (vec![443], vec![80])
    );
    first.cancel();
    host.down().await;
    board.set_ports(sockets([]));
    serve(&host, &board);
    host.up().await;
    host.snapshot().await;
    watch(&host).await;
    let update = next_update(&mut host).await;
    assert_eq!((update.all, update.added.len()), (true, 0));
}

#[tokio::test]
async fn thousands_of_ports_that_flap_past_a_slow_reader_end_in_the_truth() {
    let mut host = Host::start();
    let board = board();
    board.set_ports(sockets(1..=2000));
    serve(&host, &board);
    host.up().await;
    host.snapshot().await;
    watch(&host).await;
    for round in 0..200 {
        board.set_ports(sockets(round % 7 * 100 + 1..=round % 7 * 100 + 2000));
        tokio::task::yield_now().await;
    }
    let last = sockets((1..=3000).step_by(2));
    board.set_ports(last.clone());
    let mut known = Known::default();
    let mut updates = 0;
    while known.0 != *last {
        known.take_in(&next_update(&mut host).await);
        updates += 1;
    }
    assert!(
        updates < 50,
        "{updates} updates reached a reader that was asleep"
    );
}

/// `GuestMessage { ports }` in a frame, or in as many as it needs.
fn ports_message(ports: wire::Ports) -> Vec<u8> {
    let kind = Some(GuestKind::Ports(ports));
    let bytes = message(&GuestMessage { kind }.encode_to_vec());
    let frames = bytes.chunks(1024);
    frames.flat_map(|chunk| frame(2, 1, chunk)).collect()
}

fn wire_socket(ip: &[u8], port: u32) -> wire::Socket {
    wire::Socket {
        transport: wire::Transport::Tcp.into(),
        ip: ip.to_vec(),
        port,
        scope: 0,
    }
}

#[tokio::test]
async fn forged_sockets_end_the_session_by_their_name() {
    for (sockets, expected) in [
        (
            vec![wire_socket(&[1; 3], 80)],
            "field ports.ip of a control message has 3 bytes",
        ),
        (
            vec![wire_socket(&[1; 4], 0)],
            "field ports.port of a control message is 0",
        ),
        (
            vec![wire_socket(&[1; 4], 70_000)],
            "field ports.port of a control message is 70000",
        ),
        (
            vec![wire::Socket::default(); 1025],
            "list ports of a control message has 1025 entries, more than 1024",
        ),
    ] {
        let mut host = Host::start();
        let mut guest = RawGuest(host.carriers.add_pipe());
        guest.join().await;
        host.up().await;
        host.snapshot().await;
        let ports = wire::Ports {
            added: sockets,
            ..wire::Ports::default()
        };
        guest.send(&ports_message(ports)).await;
        let expected = format!("the other end sent a bad message: {expected}");
        assert_eq!(host.down().await, expected);
    }
}

#[tokio::test]
async fn a_guest_that_announces_ports_without_end_is_known_by_a_few_thousand() {
    const MESSAGES: u32 = 20;
    let mut host = Host::start();
    let guest = RawGuest(host.carriers.add_pipe());
    let tracker = host.tracker.clone();
    let mut control = guest.join_with_mux(&tracker).await;
    host.up().await;
    host.snapshot().await;
    // Nobody reads events meanwhile.
    for number in 0..MESSAGES {
        let ip = number.to_be_bytes();
        let ports = wire::Ports {
            added: (1..=1000).map(|port| wire_socket(&ip, port)).collect(),
            ..wire::Ports::default()
        };
        let kind = Some(GuestKind::Ports(ports));
        let bytes = message(&GuestMessage { kind }.encode_to_vec());
        within(tokio::io::AsyncWriteExt::write_all(&mut control, &bytes))
            .await
            .unwrap();
    }
    let mut known = Known::default();
    loop {
        let update = next_update(&mut host).await;
        known.take_in(&update);
        assert!(known.0.len() <= MAX_PORTS);
        if update.left_out as usize == MESSAGES as usize * 1000 - MAX_PORTS {
            break;
        }
    }
    assert_eq!(known.0.len(), MAX_PORTS);
}
