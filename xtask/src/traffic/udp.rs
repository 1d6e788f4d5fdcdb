//! Datagrams: echoed, or counted.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// First byte of a datagram that comes back; of one that is counted; of one that asks for the count, which it resets.
const ECHO: u8 = b'e';
const COUNT: u8 = b'c';
const ASK: u8 = b'?';

/// Room for the largest datagram.
const LARGEST: usize = 65536;

/// How long an answer is waited for before the datagram counts as lost.
const LOST: Duration = Duration::from_millis(200);

/// How often the count is asked for.
const QUESTIONS: u32 = 25;

/// Answers for as long as the socket works.
pub(super) fn serve(socket: &UdpSocket) {
    let mut buffer = vec![0; LARGEST];
    let mut count = 0_u64;
    loop {
        let Ok((length, client)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        match buffer.first() {
            Some(&ECHO) => {
                let _ = socket.send_to(&buffer[..length], client);
            }
            Some(&COUNT) => count += 1,
            Some(&ASK) => {
                let mut answer = [ASK; 9];
                answer[1..].copy_from_slice(&count.to_be_bytes());
                let _ = socket.send_to(&answer, client);
                count = 0;
            }
            _ => {}
        }
    }
}

/// What became of datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Blast {
    /// Datagrams sent.
    pub(crate) sent: u64,
    /// Datagrams that arrived.
    pub(crate) arrived: u64,
    /// How long it took.
    pub(crate) took: Duration,
}

/// Sends datagrams of this size one way, as fast as the socket takes them, and then asks how many have arrived.
pub(crate) fn blast(to: SocketAddr, size: usize, duration: Duration) -> Result<Blast> {
    let socket = client(to)?;
    // Resets the count, and has a flow made before the clock runs.
    ask(&socket)?;
    let payload = vec![COUNT; size];
    let begin = Instant::now();
    let mut sent = 0;
    while begin.elapsed() < duration {
        for _ in 0..32 {
            sent += u64::from(socket.send(&payload).is_ok());
        }
    }
    let took = begin.elapsed();
    let mut arrived = 0;
    // What is under way still arrives: asked until nothing more was counted.
    loop {
        std::thread::sleep(LOST);
        match ask(&socket)? {
            0 => break,
            more => arrived += more,
        }
    }
    Ok(Blast {
        sent,
        arrived,
        took,
    })
}

fn ask(socket: &UdpSocket) -> Result<u64> {
    let mut answer = [0; 9];
    for _ in 0..QUESTIONS {
        socket.send(&[ASK]).context("ask for the count")?;
        match socket.recv(&mut answer) {
            Ok(9) => {
                let [_, count @ ..] = answer;
                return Ok(u64::from_be_bytes(count));
            }
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error).context("receive the count"),
        }
    }
    bail!("the server does not answer datagrams")
}

/// Keeps `window` datagrams of this size under way, each sent when another has come back.
pub(crate) fn ping(to: SocketAddr, size: usize, window: u32, duration: Duration) -> Result<Blast> {
    let socket = client(to)?;
    ask(&socket)?;
    let payload = vec![ECHO; size];
    let mut buffer = vec![0; LARGEST];
    let begin = Instant::now();
    let (mut sent, mut arrived) = (0, 0);
    while begin.elapsed() < duration {
        // All that is missing after so long a silence is lost.
        for _ in 0..window {
            sent += u64::from(socket.send(&payload).is_ok());
        }
        while begin.elapsed() < duration && socket.recv(&mut buffer).is_ok() {
            arrived += 1;
            sent += u64::from(socket.send(&payload).is_ok());
        }
    }
    let took = begin.elapsed();
    while arrived < sent && socket.recv(&mut buffer).is_ok() {
        arrived += 1;
    }
    Ok(Blast {
        sent,
        arrived,
        took,
    })
}

fn client(to: SocketAddr) -> Result<UdpSocket> {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).context("bind a UDP socket")?;
    socket
        .connect(to)
        .with_context(|| format!("connect to {to}/udp"))?;
    socket
        .set_read_timeout(Some(LOST))
        .context("set a time limit")?;
    Ok(socket)
}

impl Blast {
    /// Datagrams that arrived in a second.
    #[allow(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    pub(crate) fn per_second(self) -> f64 {
        self.arrived as f64 / self.took.as_secs_f64()
    }

    /// What part was lost, in percent.
    #[allow(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    pub(crate) fn loss(self) -> f64 {
        100.0 * (1.0 - self.arrived as f64 / self.sent as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::super::server::start;
    use super::*;

    #[test]
    fn what_arrives_is_counted() {
        let to = start("127.0.0.1:0".parse().unwrap()).unwrap();
        let outcome = blast(to, 64, Duration::from_millis(20)).unwrap();
        assert!(
            outcome.arrived > 0 && outcome.arrived <= outcome.sent,
            "{outcome:?}"
        );
        let outcome = ping(to, 64, 4, Duration::from_millis(20)).unwrap();
        assert!(
            outcome.arrived > 0 && outcome.arrived <= outcome.sent,
            "{outcome:?}"
        );
        let half = Blast {
            sent: 4,
            arrived: 2,
            took: Duration::from_secs(2),
        };
        assert!((half.loss() - 50.0).abs() < 1e-9 && (half.per_second() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn silence_is_an_error() {
        let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = silent.local_addr().unwrap();
        let socket = client(to).unwrap();
        socket
            .set_read_timeout(Some(Duration::from_millis(1)))
            .unwrap();
        assert!(ask(&socket).is_err());
    }
}
