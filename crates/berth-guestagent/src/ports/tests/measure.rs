//! Numbers, not verdicts: `cargo test --release -p berth-guestagent measure -- --ignored --nocapture`.

use std::collections::BTreeSet;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::lab::{Kind, Lab, Observer};
use super::tcp;
use crate::netlink::SocketDiag;
use crate::ports::filter::UdpFilter;
use crate::ports::scan::{Scanner, Search};
use crate::ports::source::Source;
use crate::ports::{GuestSocket, PortInterest};

/// How often each is measured.
const TIMES: usize = 300;

/// Median, 99th percentile and maximum, in microseconds.
fn told(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |part: usize| times[(times.len() - 1) * part / 100].as_secs_f64() * 1e6;
    println!(
        "{what}: p50 {:.1} µs, p99 {:.1} µs, max {:.1} µs",
        at(50),
        at(99),
        at(100)
    );
}

/// A program that does something when it is told to, and says when.
fn program<T: Send + 'static>(
    mut act: impl FnMut(T) -> (T, Instant) + Send + 'static,
    begin: T,
) -> (Sender<()>, Receiver<Instant>) {
    let (go, going) = channel();
    let (done, when) = channel();
    thread::spawn(move || {
        let mut state = begin;
        while let Ok(()) = going.recv() {
            // The agent is asleep by then.
            thread::sleep(Duration::from_millis(5));
            let (next, at) = act(state);
            state = next;
            if done.send(at).is_err() {
                return;
            }
        }
    });
    (go, when)
}

#[test]
#[ignore = "tells what the programs cost, and judges nothing: cargo test --release -p berth-guestagent measure -- --ignored --nocapture, as root"]
fn measure_latency() {
    Lab::each(
        &[Kind::ControlGroups, Kind::Tracepoints],
        async |mut seen: Observer| {
            let toggle = |open: Option<TcpListener>| {
                let at;
                let next = if let Some(listener) = open {
                    at = Instant::now();
                    drop(listener);
                    None
                } else {
                    let listener = super::bound_tcp("127.0.0.1:80");
                    at = Instant::now();
                    rustix::net::listen(&listener, 5).unwrap();
                    Some(TcpListener::from(listener))
                };
                (next, at)
            };
            let (go, when) = program(toggle, None);
            let (mut opened, mut closed) = (Vec::new(), Vec::new());
            seen.until(&[]).await;
            for _ in 0..TIMES {
                go.send(()).unwrap();
                let at = seen.until(&[tcp("127.0.0.1:80")]).await;
                opened.push(at - when.recv().unwrap());
                go.send(()).unwrap();
                let at = seen.until(&[]).await;
                closed.push(at - when.recv().unwrap());
            }
            told("listen to published", opened);
            told("close to published", closed);
        },
    );
}

#[test]
#[ignore = "tells what the programs cost, and judges nothing: cargo test --release -p berth-guestagent measure -- --ignored --nocapture, as root"]
fn measure_a_hundred_ports() {
    Lab::each(
        &[Kind::ControlGroups, Kind::Tracepoints],
        async |mut seen: Observer| {
            let all: Vec<GuestSocket> = (1000..1100)
                .map(|port| tcp(&format!("127.0.0.1:{port}")))
                .collect();
            let toggle = |open: Vec<TcpListener>| {
                let at = Instant::now();
                let next = if open.is_empty() {
                    (1000..1100)
                        .map(|port| TcpListener::bind(("127.0.0.1", port)).unwrap())
                        .collect()
                } else {
                    Vec::new()
                };
                (next, at)
            };
            let (go, when) = program(toggle, Vec::new());
            let mut opened = Vec::new();
            seen.until(&[]).await;
            for _ in 0..TIMES / 10 {
                go.send(()).unwrap();
                let at = seen.until(&all).await;
                opened.push(at - when.recv().unwrap());
                go.send(()).unwrap();
                seen.until(&[]).await;
                when.recv().unwrap();
            }
            told("100 ports to published", opened);
        },
    );
}

#[test]
#[ignore = "tells what the programs cost, and judges nothing: cargo test --release -p berth-guestagent measure -- --ignored --nocapture, as root"]
fn measure_scans() {
    let Some(_lab) = Lab::enter() else { return };
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let plenty = rustix::process::Rlimit {
        current: limit.maximum,
        ..limit
    };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, plenty).unwrap();
    crate::runtime::new().unwrap().block_on(async {
        let (mut scanner, filter) = (
            Scanner::new(SocketDiag::open),
            UdpFilter::new(PortInterest::default()),
        );
        let source = Source::ticks();
        let mut sockets = Vec::new();
        for count in [10, 1000, 9000_usize] {
            while sockets.len() < count {
                let at = u16::try_from(1000 + sockets.len() % 2000).unwrap();
                let address = format!("127.0.{}.1:{at}", sockets.len() / 2000);
                sockets.push((
                    TcpListener::bind(&address).unwrap(),
                    UdpSocket::bind(&address).unwrap(),
                ));
            }
            let mut times = Vec::new();
            for _ in 0..50 {
                let began = Instant::now();
                let search = Search {
                    filter: &filter,
                    source: &source,
                    ending: &BTreeSet::default(),
                    enrol: false,
                };
                let found = scanner.scan(search).await.unwrap();
                times.push(began.elapsed());
                assert_eq!(found.sockets.len(), (2 * count).min(16 * 1024));
            }
            told(
                &format!("scan of {count} TCP and {count} UDP sockets"),
                times,
            );
        }
    });
}

#[test]
#[ignore = "tells what the programs cost, and judges nothing: cargo test --release -p berth-guestagent measure -- --ignored --nocapture, as root"]
fn measure_what_the_programs_cost() {
    let Some(lab) = Lab::enter() else { return };
    let connections = || {
        let listener = TcpListener::bind("127.0.0.1:80").unwrap();
        let server = thread::spawn(move || {
            for _ in 0..20_000 {
                drop(listener.accept().unwrap());
            }
        });
        let began = Instant::now();
        for _ in 0..20_000 {
            drop(TcpStream::connect("127.0.0.1:80").unwrap());
        }
        server.join().unwrap();
        began.elapsed() / 20_000
    };
    let runtime = crate::runtime::new().unwrap();
    let _inside = runtime.enter();
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for _ in 0..7 {
        without.push(connections());
        let programs = lab.programs();
        with.push(connections());
        drop(programs);
    }
    told("a connection without programs", without);
    told("a connection with programs", with);
}
