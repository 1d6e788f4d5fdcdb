//! The supervisor against an agent by hand and a ControlMaster that is none.

#[path = "../../../berth-guest-api/tests/agent/mod.rs"]
mod agent;

use std::io;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use agent::{Agent, Call, from_guest, send, succeed, within};
use berth_forward::address::GuestTarget;
use berth_forward::guest::Dialer;
use berth_guest_api::message::{Event, Info, IpPort};
use bytes::Bytes;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::ports::MAX_PORTS;
use super::*;

/// What the supervisor has of the ControlMaster.
#[derive(Default)]
struct FakeSocket {
    done: Mutex<Vec<&'static str>>,
    busy: AtomicBool,
    refuses: AtomicBool,
    hangs: AtomicBool,
    connections: Mutex<Option<mpsc::UnboundedSender<DuplexStream>>>,
}

impl FakeSocket {
    async fn does(&self, what: &'static str) {
        assert!(!self.busy.swap(true, Ordering::SeqCst), "two at a time");
        tokio::task::yield_now().await;
        self.done.lock().unwrap().push(what);
        if self.hangs.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        self.busy.store(false, Ordering::SeqCst);
    }

    fn done(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.done.lock().unwrap())
    }
}

#[async_trait::async_trait]
impl AgentSocket for FakeSocket {
    async fn cancel(&self) -> Result<(), String> {
        self.does("cancel").await;
        Err("there was none".into())
    }

    async fn forward(&self) -> Result<(), String> {
        self.does("forward").await;
        Ok(())
    }

    async fn connect(&self) -> io::Result<Box<dyn socket::Carrier>> {
        if self.refuses.load(Ordering::SeqCst) {
            self.done.lock().unwrap().push("refuse");
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (ours, theirs) = duplex(64 * 1024);
        let connections = self.connections.lock().unwrap().clone().unwrap();
        connections.send(theirs).unwrap();
        Ok(Box::new(ours))
    }
}

/// A supervisor, and everything that it has to do with.
struct World {
    lima: LimaAgent,
    socket: Arc<FakeSocket>,
    connections: mpsc::UnboundedReceiver<DuplexStream>,
    master: watch::Sender<MasterState>,
    tasks: Tasks,
}

const DOWN: MasterState = MasterState::Down {
    why: None,
    refused: false,
};

impl World {
    fn new() -> Self {
        let (accept, connections) = mpsc::unbounded_channel();
        let socket = Arc::new(FakeSocket::default());
        *socket.connections.lock().unwrap() = Some(accept);
        let (master, state) = watch::channel(DOWN);
        let tasks = Tasks::default();
        let shared: Arc<dyn AgentSocket> = socket.clone();
        let lima = LimaAgent::start(shared, state, PortInterest::default(), &tasks);
        Self {
            lima,
            socket,
            connections,
            master,
            tasks,
        }
    }

    fn log_in(&self, generation: u64) {
        self.master.send_replace(MasterState::Up { generation });
    }

    async fn accept(&mut self) -> Agent {
        let stream = within(self.connections.recv()).await.unwrap();
        Agent::serve(stream, &self.tasks.tracker)
    }

    /// Goes through the beginning of a session, in which the guest listens on these TCP ports.
    async fn session(&mut self, ports: &[u16]) -> Guest {
        let mut calls = self.accept().await;
        let events = calls.call_of("GetEvents").await;
        calls.call_of("GetInfo").await.answer(&info(ports));
        let tunnels = self.accept().await;
        within(self.lima.answered()).await.unwrap();
        Guest {
            calls,
            tunnels,
            events,
            stream: None,
        }
    }

    fn known(&self) -> Vec<String> {
        let ports = self.lima.ports.borrow().ports.clone();
        ports.iter().map(|port| port.address.to_string()).collect()
    }

    async fn ports_become(&mut self, expected: &[&str]) {
        let is = |known: &GuestPorts| {
            known.known
                && known
                    .ports
                    .iter()
                    .map(|p| p.address.to_string())
                    .eq(expected.iter().copied())
        };
        let ports = &mut self.lima.ports;
        if tokio::time::timeout(agent::HANG, ports.wait_for(is))
            .await
            .is_err()
        {
            panic!("expected {expected:?}, known are {:?}", self.known());
        }
    }

    async fn down(&self) -> String {
        let mut current = self.lima.current.clone();
        let down = |current: &Current| current.session.is_none();
        match within(current.wait_for(down)).await.unwrap().state.clone() {
            AgentState::Down { why } => why.unwrap_or_default(),
            AgentState::Up { .. } => unreachable!(),
        }
    }
}

/// The agent's ends of a session.
struct Guest {
    calls: Agent,
    tunnels: Agent,
    events: Call,
    stream: Option<h2::SendStream<Bytes>>,
}

impl Guest {
    fn tell(&mut self, event: &Event) {
        let events = &mut self.events;
        let stream = self.stream.get_or_insert_with(|| events.headers());
        send(stream, &event.encode_to_vec());
    }

    async fn check(&mut self, ports: &[u16]) {
        self.calls.call_of("GetInfo").await.answer(&info(ports));
    }

    fn cut(&self) {
        self.calls.cut.cancel();
        self.tunnels.cut.cancel();
    }
}

fn tcp(port: u16) -> IpPort {
    IpPort {
        protocol: "tcp".into(),
        ip: "127.0.0.1".into(),
        port: port.into(),
    }
}

fn info(ports: &[u16]) -> Vec<u8> {
    let local_ports = ports.iter().copied().map(tcp).collect();
    Info { local_ports }.encode_to_vec()
}

fn event(added: &[u16], removed: &[u16]) -> Event {
    Event {
        added_local_ports: added.iter().copied().map(tcp).collect(),
        removed_local_ports: removed.iter().copied().map(tcp).collect(),
        ..Event::default()
    }
}

fn target(port: u16) -> GuestTarget {
    GuestTarget::Tcp(([127, 0, 0, 1], port).into())
}

async fn dial_error(lima: &LimaAgent) -> io::ErrorKind {
    match within(lima.dial(&target(80))).await {
        Ok(_) => panic!("there is a connection"),
        Err(why) => why.kind(),
    }
}

#[tokio::test(start_paused = true)]
async fn ports_are_known_from_the_first_answer_and_follow_the_events() {
    let mut world = World::new();
    assert!(!world.lima.ports.borrow().known);
    world.log_in(1);
    let mut guest = world.session(&[80, 443]).await;
    assert_eq!(world.lima.state(), AgentState::Up { generation: 1 });
    world.ports_become(&["127.0.0.1:80", "127.0.0.1:443"]).await;
    guest.tell(&event(&[443, 8080, 8080], &[80, 9999]));
    world
        .ports_become(&["127.0.0.1:443", "127.0.0.1:8080"])
        .await;
    guest.tell(&event(&[], &[443, 8080]));
    world.ports_become(&[]).await;
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_dies_keeps_its_ports_until_it_is_back() {
    let mut world = World::new();
    world.log_in(1);
    let guest = world.session(&[80]).await;
    world.ports_become(&["127.0.0.1:80"]).await;
    guest.cut();
    let why = world.down().await;
    assert!(why.contains("broke during GetEvents"), "{why}");
    assert_eq!(dial_error(&world.lima).await, io::ErrorKind::NotConnected);
    world.ports_become(&["127.0.0.1:80"]).await;

    let _guest = world.session(&[81]).await;
    world.ports_become(&["127.0.0.1:81"]).await;
    assert_eq!(world.lima.state(), AgentState::Up { generation: 2 });
    assert_eq!(
        world.socket.done(),
        ["cancel", "forward"],
        "ssh kept its forward"
    );
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_stops_in_order_is_no_failure_and_its_last_words_count() {
    let mut world = World::new();
    world.log_in(1);
    let mut guest = world.session(&[80]).await;
    guest.tell(&event(&[81], &[80]));
    succeed(guest.stream.as_mut().unwrap());
    world.ports_become(&["127.0.0.1:81"]).await;
    assert_eq!(world.down().await, "the agent closed the connection");
    // One that never had anything to tell ends without a word.
    let guest = world.session(&[81]).await;
    guest.events.fail("0", "");
    assert_eq!(world.down().await, "the agent closed the connection");
    let _guest = world.session(&[81]).await;
}

#[tokio::test(start_paused = true)]
async fn each_ssh_master_is_asked_once_to_forward_and_nothing_happens_without_one() {
    let mut world = World::new();
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(world.socket.done().is_empty());
    world.log_in(1);
    let guest = world.session(&[]).await;
    assert_eq!(world.socket.done(), ["cancel", "forward"]);

    // The master dies, and takes the connections with it.
    world.master.send_replace(DOWN);
    guest.cut();
    world.down().await;
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(world.socket.done().is_empty());
    world.log_in(2);
    let guest = world.session(&[]).await;
    assert_eq!(world.socket.done(), ["cancel", "forward"]);

    // It is replaced so fast that nobody sees it down, while the connections seem to live.
    world.log_in(3);
    let _newer = world.session(&[]).await;
    assert_eq!(world.socket.done(), ["cancel", "forward"]);
    drop(guest);
}

#[tokio::test(start_paused = true)]
async fn a_socket_that_nobody_serves_is_forwarded_anew_and_ever_more_patiently() {
    let world = World::new();
    world.socket.refuses.store(true, Ordering::SeqCst);
    let begin = Instant::now();
    world.log_in(1);
    let mut after = Vec::new();
    while after.len() < 9 {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let done = world.socket.done();
        if done.is_empty() {
            continue;
        }
        assert_eq!(done, ["cancel", "forward", "refuse"]);
        after.push(begin.elapsed().as_millis() / 50 * 50);
    }
    assert_eq!(after, [0, 50, 150, 350, 750, 1550, 3150, 5150, 7150]);
    let mut world = world;
    world.socket.refuses.store(false, Ordering::SeqCst);
    let _guest = world.session(&[]).await;
}

#[tokio::test(start_paused = true)]
async fn a_frozen_agent_never_holds_up_a_stop() {
    // Before it ever answered, with calls under way.
    let mut world = World::new();
    world.log_in(1);
    let mut frozen = world.accept().await;
    frozen.call_of("GetEvents").await;
    let _never_answered = frozen.call_of("GetInfo").await;
    let begin = Instant::now();
    world.lima.stop().await;
    assert_eq!(begin.elapsed(), Duration::ZERO);
    assert_eq!(world.socket.done(), ["cancel", "forward", "cancel"]);
    assert!(world.lima.answered().await.is_err());

    // With a session, a tunnel, and a check that is not answered.
    let mut world = World::new();
    world.log_in(1);
    let mut frozen = world.session(&[80]).await;
    let mut tunnel = world.lima.dial(&target(80)).await.unwrap();
    let _unanswered = frozen.tunnels.call_of("Tunnel").await;
    world.lima.kick();
    let _never_answered = frozen.calls.call_of("GetInfo").await;
    let begin = Instant::now();
    world.lima.stop().await;
    assert_eq!(begin.elapsed(), Duration::ZERO);
    let broken = within(tunnel.read(&mut [0; 9])).await.unwrap_err();
    assert_eq!(broken.kind(), io::ErrorKind::ConnectionAborted);

    // With an `ssh` that hangs.
    let world = World::new();
    world.socket.hangs.store(true, Ordering::SeqCst);
    world.log_in(1);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(world.socket.done(), ["cancel"]);
    world.socket.busy.store(false, Ordering::SeqCst);
    let begin = Instant::now();
    world.lima.stop().await;
    assert_eq!(begin.elapsed(), Duration::from_secs(3), "of taking it back");
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_freezes_is_noticed_and_its_successor_found() {
    let mut world = World::new();
    world.log_in(1);
    let mut frozen = world.session(&[80]).await;
    // The first check comes after five seconds, the next ones after a minute if all was as known.
    frozen.check(&[80]).await;
    tokio::time::sleep(Duration::from_secs(59)).await;
    assert!(
        frozen.calls.calls.try_recv().is_err(),
        "nobody asks meanwhile"
    );
    let _never_answered = frozen.calls.call_of("GetInfo").await;
    let why = world.down().await;
    assert_eq!(why, "Lima's guest agent did not answer GetInfo within 3s");
    let _guest = world.session(&[80]).await;
}

#[tokio::test(start_paused = true)]
async fn what_the_events_have_missed_is_found_by_asking() {
    let mut world = World::new();
    world.log_in(1);
    let mut guest = world.session(&[80, 81]).await;
    guest.check(&[80]).await;
    world.ports_become(&["127.0.0.1:80"]).await;
    // What differed is looked at again soon.
    let begin = Instant::now();
    guest.check(&[80]).await;
    assert!(begin.elapsed() <= Duration::from_secs(6));
    world.ports_become(&["127.0.0.1:80"]).await;
}

#[tokio::test(start_paused = true)]
async fn connections_are_dialled_through_tunnels() {
    let mut world = World::new();
    let ready = world.lima.clone();
    let ready = async move { ready.ready().await };
    world.log_in(1);
    let mut guest = world.session(&[80]).await;
    within(ready).await;

    let mut stream = world.lima.dial(&target(80)).await.unwrap();
    stream.write_all(b"hi").await.unwrap();
    let mut call = guest.tunnels.call_of("Tunnel").await;
    assert_eq!(call.tunnelled().await.guest_addr, "127.0.0.1:80");
    assert_eq!(call.tunnelled().await.data, b"hi");
    send(&mut call.headers(), &from_guest(b"ho"));
    let mut answer = [0; 2];
    within(stream.read_exact(&mut answer)).await.unwrap();
    assert_eq!(&answer, b"ho");

    let udp = GuestTarget::Udp(([127, 0, 0, 1], 53).into());
    let mut stream = world.lima.dial(&udp).await.unwrap();
    stream.write_all(b"\0\x01q").await.unwrap();
    let mut call = guest.tunnels.call_of("Tunnel").await;
    assert_eq!(call.tunnelled().await.protocol, "udp");
    assert_eq!(call.tunnelled().await.data, b"q");

    let unix = |path: &str| GuestTarget::Unix {
        path: path.into(),
        as_root: false,
    };
    let _stream = world.lima.dial(&unix("/run/x.sock")).await.unwrap();
    let mut call = guest.tunnels.call_of("Tunnel").await;
    assert_eq!(call.tunnelled().await.guest_addr, "/run/x.sock");
    let refused = world.lima.dial(&unix("x.sock")).await.err().unwrap();
    assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_takes_no_more_tunnels_is_replaced_and_its_tunnels_live_on() {
    let mut world = World::new();
    world.log_in(1);
    let mut guest = world.session(&[80]).await;
    let mut old = world.lima.dial(&target(80)).await.unwrap();
    let mut call = guest.tunnels.call_of("Tunnel").await;
    let mut answer = call.headers();
    guest.tunnels.stop.cancel();
    let refused = loop {
        // GOAWAY may take a moment to arrive.
        match world.lima.dial(&target(80)).await {
            Ok(_) => tokio::task::yield_now().await,
            Err(why) => break why,
        }
    };
    assert_eq!(refused.kind(), io::ErrorKind::NotConnected);
    assert_eq!(world.down().await, "it takes no more tunnels");
    let newer = world.session(&[80]).await;
    // One that ends by itself, too, while the calls go on.
    newer.tunnels.cut.cancel();
    assert_eq!(world.down().await, "its connection for tunnels ended");
    let mut newer = world.session(&[80]).await;
    let _new = world.lima.dial(&target(80)).await.unwrap();
    newer.tunnels.call_of("Tunnel").await;

    send(&mut answer, &from_guest(b"old"));
    let mut bytes = [0; 3];
    within(old.read_exact(&mut bytes)).await.unwrap();
    assert_eq!(&bytes, b"old");
}

#[tokio::test(start_paused = true)]
async fn every_event_of_a_burst_counts() {
    let mut world = World::new();
    world.log_in(1);
    let mut guest = world.session(&[]).await;
    for port in 1..=3000 {
        guest.tell(&event(&[port], &[]));
    }
    let all = |known: &GuestPorts| known.ports.len() == 3000;
    within(world.lima.ports.wait_for(all)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_comes_and_goes_is_tried_ever_more_patiently() {
    let mut world = World::new();
    world.log_in(1);
    let begin = Instant::now();
    for _ in 0..10 {
        world.session(&[]).await.cut();
        world.down().await;
    }
    assert!(begin.elapsed() > Duration::from_secs(8));
    // One that has stayed is tried again soon.
    let mut guest = world.session(&[]).await;
    guest.check(&[]).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    guest.cut();
    world.down().await;
    let begin = Instant::now();
    let _guest = world.session(&[]).await;
    assert!(begin.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn ports_that_flap_are_told_now_and_then_and_in_the_end_rightly() {
    const EVENTS: usize = 20_000;
    let mut world = World::new();
    world.log_in(1);
    let mut guest = world.session(&[]).await;
    let mut ports = world.lima.ports.clone();
    let told = world.tasks.tracker.spawn(async move {
        let mut told = 0;
        loop {
            ports.changed().await.unwrap();
            told += 1;
            if ports.borrow_and_update().ports.len() == 2 {
                return told;
            }
        }
    });
    for number in 0..EVENTS {
        match number % 2 {
            0 => guest.tell(&event(&[80], &[])),
            _ => guest.tell(&event(&[], &[80])),
        }
    }
    guest.tell(&event(&[80, 81], &[]));
    let told = within(told).await.unwrap();
    assert!(told < EVENTS / 20, "{told} changes were told");
    world.ports_become(&["127.0.0.1:80", "127.0.0.1:81"]).await;
}

#[tokio::test(start_paused = true)]
async fn however_many_ports_are_announced_four_thousand_are_known() {
    let mut world = World::new();
    world.log_in(1);
    let mut guest = world.session(&[]).await;
    let entry = |number: u32| IpPort {
        protocol: "tcp".into(),
        ip: std::net::Ipv4Addr::from(0x0a00_0000 + number).to_string(),
        port: 80,
    };
    for number in 0..20 {
        let first = number * 20_000;
        guest.tell(&Event {
            added_local_ports: (first..first + 20_000).map(entry).collect(),
            ..Event::default()
        });
        tokio::task::yield_now().await;
    }
    let full = |known: &GuestPorts| known.ports.len() == MAX_PORTS;
    within(world.lima.ports.wait_for(full)).await.unwrap();
    // The last words are heard, and room is given again.
    guest.tell(&Event {
        added_local_ports: vec![tcp(1)],
        removed_local_ports: vec![entry(0), entry(1)],
        ..Event::default()
    });
    let fewer = |known: &GuestPorts| known.ports.len() == MAX_PORTS - 1;
    within(world.lima.ports.wait_for(fewer)).await.unwrap();
}
