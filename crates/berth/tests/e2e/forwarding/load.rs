//! Very many connections, and nothing left of them.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Resource;

use super::guest_end::{Answer, GuestEnd, Listener};
use super::patience::comes_true;
use super::port_events::{PortEvent, PortEvents};
use super::talk;
use crate::instance::{Home, Instance};
use crate::network::OwnNetwork;
use crate::processes::Process;

const PORT: u16 = 7001;

/// Connections one after the other, so many at once.
const SHORT: usize = 100_000;
const AT_ONCE: usize = 50;
/// Connections that stay.
const IDLE: u64 = 1_500;
/// Clients that send datagrams.
const UDP_CLIENTS: usize = 200;
/// How long they do: seconds in this variable, for more than CI has.
const UDP_SECONDS: &str = "BERTH_TEST_UDP_SECONDS";

/// Descriptors and KiB of memory that an agent may have more than at first.
const SPARE_DESCRIPTORS: usize = 5;
const SPARE_MEMORY: u64 = 2048;

#[test]
fn many_connections_leave_nothing_behind() {
    let _network = OwnNetwork::enter();
    let _ = raise_descriptor_limit();
    let home = Home::native();
    let instance = home.instance("x", "");
    let _ = instance.start(&[]).success();
    let mut guest = GuestEnd::start(&instance);
    let mut events = PortEvents::follow(&instance);
    let mut serve = |guest: &mut GuestEnd<'_>, protocol| {
        let address = format!("127.0.0.1:{PORT}");
        let listener = guest.listen(protocol, &address, Answer::Echo);
        let event = PortEvent::new("forwarding", protocol, &address, Some(&address));
        events.until_all(protocol, [event]);
        listener
    };
    let tcp = serve(&mut guest, "tcp");
    let agents = Agents::of(&instance);

    short_connections();
    agents.await_rest("short connections");
    idle_connections(&mut guest, tcp);
    agents.await_rest("idle connections");
    let udp = serve(&mut guest, "udp");
    udp_clients();
    guest.close(udp);
    agents.await_rest("UDP clients");

    drop(guest);
    instance.stop();
    home.assert_nothing_left();
}

/// Both agents, and what they had when nothing was connected.
struct Agents(Vec<(Process, usize, u64)>);

impl Agents {
    #[track_caller]
    fn of(instance: &Instance<'_>) -> Self {
        let agents = [instance.agent(), instance.guest_agent()];
        let measured = agents.map(|agent| {
            let descriptors = agent.descriptor_numbers().len();
            let memory = agent.memory();
            (agent, descriptors, memory)
        });
        Self(measured.into())
    }

    /// Waits until both have as much as they had before.
    #[track_caller]
    fn await_rest(&self, after: &str) {
        for (agent, descriptors, memory) in &self.0 {
            let now = || (agent.descriptor_numbers().len(), agent.memory());
            let at_rest = comes_true(|| {
                now().0 <= descriptors + SPARE_DESCRIPTORS && now().1 <= memory + SPARE_MEMORY
            });
            assert!(
                at_rest,
                "after {after}: {} had {descriptors} descriptors and {memory} KiB, and has {:?}",
                agent.command(),
                now()
            );
        }
    }
}

fn address() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, PORT).into()
}

/// Each connects, sends, reads and closes.
fn short_connections() {
    let next = AtomicUsize::new(0);
    let one_more = || next.fetch_add(1, Ordering::Relaxed) < SHORT;
    in_threads(AT_ONCE, |_| {
        while one_more() {
            let answer = short_connection();
            assert!(
                answer.is_ok(),
                "about number {}: {answer:?}",
                next.load(Ordering::Relaxed)
            );
        }
    });
}

fn short_connection() -> io::Result<()> {
    let mut stream = talk::connect(address())?;
    stream.write_all(b"x")?;
    stream.read_exact(&mut [0])
}

/// All are open at once; each of them works, and the port takes more.
fn idle_connections(guest: &mut GuestEnd<'_>, listener: Listener) {
    let connect = || talk::connect(address()).expect("a connection");
    let mut open: Vec<_> = (0..IDLE).map(|_| connect()).collect();
    for (number, stream) in open.iter_mut().enumerate() {
        let echo = stream
            .write_all(b"x")
            .and_then(|()| stream.read_exact(&mut [0]));
        assert!(echo.is_ok(), "number {number}: {echo:?}");
    }
    assert_eq!(guest.connections(listener), IDLE);
    short_connection().expect("one more");
    drop(open);
    let gone = comes_true(|| guest.connections(listener) == 0);
    assert!(gone, "connections that the guest still has");
}

/// Each client sends one datagram after the other, and reads its own answers only.
fn udp_clients() {
    let seconds = std::env::var(UDP_SECONDS).map_or(10, |text| text.parse().expect("seconds"));
    let end = Instant::now() + Duration::from_secs(seconds);
    let (sent, lost) = (AtomicU64::new(0), AtomicU64::new(0));
    in_threads(UDP_CLIENTS, |client| {
        let socket = talk::udp_socket(address()).expect("a socket");
        socket
            .set_read_timeout(Some(Duration::from_secs(3)))
            .expect("a limit");
        for number in 0.. {
            let text = format!("client {client}, datagram {number}");
            socket.send(text.as_bytes()).expect("a forward");
            sent.fetch_add(1, Ordering::Relaxed);
            let mut buffer = [0; 100];
            if let Ok(length) = socket.recv(&mut buffer) {
                assert_eq!(str::from_utf8(&buffer[..length]), Ok(text.as_str()));
            } else {
                // What comes later must not be taken for an answer to the next one.
                lost.fetch_add(1, Ordering::Relaxed);
                return;
            }
            if Instant::now() > end {
                return;
            }
            thread::sleep(Duration::from_millis(50));
        }
    });
    let (sent, lost) = (sent.into_inner(), lost.into_inner());
    assert!(lost == 0, "{lost} of {sent} datagrams were lost");
}

/// Runs `work` in so many threads of this network.
fn in_threads(count: usize, work: impl Fn(usize) + Sync) {
    thread::scope(|scope| {
        let work = &work;
        for number in 0..count {
            thread::Builder::new()
                .stack_size(256 << 10)
                .spawn_scoped(scope, move || work(number))
                .expect("a thread");
        }
    });
}

fn raise_descriptor_limit() -> rustix::io::Result<()> {
    let mut limit = rustix::process::getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    rustix::process::setrlimit(Resource::Nofile, limit)
}
