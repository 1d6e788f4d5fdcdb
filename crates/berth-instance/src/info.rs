//! Asking an agent over `ha.sock` (`GET /v1/info`), ours or Lima's.

use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use berth_events::state::State;
use serde::{Deserialize, Serialize};

use crate::sys;

/// Lima's limit for an answer.
pub const DEADLINE: Duration = Duration::from_secs(3);

/// More than any answer needs: 4,096 forwards, each with an error in words, are less.
const MAX_BYTES: u64 = 4 * 1024 * 1024;

/// HTTP/1.0: the answer ends with the connection, and comes in one piece.
const REQUEST: &[u8] =
    b"GET /v1/info HTTP/1.0\r\nHost: lima-hostagent\r\nAccept: application/json\r\n\r\n";

/// What an agent says of its instance.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct AgentInfo {
    /// The unit that systemd or launchd started it as.
    pub auto_started_identifier: String,
    /// Port of the guest's sshd on the host; 0: not known yet.
    pub ssh_local_port: u16,
    /// The state; `None`: it is an agent of Lima's.
    pub berth_state: Option<State>,
    /// Ports and sockets that are forwarded, or ought to be.
    pub berth_forwards: Vec<ForwardInfo>,
    /// The host resolver; `None` where it is off.
    pub berth_names: Option<NamesInfo>,
}

/// The host resolver, as the agent shows it. Counters are since the agent's start.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NamesInfo {
    /// Why it does not work; empty: it does.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub error: String,
    /// UDP port on the host's loopback.
    pub udp_port: u16,
    /// TCP port on the host's loopback.
    pub tcp_port: u16,
    /// Who is asked for ordinary names: `servers`, `systemd-resolved` or `system` (the host's `getaddrinfo`).
    pub source: String,
    /// Queries by datagram.
    pub udp_queries: u64,
    /// Queries over connections.
    pub tcp_queries: u64,
    /// Answers by where they came from: static names, the host's `/etc/hosts`, the cache, the system's resolver, its servers.
    pub answers: NameAnswers,
    /// Queries that nobody answered.
    pub failed: u64,
    /// Malformed queries, or of a kind that is not served.
    pub refused: u64,
    /// Queries that were turned away because too many were waiting.
    pub over_limit: u64,
    /// Answers kept from the guest because they sent a public name to loopback or into the guest's network.
    pub rebinding: u64,
    /// Messages that pretended to be an answer of a server.
    pub forged: u64,
    /// Answers that are kept now.
    pub cached: u64,
    /// How often the host's configuration of names or its network changed.
    pub changes: u64,
    /// The host's name servers.
    pub servers: Vec<NameServerInfo>,
}

/// Answers of the host resolver, by where they came from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "said where they are used")]
pub struct NameAnswers {
    pub static_names: u64,
    pub hosts_file: u64,
    pub cache: u64,
    pub system: u64,
    pub servers: u64,
}

/// A name server of the host.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NameServerInfo {
    /// `ip:port` (IPv6 in brackets).
    pub address: String,
    /// Queries that it got.
    pub asked: u64,
    /// Queries that it answered.
    pub answered: u64,
    /// It has not answered lately.
    pub silent: bool,
}

/// One forward, as the agent shows it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ForwardInfo {
    /// `tcp`, `udp` or `unix`.
    pub transport: String,
    /// `ip:port` (IPv6 in brackets) or a path in the guest.
    pub guest: String,
    /// `ip:port`, `localhost:port` or a path on the host.
    pub host: String,
    /// `listening`, `waiting` (for a port that is taken) or `failed`.
    pub state: String,
    /// Connections that are open (UDP: clients).
    pub connections: u64,
    /// All connections so far.
    pub total: u64,
    /// Bytes that went into the guest.
    pub bytes_to_guest: u64,
    /// Bytes that came out of it.
    pub bytes_to_host: u64,
    /// What went wrong last; empty: nothing.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub last_error: String,
}

/// An agent gave no answer that could be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InfoError {
    /// Nobody listens on the socket.
    #[error("no host agent listens on {}", .path.display())]
    NotListening {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The connection failed.
    #[error("cannot {verb} the host agent through {}", .path.display())]
    Io {
        /// What was being done.
        verb: &'static str,
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The answer did not come in time.
    #[error("the host agent did not answer on {} within {} s", .path.display(), .deadline.as_secs_f64())]
    Timeout {
        /// The socket.
        path: PathBuf,
        /// The limit.
        deadline: Duration,
    },
    /// The answer is not understood.
    #[error("the host agent's answer on {} is not understood: {why}", .path.display())]
    Answer {
        /// The socket.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// Asks for `/v1/info` and waits until `deadline` at most. Blocks the thread.
pub fn ask(socket: &Path, deadline: Duration) -> Result<AgentInfo, InfoError> {
    let path = || socket.to_owned();
    let until = Instant::now() + deadline;
    let failed = |verb| {
        move |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => InfoError::NotListening {
                path: path(),
                source,
            },
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => InfoError::Timeout {
                path: path(),
                deadline,
            },
            _ => InfoError::Io {
                verb,
                path: path(),
                source,
            },
        }
    };
    let mut stream = sys::connect(socket, deadline).map_err(failed("connect to"))?;
    stream.write_all(REQUEST).map_err(failed("ask"))?;
    let answer = read_until_end(&mut stream, until).map_err(failed("hear"))?;
    let body = body(&answer).map_err(|why| InfoError::Answer { path: path(), why })?;
    serde_json::from_slice(body).map_err(|why| InfoError::Answer {
        path: path(),
        why: why.to_string(),
    })
}

/// Reads all that comes, within one deadline over all reads: a byte now and then does not extend it.
fn read_until_end(stream: &mut sys::Stream, until: Instant) -> io::Result<Vec<u8>> {
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(answer),
            Ok(read) => answer.extend_from_slice(&buffer[..read]),
            Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
            Err(why) => return Err(why),
        }
        if answer.len() as u64 > MAX_BYTES {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the answer is too long",
            ));
        }
    }
}

/// The body of a response with status 200.
fn body(answer: &[u8]) -> Result<&[u8], String> {
    let head_end = answer.windows(4).position(|four| four == b"\r\n\r\n");
    let head_end = head_end.ok_or("no HTTP response")?;
    let status_line = answer[..head_end]
        .split(|&b| b == b'\r')
        .next()
        .unwrap_or_default();
    let status_line = String::from_utf8_lossy(status_line);
    let mut words = status_line.split(' ');
    match (words.next(), words.next()) {
        (Some("HTTP/1.0" | "HTTP/1.1"), Some("200")) => Ok(&answer[head_end + 4..]),
        (Some("HTTP/1.0" | "HTTP/1.1"), Some(status)) => {
            Err(format!("HTTP status {}", status.escape_debug()))
        }
        _ => Err("no HTTP response".to_owned()),
    }
}
