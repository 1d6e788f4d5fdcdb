//! A client for QEMU's machine protocol (QMP): one session, owned by one task; everybody else holds a [`Qmp`] that sends it
//! messages.
//!
//! The peer is QEMU, which a hostile guest may have taken over: lines have a largest length, replies are matched by id, what is
//! not understood ends the session, and every command has a deadline. A session that ended is opened again by the next command.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use berth_process::escape::escape_untrusted;
use bytes::BytesMut;
use futures_util::StreamExt as _;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio_util::codec::{Decoder, FramedRead};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::driver::VmEvent;
use crate::error::DriverError;
use crate::qemu::argv::AGENT_DEVICE;
use crate::sys;

/// How long a command may take, unless it is known to take longer.
pub(super) const COMMAND_LIMIT: Duration = Duration::from_secs(3);
/// Longest line of the monitor; more means that something is wrong with it.
const LINE_MAX: usize = 1 << 20;
/// Commands that wait for the owner of the session.
const QUEUE: usize = 16;
/// Events that a slow listener may be behind.
const EVENTS: usize = 64;
/// Longest text of the monitor that is shown.
const WORDS_MAX: usize = 4096;

/// The status of a background job changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct JobChange {
    /// The job.
    pub(super) id: String,
    /// `running`, `concluded`, …
    pub(super) status: String,
}

/// A handle to the monitor of one VM. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Qmp {
    requests: mpsc::Sender<Request>,
    vm_events: broadcast::Sender<VmEvent>,
    jobs: broadcast::Sender<JobChange>,
}

#[derive(Debug)]
struct Request {
    command: &'static str,
    arguments: Value,
    reply: oneshot::Sender<Result<Value, String>>,
}

impl Qmp {
    /// Takes over a connection to `socket` on which nothing was said yet, and returns when the monitor answers; with what the
    /// VM does by itself from then on. The task that owns the session ends with `cancel`. The caller limits the time.
    pub(super) async fn open(
        stream: sys::LocalStream,
        socket: PathBuf,
        tasks: &TaskTracker,
        cancel: CancellationToken,
    ) -> Result<(Self, broadcast::Receiver<VmEvent>), String> {
        let session = Session::negotiate(stream).await?;
        let (requests, inbox) = mpsc::channel(QUEUE);
        let qmp = Self {
            requests,
            vm_events: broadcast::Sender::new(EVENTS),
            jobs: broadcast::Sender::new(EVENTS),
        };
        let owner = Owner {
            socket,
            inbox,
            vm_events: qmp.vm_events.clone(),
            jobs: qmp.jobs.clone(),
        };
        let events = qmp.vm_events.subscribe();
        tasks.spawn(async move {
            let _ = cancel.run_until_cancelled(owner.run(session)).await;
        });
        Ok((qmp, events))
    }

    /// Changes of background jobs, from now on.
    pub(super) fn jobs(&self) -> broadcast::Receiver<JobChange> {
        self.jobs.subscribe()
    }

    /// Runs a command; its return value.
    pub(super) async fn execute(
        &self,
        command: &'static str,
        arguments: Value,
    ) -> Result<Value, DriverError> {
        self.execute_within(COMMAND_LIMIT, command, arguments).await
    }

    /// Runs a command that may take longer.
    pub(super) async fn execute_within(
        &self,
        limit: Duration,
        command: &'static str,
        arguments: Value,
    ) -> Result<Value, DriverError> {
        let (reply, answer) = oneshot::channel();
        let request = Request {
            command,
            arguments,
            reply,
        };
        let gone = || "the monitor is closed".to_owned();
        let asked = async {
            self.requests.send(request).await.map_err(|_| gone())?;
            answer.await.unwrap_or_else(|_| Err(gone()))
        };
        match tokio::time::timeout(limit, asked).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(why)) => Err(DriverError::Monitor {
                command: command.to_owned(),
                why,
            }),
            Err(_) => Err(DriverError::Timeout {
                what: format!("QEMU's monitor to answer {command}"),
                seconds: limit.as_secs(),
            }),
        }
    }

    /// Runs a command of the human monitor; what it printed. Most print nothing, and what they print is an error.
    pub(super) async fn human(&self, line: &str) -> Result<String, DriverError> {
        let command = "human-monitor-command";
        let value = self
            .execute(command, json!({ "command-line": line }))
            .await?;
        match value {
            Value::String(text) => Ok(text),
            _ => Err(DriverError::Monitor {
                command: command.to_owned(),
                why: "the answer is no text".to_owned(),
            }),
        }
    }
}

/// The task that owns the session.
struct Owner {
    socket: PathBuf,
    inbox: mpsc::Receiver<Request>,
    vm_events: broadcast::Sender<VmEvent>,
    jobs: broadcast::Sender<JobChange>,
}

impl Owner {
    /// Serves until no handle is left.
    async fn run(mut self, session: Session) {
        let mut session = Some(session);
        loop {
            if let Some(open) = session.take() {
                match self.serve(open).await {
                    Ended::NobodyLeft => return,
                    Ended::Broken(why) => {
                        tracing::debug!(why, "The session with QEMU's monitor ended.");
                    }
                }
            }
            let Some(request) = self.inbox.recv().await else {
                return;
            };
            match self.reopen(&request).await {
                Ok(mut open) => match open.send(request).await {
                    Ok(()) => session = Some(open),
                    Err(why) => tracing::debug!(why, "The session with QEMU's monitor ended."),
                },
                Err(why) => {
                    let _ = request.reply.send(Err(why));
                }
            }
        }
    }

    async fn reopen(&self, request: &Request) -> Result<Session, String> {
        tracing::debug!(
            command = request.command,
            "Opening the session with QEMU's monitor again."
        );
        let opening = async {
            let stream = sys::connect(&self.socket)
                .await
                .map_err(|error| format!("cannot connect to {}: {error}", self.socket.display()))?;
            Session::negotiate(stream).await
        };
        tokio::time::timeout(COMMAND_LIMIT, opening)
            .await
            .unwrap_or_else(|_| Err("no greeting; another client may hold the monitor".to_owned()))
    }

    /// Serves one session to its end. Replies that will not come any more are answered by dropping their channel.
    async fn serve(&mut self, mut session: Session) -> Ended {
        loop {
            let step = tokio::select! {
                request = self.inbox.recv() => match request {
                    Some(request) => session.send(request).await,
                    None => return Ended::NobodyLeft,
                },
                message = session.lines.next() => match message {
                    Some(Ok(line)) => self.take_in(&mut session, &line),
                    Some(Err(error)) => Err(error.to_string()),
                    None => Err("QEMU hung up".to_owned()),
                },
            };
            if let Err(why) = step {
                session.fail_pending(&why);
                return Ended::Broken(why);
            }
        }
    }

    fn take_in(&self, session: &mut Session, line: &[u8]) -> Result<(), String> {
        match Message::parse(line)? {
            Message::Reply { id, result } => {
                // Unknown ids: whoever asked has stopped waiting.
                if let Some(reply) = session.pending.remove(&id) {
                    let _ = reply.send(result);
                }
            }
            Message::Vm(event) => {
                let _ = self.vm_events.send(event);
            }
            Message::Job(change) => {
                let _ = self.jobs.send(change);
            }
            Message::Other => {}
        }
        Ok(())
    }
}

enum Ended {
    NobodyLeft,
    Broken(String),
}

/// A connection whose greeting is over.
struct Session {
    lines: FramedRead<ReadHalf<sys::LocalStream>, Lines>,
    writer: WriteHalf<sys::LocalStream>,
    pending: HashMap<u64, oneshot::Sender<Result<Value, String>>>,
    next_id: u64,
}

impl Session {
    /// Hears the greeting and leaves negotiation mode. The caller limits the time.
    async fn negotiate(stream: sys::LocalStream) -> Result<Self, String> {
        let (reader, writer) = tokio::io::split(stream);
        let mut session = Self {
            lines: FramedRead::new(reader, Lines::default()),
            writer,
            pending: HashMap::new(),
            next_id: 1,
        };
        let greeting: Value = session.next_json().await?;
        if greeting.get("QMP").is_none() {
            return Err("the greeting is not QMP's".to_owned());
        }
        session
            .write(&json!({ "execute": "qmp_capabilities", "id": 0 }))
            .await?;
        loop {
            // Events may come before the reply.
            let answer = session.next_json().await?;
            if answer.get("id").and_then(Value::as_u64) != Some(0) {
                continue;
            }
            return match answer.get("return") {
                Some(_) => Ok(session),
                None => Err("qmp_capabilities was refused".to_owned()),
            };
        }
    }

    async fn next_json(&mut self) -> Result<Value, String> {
        match self.lines.next().await {
            Some(Ok(line)) => serde_json::from_slice(&line).map_err(|_| not_understood(&line)),
            Some(Err(error)) => Err(error.to_string()),
            None => Err("QEMU hung up".to_owned()),
        }
    }

    async fn send(&mut self, request: Request) -> Result<(), String> {
        let id = self.next_id;
        self.next_id += 1;
        // Those that nobody waits for any more need not be kept.
        self.pending.retain(|_, reply| !reply.is_closed());
        let message =
            json!({ "execute": request.command, "arguments": request.arguments, "id": id });
        let written = self.write(&message).await;
        match &written {
            Ok(()) => {
                self.pending.insert(id, request.reply);
            }
            Err(why) => {
                let _ = request.reply.send(Err(why.clone()));
            }
        }
        written
    }

    async fn write(&mut self, message: &Value) -> Result<(), String> {
        let mut text = message.to_string();
        text.push('\n');
        match tokio::time::timeout(COMMAND_LIMIT, self.writer.write_all(text.as_bytes())).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(format!("cannot write to the monitor: {error}")),
            Err(_) => Err("QEMU does not read from its monitor".to_owned()),
        }
    }

    fn fail_pending(&mut self, why: &str) {
        for (_, reply) in self.pending.drain() {
            let _ = reply.send(Err(why.to_owned()));
        }
    }
}

/// What the monitor can say.
#[derive(Debug, PartialEq)]
enum Message {
    Reply {
        id: u64,
        result: Result<Value, String>,
    },
    Vm(VmEvent),
    Job(JobChange),
    /// An event that nobody needs, or a reply without a known id.
    Other,
}

#[derive(Deserialize)]
struct Wire {
    id: Option<Value>,
    #[serde(rename = "return", default, deserialize_with = "present")]
    value: Option<Value>,
    error: Option<WireError>,
    event: Option<String>,
    #[serde(default)]
    data: Value,
}

/// Keeps `null` apart from nothing.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

#[derive(Deserialize)]
struct WireError {
    #[serde(default)]
    desc: String,
}

impl Message {
    fn parse(line: &[u8]) -> Result<Self, String> {
        let wire: Wire = serde_json::from_slice(line).map_err(|_| not_understood(line))?;
        if let Some(event) = wire.event {
            return Ok(Self::of_event(&event, &wire.data));
        }
        let result = match (wire.value, wire.error) {
            (Some(value), None) => Ok(value),
            (_, Some(error)) => Err(words(error.desc.as_bytes())),
            (None, None) => return Err(not_understood(line)),
        };
        match wire.id.as_ref().and_then(Value::as_u64) {
            Some(id) => Ok(Self::Reply { id, result }),
            None => Ok(Self::Other),
        }
    }

    fn of_event(name: &str, data: &Value) -> Self {
        let text = |key: &str| {
            data.get(key)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        match name {
            "VSERPORT_CHANGE" if text("id") == AGENT_DEVICE => Self::Vm(VmEvent::AgentPort {
                open: data.get("open").and_then(Value::as_bool).unwrap_or(false),
            }),
            "RESET" => Self::Vm(VmEvent::Reset),
            "SHUTDOWN" => Self::Vm(VmEvent::Shutdown),
            "STOP" => Self::Vm(VmEvent::Paused(true)),
            "RESUME" => Self::Vm(VmEvent::Paused(false)),
            "JOB_STATUS_CHANGE" => Self::Job(JobChange {
                id: text("id"),
                status: text("status"),
            }),
            _ => Self::Other,
        }
    }
}

/// Text of the monitor, safe to show.
pub(super) fn words(bytes: &[u8]) -> String {
    escape_untrusted(&bytes[..bytes.len().min(WORDS_MAX)])
}

fn not_understood(line: &[u8]) -> String {
    let shown = &line[..line.len().min(200)];
    format!(
        "the monitor said what is not understood: {}",
        escape_untrusted(shown)
    )
}

/// Splits the stream into lines of limited length. Remembers how far it has looked, so that a long line costs no more than its
/// length.
#[derive(Debug, Default)]
struct Lines {
    looked: usize,
}

#[derive(Debug, thiserror::Error)]
enum LineError {
    #[error("the monitor sent a line of more than {LINE_MAX} bytes")]
    TooLong,
    #[error("cannot read from the monitor: {0}")]
    Read(String),
}

impl From<std::io::Error> for LineError {
    fn from(error: std::io::Error) -> Self {
        Self::Read(error.to_string())
    }
}

impl Decoder for Lines {
    type Item = BytesMut;
    type Error = LineError;

    fn decode(&mut self, buffer: &mut BytesMut) -> Result<Option<BytesMut>, LineError> {
        loop {
            let Some(end) = buffer[self.looked..].iter().position(|&byte| byte == b'\n') else {
                self.looked = buffer.len();
                return if buffer.len() > LINE_MAX {
                    Err(LineError::TooLong)
                } else {
                    Ok(None)
                };
            };
            let line = buffer.split_to(self.looked + end + 1);
            self.looked = 0;
            if line.len() > LINE_MAX {
                return Err(LineError::TooLong);
            }
            if !line.trim_ascii().is_empty() {
                return Ok(Some(line));
            }
        }
    }

    /// What is left at the end is no line.
    fn decode_eof(&mut self, buffer: &mut BytesMut) -> Result<Option<BytesMut>, LineError> {
        self.decode(buffer)
    }
}

/// The session needs nothing of a stream but these.
const _: fn() = || {
    fn needs<T: AsyncRead + AsyncWrite + Send + Unpin>() {}
    needs::<sys::LocalStream>();
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages() {
        let reply = |id, result| Message::Reply { id, result };
        for (line, want) in [
            (r#"{"return": {}, "id": 7}"#, reply(7, Ok(json!({})))),
            (r#"{"return": null, "id": 7}"#, reply(7, Ok(Value::Null))),
            (
                r#"{"id": 8, "error": {"class": "GenericError", "desc": "no \u001b[31msuch"}}"#,
                reply(8, Err("no \\u{1b}[31msuch".to_owned())),
            ),
            (r#"{"return": {}, "id": "not ours"}"#, Message::Other),
            (
                r#"{"event": "VSERPORT_CHANGE", "data": {"open": true, "id": "agent-port"}, "timestamp": {}}"#,
                Message::Vm(VmEvent::AgentPort { open: true }),
            ),
            (
                r#"{"event": "VSERPORT_CHANGE", "data": {"open": true, "id": "console0"}}"#,
                Message::Other,
            ),
            (
                r#"{"event": "RESET", "data": {"guest": true}}"#,
                Message::Vm(VmEvent::Reset),
            ),
            (r#"{"event": "SHUTDOWN"}"#, Message::Vm(VmEvent::Shutdown)),
            (r#"{"event": "STOP"}"#, Message::Vm(VmEvent::Paused(true))),
            (
                r#"{"event": "RESUME", "data": 3}"#,
                Message::Vm(VmEvent::Paused(false)),
            ),
            (
                r#"{"event": "RTC_CHANGE", "data": {"offset": 1}}"#,
                Message::Other,
            ),
        ] {
            assert_eq!(Message::parse(line.as_bytes()).unwrap(), want, "{line}");
        }
    }

    #[test]
    fn nonsense_is_an_error() {
        let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
        for line in [
            &b"\xff\xfe"[..],
            b"[]",
            b"{}",
            b"3",
            br#"{"id": 1}"#,
            br#"{"event": 3}"#,
            deep.as_bytes(),
        ] {
            let why = Message::parse(line).unwrap_err();
            assert!(why.contains("not understood") && why.len() < 2000, "{why}");
        }
    }

    #[test]
    fn lines_come_in_any_pieces() {
        let mut lines = Lines::default();
        let mut buffer = BytesMut::new();
        let mut got = Vec::new();
        for byte in b"{1}\r\n\n\r\n{22}\n{3" {
            buffer.extend_from_slice(&[*byte]);
            while let Some(line) = lines.decode(&mut buffer).unwrap() {
                got.push(line.trim_ascii().to_vec());
            }
        }
        assert_eq!(got, [b"{1}".to_vec(), b"{22}".to_vec()]);
        assert!(lines.decode_eof(&mut buffer).unwrap().is_none());
    }

    #[test]
    fn an_endless_line_is_refused() {
        let mut lines = Lines::default();
        let mut buffer = BytesMut::from(&vec![b'x'; LINE_MAX + 1][..]);
        assert!(matches!(lines.decode(&mut buffer), Err(LineError::TooLong)));
    }
}
