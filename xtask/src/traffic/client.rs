//! The host's side: how much passes, and how long it takes.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{scope, spawn};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::block::Block;
use super::request::{Task, read_some, send};

/// How long a peer may say nothing: a limit against hanging.
const SILENCE: Duration = Duration::from_secs(30);

/// A connection to a server, which fails rather than hang.
pub(crate) fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))?;
    Ok(stream)
}

/// Carries a task out on a stream, and says how long it took.
pub(crate) fn bulk(stream: &mut (impl Read + Write), task: Task) -> io::Result<Duration> {
    let mut buffer = Block::new();
    let begin = Instant::now();
    stream.write_all(&task.encode())?;
    match task {
        Task::Upload(amount) => {
            send(stream, &buffer, amount)?;
            stream.read_exact(&mut buffer[..1])?;
        }
        Task::Download(amount) => {
            let mut left = amount;
            while left > 0 {
                left -= read_some(stream, &mut buffer, left)? as u64;
            }
        }
        Task::Echo(amount) => {
            let mut left = amount;
            while left > 0 {
                let count = read_some(&mut io::repeat(0), &mut buffer, left)?;
                stream.write_all(&buffer[..count])?;
                stream.read_exact(&mut buffer[..count])?;
                left -= count as u64;
            }
        }
    }
    Ok(begin.elapsed())
}

/// The task on each of several connections at once; the time until the last has ended.
pub(crate) fn parallel_bulk(to: SocketAddr, streams: usize, task: Task) -> Result<Duration> {
    let connect = |_| connect(to).with_context(|| format!("connect to {to}"));
    let connections = (0..streams).map(connect).collect::<Result<Vec<_>>>()?;
    let begin = Instant::now();
    let workers: Vec<_> = connections
        .into_iter()
        .map(|mut stream| spawn(move || bulk(&mut stream, task)))
        .collect();
    for worker in workers {
        let outcome = worker.join().ok().context("a stream's thread panicked")?;
        outcome.with_context(|| format!("{task:?} through {to}"))?;
    }
    Ok(begin.elapsed())
}

/// Round trips of messages of one size on an open stream, each in microseconds.
pub(crate) fn ping_pong(
    stream: &mut (impl Read + Write),
    size: usize,
    times: usize,
) -> io::Result<Latencies> {
    let mut message = vec![0; size];
    stream.write_all(&Task::Echo((size * times) as u64).encode())?;
    let round_trip = |_| {
        let begin = Instant::now();
        stream.write_all(&message)?;
        stream.read_exact(&mut message)?;
        Ok(microseconds(begin.elapsed()))
    };
    (0..times)
        .map(round_trip)
        .collect::<io::Result<_>>()
        .map(Latencies::of)
}

/// Connections one after the other, each with one byte there and back.
pub(crate) fn connect_in_turn(to: SocketAddr, times: usize) -> Result<Latencies> {
    let one = |_| short_connection(to).map(microseconds);
    let all = (0..times).map(one).collect::<io::Result<_>>();
    all.map(Latencies::of)
        .with_context(|| format!("a short connection to {to}"))
}

fn short_connection(to: SocketAddr) -> io::Result<Duration> {
    let begin = Instant::now();
    let mut stream = connect(to)?;
    let [kind, amount @ ..] = Task::Echo(1).encode();
    let mut message = [kind; 10];
    message[1..9].copy_from_slice(&amount);
    stream.write_all(&message)?;
    stream.read_exact(&mut message[..1])?;
    drop(stream);
    Ok(begin.elapsed())
}

/// What many short connections at once came to.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Rate {
    /// Connections in a second that went well.
    pub(crate) per_second: f64,
    /// Connections that did not.
    pub(crate) failed: u64,
}

/// Short connections, so many at a time, for so long.
#[allow(clippy::cast_precision_loss, reason = "counts far below 2^52")]
pub(crate) fn connect_at_once(to: SocketAddr, at_once: usize, duration: Duration) -> Rate {
    let (good, bad) = (AtomicU64::new(0), AtomicU64::new(0));
    let begin = Instant::now();
    scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                loop {
                    let counter = if short_connection(to).is_ok() {
                        &good
                    } else {
                        &bad
                    };
                    counter.fetch_add(1, Ordering::Relaxed);
                    if begin.elapsed() >= duration {
                        break;
                    }
                }
            });
        }
    });
    Rate {
        per_second: good.into_inner() as f64 / begin.elapsed().as_secs_f64(),
        failed: bad.into_inner(),
    }
}

/// Sorted durations in microseconds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Latencies(Vec<f64>);

impl Latencies {
    fn of(mut all: Vec<f64>) -> Self {
        all.sort_by(f64::total_cmp);
        Self(all)
    }

    /// The duration that this part of all, in percent, does not exceed; not a number of none.
    pub(crate) fn percentile(&self, percent: usize) -> f64 {
        let rank = (self.0.len() * percent).div_ceil(100);
        self.0
            .get(rank.saturating_sub(1))
            .copied()
            .unwrap_or(f64::NAN)
    }
}

fn microseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}

#[cfg(test)]
mod tests {
    use super::super::server::start;
    use super::*;

    #[test]
    fn every_task_ends() {
        let to = start("127.0.0.1:0".parse().unwrap()).unwrap();
        for task in [
            Task::Upload(3 << 20),
            Task::Download(3 << 20),
            Task::Echo(600_000),
        ] {
            let took = parallel_bulk(to, 2, task).unwrap();
            assert!(took > Duration::ZERO);
        }
        let mut stream = connect(to).unwrap();
        assert_eq!(ping_pong(&mut stream, 64, 10).unwrap().0.len(), 10);
        assert_eq!(connect_in_turn(to, 10).unwrap().0.len(), 10);
        let rate = connect_at_once(to, 3, Duration::from_millis(20));
        assert!(rate.per_second > 0.0 && rate.failed == 0, "{rate:?}");
    }

    #[test]
    fn a_server_that_is_not_there_counts_as_failure() {
        let to = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        assert!(parallel_bulk(to, 1, Task::Upload(1)).is_err());
        assert!(connect_in_turn(to, 1).is_err());
        let rate = connect_at_once(to, 1, Duration::from_millis(1));
        assert!(rate.failed > 0 && rate.per_second == 0.0, "{rate:?}");
    }

    #[test]
    fn percentiles_are_ranks() {
        let latencies = Latencies::of((1..=200).rev().map(f64::from).collect());
        assert!((latencies.percentile(50) - 100.0).abs() < 1e-9);
        assert!((latencies.percentile(99) - 198.0).abs() < 1e-9);
        assert!(Latencies::of(vec![]).percentile(50).is_nan());
    }
}
