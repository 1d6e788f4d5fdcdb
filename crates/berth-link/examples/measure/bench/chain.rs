//! A client, a relay, the carrier, a relay, a server: with the link, and with nothing but `splice`.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream as StdTcpStream};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use berth_link::mux::LinkStream;
use berth_relay::{Tally, join};
use rustix::pipe::{SpliceFlags, pipe, splice};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Cost, Way, ends};

const CHUNK: usize = 64 * 1024;

/// What a relay does with bytes between its socket and its stream.
#[derive(Debug, Clone, Copy)]
pub(super) enum Copies {
    None,
    One,
}

/// A connection over loopback: the relay's end, and the other.
fn connection() -> (StdTcpStream, StdTcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let client = StdTcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (listener.accept().unwrap().0, client)
}

fn source(mut to: StdTcpStream, bytes: u64) -> JoinHandle<()> {
    ends::thread("source", move || {
        let chunk = vec![7; CHUNK];
        let mut left = bytes;
        while left > 0 {
            let length = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
            to.write_all(&chunk[..length]).unwrap();
            left -= length as u64;
        }
        // Dropped when everything was taken, as a client would be.
        to.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(to.read(&mut [0]).unwrap(), 0);
    })
}

fn sink(mut from: StdTcpStream, bytes: u64) -> JoinHandle<()> {
    ends::thread("sink", move || {
        let mut chunk = vec![0; CHUNK];
        let mut seen = 0;
        loop {
            match from.read(&mut chunk).unwrap() {
                0 => break,
                count => seen += count as u64,
            }
        }
        assert_eq!(seen, bytes);
    })
}

/// Two relays that splice; one carrier a stream.
pub(super) fn spliced(streams: u32, bytes: u64) -> Cost {
    let each = bytes / u64::from(streams);
    let began = Instant::now();
    let mut ends = Vec::new();
    let mut relays = Vec::new();
    for _ in 0..streams {
        let (from, client) = connection();
        let (to, server) = connection();
        let (carrier_in, carrier_out) = StdUnixStream::pair().unwrap();
        relays.push(relay(from, carrier_in));
        relays.push(relay(carrier_out, to));
        ends.push(source(client, each));
        ends.push(sink(server, each));
    }
    let cpu = relays.into_iter().map(|relay| relay.join().unwrap()).sum();
    for end in ends {
        end.join().unwrap();
    }
    Cost {
        took: began.elapsed(),
        cpu,
    }
}

/// Moves bytes until there are no more; the CPU time that it took.
fn relay(from: impl AsFd + Send + 'static, to: impl AsFd + Send + 'static) -> JoinHandle<Duration> {
    ends::thread("splice", move || {
        let (read, write) = pipe().unwrap();
        loop {
            let flags = SpliceFlags::MOVE;
            let mut held = splice(&from, None, &write, None, CHUNK, flags).unwrap();
            if held == 0 {
                break;
            }
            while held > 0 {
                held -= splice(&read, None, &to, None, held, flags).unwrap();
            }
        }
        ends::cpu_time()
    })
}

/// The same over one session of the link.
pub(super) fn linked(way: Way, streams: u32, bytes: u64, copies: Copies) -> Cost {
    let each = bytes / u64::from(streams);
    let connections = || (0..streams).map(|_| connection()).unzip();
    let (host_ends, clients): (Vec<_>, Vec<_>) = connections();
    let (guest_ends, servers): (Vec<_>, Vec<_>) = connections();
    let (sources, sinks) = match way {
        Way::ToGuest => (clients, servers),
        Way::ToHost => (servers, clients),
    };
    let sources: Vec<_> = sources.into_iter().map(|it| source(it, each)).collect();
    let sinks: Vec<_> = sinks.into_iter().map(|it| sink(it, each)).collect();
    let ((), cost) = ends::run(
        move |mux, tracker| async move {
            let join = |local| {
                let stream = mux.open(&ends::header()).unwrap();
                tracker.spawn(relay_half(local, stream, way == Way::ToGuest, copies))
            };
            for task in host_ends.into_iter().map(join).collect::<Vec<_>>() {
                task.await.unwrap();
            }
        },
        move |mut incoming, tracker| async move {
            let mut tasks = Vec::new();
            for local in guest_ends {
                let (_, stream) = incoming.accept().await.unwrap();
                let sends = way == Way::ToHost;
                tasks.push(tracker.spawn(relay_half(local, stream, sends, copies)));
            }
            for task in tasks {
                task.await.unwrap();
            }
        },
    );
    for end in sources.into_iter().chain(sinks) {
        end.join().unwrap();
    }
    cost
}

async fn relay_half(local: StdTcpStream, stream: LinkStream, sends: bool, copies: Copies) {
    match copies {
        Copies::None => joined(local, stream).await,
        Copies::One => copying_half(local, stream, sends).await,
    }
}

/// The relay that both agents use.
async fn joined(local: StdTcpStream, stream: LinkStream) {
    local.set_nonblocking(true).unwrap();
    let local = TcpStream::from_std(local).unwrap();
    join(local, stream, &Tally::default()).await.unwrap();
}

/// A relay with a buffer of its own, that only knows one direction, reads and writes.
async fn copying_half(local: StdTcpStream, mut stream: LinkStream, sends: bool) {
    local.set_nonblocking(true).unwrap();
    let mut local = TcpStream::from_std(local).unwrap();
    let mut chunk = vec![0; CHUNK];
    if sends {
        loop {
            let count = local.read(&mut chunk).await.unwrap();
            if count == 0 {
                break;
            }
            stream.write_all(&chunk[..count]).await.unwrap();
        }
        stream.shutdown().await.unwrap();
        assert_eq!(stream.read(&mut chunk).await.unwrap(), 0);
    } else {
        loop {
            let count = stream.read(&mut chunk).await.unwrap();
            if count == 0 {
                break;
            }
            local.write_all(&chunk[..count]).await.unwrap();
        }
        stream.shutdown().await.unwrap();
    }
}
