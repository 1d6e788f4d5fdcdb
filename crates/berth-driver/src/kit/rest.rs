//! The HTTP service of the program: the VM's state, and orders to change it.
//!
//! One request is one connection, with HTTP/1.0, so that an answer ends where the connection does: vfkit answers like any web
//! server, krunkit with a head and a body of fixed bytes and nothing that says how many.

use std::path::{Path, PathBuf};
use std::time::Duration;

use berth_process::escape::escape_untrusted;
use serde::Deserialize;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::error::DriverError;
use crate::sys;

/// How long the program may take for an answer, or a connection to its sockets for being accepted.
pub(super) const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Longest answer that is read.
const ANSWER_MAX: u64 = 64 << 10;
/// What stands before every state's name.
const PREFIX: &str = "VirtualMachineState";

/// The service behind a unix socket.
#[derive(Debug)]
pub(super) struct Rest(PathBuf);

#[derive(Deserialize)]
struct State {
    state: String,
}

impl Rest {
    pub(super) fn new(socket: PathBuf) -> Self {
        Self(socket)
    }

    /// The VM's state: `Running`, `Stopped`, `Paused`, `Error`, `Starting` and others.
    pub(super) async fn state(&self) -> Result<String, DriverError> {
        let (what, body) = ("GET /vm/state", self.ask("GET", "").await?);
        // krunkit ends its answer with a zero byte.
        let body = body.trim_ascii_end().strip_suffix(b"\0").unwrap_or(&body);
        let state: State =
            serde_json::from_slice(body).map_err(|error| failed(what, error.to_string()))?;
        let name = state.state.strip_prefix(PREFIX);
        name.map(|name| escape_untrusted(name.as_bytes()))
            .ok_or_else(|| {
                let said = escape_untrusted(state.state.as_bytes());
                failed(what, format!("{said} is no state of a VM"))
            })
    }

    /// Orders a change: `Stop`, `HardStop`, `Pause`, `Resume`.
    pub(super) async fn order(&self, change: &str) -> Result<(), DriverError> {
        let body = json!({ "state": change }).to_string();
        self.ask("POST", &body).await.map(drop)
    }

    async fn ask(&self, method: &str, body: &str) -> Result<Vec<u8>, DriverError> {
        let what = format!("{method} /vm/state");
        let answer = tokio::time::timeout(ANSWER_LIMIT, exchange(&self.0, &what, body)).await;
        let answer = answer
            .map_err(|_| DriverError::Timeout {
                what: format!("an answer to {what} from {}", self.0.display()),
                seconds: ANSWER_LIMIT.as_secs(),
            })?
            .map_err(DriverError::io("talk to", &self.0))?;
        let (status, body) = parse(&answer).ok_or_else(|| failed(&what, "no HTTP answer"))?;
        if (200..300).contains(&status) {
            return Ok(body.to_owned());
        }
        let said = escape_untrusted(&body[..body.len().min(200)]);
        Err(failed(&what, format!("refused with {status}: {said}")))
    }
}

fn failed(command: &str, why: impl Into<String>) -> DriverError {
    DriverError::Monitor {
        command: command.to_owned(),
        why: why.into(),
    }
}

async fn exchange(socket: &Path, what: &str, body: &str) -> std::io::Result<Vec<u8>> {
    let mut stream = sys::connect(socket).await?;
    let length = body.len();
    let request = format!(
        "{what} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    // In one piece: krunkit reads once.
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_MAX).read_to_end(&mut answer).await?;
    Ok(answer)
}

/// Status and body.
fn parse(answer: &[u8]) -> Option<(u16, &[u8])> {
    const END: &[u8] = b"\r\n\r\n";
    let head = answer.windows(END.len()).position(|bytes| bytes == END)?;
    let line = answer[..head].split(|&byte| byte == b'\r').next()?;
    let line = std::str::from_utf8(line).ok()?;
    let status = line.strip_prefix("HTTP/1.")?.split(' ').nth(1)?;
    Some((status.parse().ok()?, &answer[head + END.len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_of_both_programs() {
        let vfkit = b"HTTP/1.0 202 Accepted\r\nDate: x\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(parse(vfkit), Some((202, &b""[..])));
        let krunkit = b"HTTP/1.1 200 OK\r\nContent-type: application/json\r\n\r\n{}\0";
        assert_eq!(parse(krunkit), Some((200, &b"{}\0"[..])));
    }

    #[test]
    fn what_is_no_answer() {
        for bytes in [
            &b""[..],
            b"HTTP/1.1 200 OK\r\n",
            b"SSH-2.0-x\r\n\r\n",
            b"HTTP/1.1 many OK\r\n\r\n",
            b"HTTP/1.1\r\n\r\n",
            b"HTTP/1.1 \xff\r\n\r\n",
        ] {
            assert_eq!(parse(bytes), None, "{bytes:?}");
        }
    }
}
