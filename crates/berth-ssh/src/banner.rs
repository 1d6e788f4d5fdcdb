//! The first line that an sshd sends (RFC 4253 4.2): it comes before any cryptography, so it is the cheapest sign of life.

use std::io;
use std::net::SocketAddr;

use berth_process::escape::escape_untrusted;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// How much of a server's words is read before its banner.
const LIMIT: u64 = 4096;

/// What a connection came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Banner {
    /// The server's identification, escaped.
    Seen(String),
    /// The connection was refused or reset.
    Refused(String),
    /// Somebody accepted, and closed or said something else: a forwarder whose other end is not there yet.
    Missing(String),
}

/// Connects and waits for the banner. The caller sets the deadline.
pub(crate) async fn read_banner(address: SocketAddr) -> Banner {
    let mut stream = match TcpStream::connect(address).await {
        Ok(stream) => stream,
        Err(error) => return Banner::Refused(error.to_string()),
    };
    let mut seen = Vec::new();
    let mut limited = (&mut stream).take(LIMIT);
    loop {
        match limited.read_buf(&mut seen).await {
            Ok(0) => return Banner::Missing(missing(&seen)),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                return Banner::Missing("the connection was reset".to_owned());
            }
            Err(error) => return Banner::Missing(error.to_string()),
        }
        if let Some(banner) = find(&seen) {
            return Banner::Seen(banner);
        }
    }
}

/// A server may send other lines first.
fn find(seen: &[u8]) -> Option<String> {
    let mut lines = seen.split_inclusive(|byte| *byte == b'\n');
    let line = lines.find(|line| line.starts_with(b"SSH-") && line.ends_with(b"\n"))?;
    Some(escape_untrusted(line.trim_ascii_end()))
}

fn missing(seen: &[u8]) -> String {
    if seen.is_empty() {
        return "the connection was closed".to_owned();
    }
    let shown = &seen[..seen.len().min(80)];
    format!(
        "no sshd, but \"{}\"",
        escape_untrusted(shown.trim_ascii_end())
    )
}
