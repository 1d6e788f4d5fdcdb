//! A client that asks one question after the other, and counts the time.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::loopback;

/// A server that says nothing for so long does not answer.
const HANG: Duration = Duration::from_secs(5);

/// From question to answer, in microseconds.
pub(super) struct Latency {
    pub(super) median: f64,
    /// 99 of 100 are not higher.
    pub(super) high: f64,
}

/// Asks over UDP.
pub(super) fn latency(port: u16, count: u32, name: impl Fn(u32) -> String) -> Result<Latency> {
    let socket = UdpSocket::bind(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).context("bind")?;
    socket.connect(loopback(port)).context("connect")?;
    socket.set_read_timeout(Some(HANG)).context("set a limit")?;
    let mut times = Vec::new();
    let mut buffer = [0; 1500];
    for n in 0..count {
        let packet = question(n, &name(n));
        let begin = Instant::now();
        socket.send(&packet).context("ask")?;
        let length = socket.recv(&mut buffer).context("wait for an answer")?;
        times.push(begin.elapsed());
        if length < 12 || buffer[..2] != packet[..2] || buffer[7] == 0 {
            bail!("port {port} does not answer {:?}", name(n));
        }
    }
    times.sort_unstable();
    let at = |percent: usize| times[times.len() * percent / 100].as_secs_f64() * 1e6;
    Ok(Latency {
        median: at(50),
        high: at(99),
    })
}

/// Asks somebody who has nothing to look up: what two datagrams and the waking of two programs cost on this machine.
pub(super) fn echo_latency(count: u32) -> Result<Latency> {
    let socket = UdpSocket::bind(loopback(0)).context("bind")?;
    let port = socket.local_addr().context("bind")?.port();
    let echo = std::thread::spawn(move || -> std::io::Result<()> {
        let mut buffer = [0; 512];
        loop {
            let (length, from) = socket.recv_from(&mut buffer)?;
            if length == 0 {
                return Ok(());
            }
            // One answer.
            buffer[7] = 1;
            socket.send_to(&buffer[..length], from)?;
        }
    });
    let latency = latency(port, count, |_| "echo.test".to_owned());
    let end = UdpSocket::bind(loopback(0)).and_then(|socket| socket.send_to(&[], loopback(port)));
    end.context("end the echo")?;
    echo.join()
        .ok()
        .context("the echo panicked")?
        .context("echo")?;
    latency
}

/// Asks over one connection without waiting for answers; questions per second. `None` where the server closes it before.
pub(super) fn pipelined(port: u16, count: u32, name: &str) -> Result<Option<f64>> {
    const AT_ONCE: u32 = 50;
    let mut stream = TcpStream::connect(loopback(port)).context("connect")?;
    stream.set_read_timeout(Some(HANG)).context("set a limit")?;
    stream.set_nodelay(true).context("set an option")?;
    let begin = Instant::now();
    for first in (0..count).step_by(AT_ONCE as usize) {
        let questions: Vec<u8> = (first..first + AT_ONCE)
            .flat_map(|n| framed(&question(n, name)))
            .collect();
        if stream.write_all(&questions).is_err() {
            return Ok(None);
        }
        for _ in 0..AT_ONCE {
            let mut length = [0; 2];
            if stream.read_exact(&mut length).is_err() {
                return Ok(None);
            }
            let mut answer = vec![0; u16::from_be_bytes(length).into()];
            stream.read_exact(&mut answer).context("read an answer")?;
        }
    }
    Ok(Some(f64::from(count) / begin.elapsed().as_secs_f64()))
}

/// Whether a name server listens there.
pub(super) fn answers(port: u16, tcp: bool, name: &str) -> bool {
    const SHORT: Duration = Duration::from_millis(500);
    let packet = question(1, name);
    let ask = || -> std::io::Result<bool> {
        let mut answer = [0; 512];
        if tcp {
            let mut stream = TcpStream::connect(loopback(port))?;
            stream.set_read_timeout(Some(SHORT))?;
            stream.write_all(&framed(&packet))?;
            stream.read_exact(&mut answer[..4])?;
            return Ok(answer[2..4] == packet[..2]);
        }
        let socket = UdpSocket::bind(loopback(0))?;
        socket.connect(loopback(port))?;
        socket.set_read_timeout(Some(SHORT))?;
        socket.send(&packet)?;
        socket.recv(&mut answer)?;
        Ok(answer[..2] == packet[..2])
    };
    ask().unwrap_or(false)
}

fn framed(packet: &[u8]) -> Vec<u8> {
    let length = u16::try_from(packet.len()).unwrap_or_default();
    [&length.to_be_bytes()[..], packet].concat()
}

/// A question for an address.
fn question(number: u32, name: &str) -> Vec<u8> {
    let [_, _, high, low] = number.to_be_bytes();
    let mut packet = vec![high, low, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        packet.push(u8::try_from(label.len()).unwrap_or_default());
        packet.extend(label.as_bytes());
    }
    packet.extend([0, 0, 1, 0, 1]);
    packet
}
