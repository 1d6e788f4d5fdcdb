//! A program that opens and closes ports on command, and says when: the guest's half of measuring how fast the host
//! notices. Times are the kernel's monotonic clock, which host and guest share where they share a kernel.

use std::io::{BufRead, Write};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::str::FromStr;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::net::{AddressFamily, SocketType, bind, listen, socket, sockopt};
use rustix::time::{ClockId, clock_gettime};

/// How long a server takes between bind and listen when it takes its time.
const GAP: Duration = Duration::from_millis(20);

/// A line of input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Command {
    /// Bind and listen at once, on so many ports from the first on.
    Open(u16, u16),
    /// Bind, and listen 20 ms later.
    OpenLate(u16),
    /// Close all.
    Close,
}

/// Carries out commands until the input ends; answers each with the time just before the first `listen` or `close`.
pub(super) fn run(input: impl BufRead, mut output: impl Write) -> Result<()> {
    let mut open = Vec::new();
    for line in input.lines() {
        let command: Command = line.context("read a command")?.parse()?;
        let moment = command.execute(&mut open)?;
        writeln!(output, "{}", moment.as_nanos())
            .and_then(|()| output.flush())
            .context("answer")?;
    }
    Ok(())
}

impl Command {
    fn execute(self, open: &mut Vec<OwnedFd>) -> Result<Duration> {
        match self {
            Self::Open(first, count) => {
                let moment = now();
                for port in first..first.saturating_add(count) {
                    let bound = bound(port)?;
                    listen(&bound, 128).with_context(|| format!("listen on port {port}"))?;
                    open.push(bound);
                }
                Ok(moment)
            }
            Self::OpenLate(port) => {
                let bound = bound(port)?;
                sleep(GAP);
                let moment = now();
                listen(&bound, 128).with_context(|| format!("listen on port {port}"))?;
                open.push(bound);
                Ok(moment)
            }
            Self::Close => {
                let moment = now();
                open.clear();
                Ok(moment)
            }
        }
    }
}

/// Clients of the last run may still wait for their time to end.
fn bound(port: u16) -> Result<OwnedFd> {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).context("make a socket")?;
    sockopt::set_socket_reuseaddr(&socket, true).context("share a port with the past")?;
    bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))
        .with_context(|| format!("bind port {port}"))?;
    Ok(socket)
}

/// Time of the kernel's monotonic clock.
pub(crate) fn now() -> Duration {
    Duration::try_from(clock_gettime(ClockId::Monotonic)).expect("it began at zero")
}

impl std::fmt::Display for Command {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Open(first, count) => write!(f, "open {first} {count}"),
            Self::OpenLate(port) => write!(f, "late {port}"),
            Self::Close => f.write_str("close"),
        }
    }
}

impl FromStr for Command {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> Result<Self> {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["open", first, count] => Ok(Self::Open(first.parse()?, count.parse()?)),
            ["late", port] => Ok(Self::OpenLate(port.parse()?)),
            ["close"] => Ok(Self::Close),
            _ => bail!("{line:?} is not a command"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn ports_open_and_close_at_the_times_that_are_told() {
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let before = now();
        let mut open = Vec::new();
        let opened = Command::Open(port, 1).execute(&mut open).unwrap();
        TcpStream::connect(("127.0.0.1", port)).unwrap();
        let closed = Command::Close.execute(&mut open).unwrap();
        assert!(TcpStream::connect(("127.0.0.1", port)).is_err());
        let late = Command::OpenLate(port).execute(&mut open).unwrap();
        TcpStream::connect(("127.0.0.1", port)).unwrap();
        assert!(before <= opened && opened <= closed && closed <= late && late <= now());
    }

    #[test]
    fn commands_are_lines() {
        for command in [
            Command::Open(5000, 100),
            Command::OpenLate(7),
            Command::Close,
        ] {
            assert_eq!(command.to_string().parse::<Command>().unwrap(), command);
        }
        assert!("open 5000".parse::<Command>().is_err());
        let mut output = Vec::new();
        run(&b"close\n"[..], &mut output).unwrap();
        assert!(
            String::from_utf8(output)
                .unwrap()
                .trim()
                .parse::<u64>()
                .is_ok()
        );
        assert!(run(&b"what\n"[..], &mut Vec::new()).is_err());
    }
}
