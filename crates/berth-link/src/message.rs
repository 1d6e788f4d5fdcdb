//! Control messages as they travel: protobuf, hand-numbered here, so that no build script is needed.
//!
//! Callers never see these types: [`crate::event`] holds the checked ones, and the way between.
//!
//! A number once given is never given again; unknown fields and unknown kinds of messages are ignored, so that an older end
//! understands a newer one.

mod files;
mod mounts;
mod ports;
mod times;

use bytes::{BufMut, Bytes, BytesMut};
use prost::{Message, Oneof};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::mux::SILENCE_LIMIT;
use crate::session::SessionEnd;

pub use files::{FileChange, FilesAsk, FilesTold};
pub use mounts::{
    MountAsk, MountAskKind, MountFailure, MountOrder, MountTold, MountToldKind, Unmounted,
};
pub use ports::{PortInterest, PortRange, Ports, ReverseListener, Socket, Transport, Unlisten};
pub use times::{Adjust, Clock, TimeAsk, TimeAskKind, TimeRefusal, TimeTold, TimeToldKind};

/// Longest control message in bytes, without its length.
pub const MAX_MESSAGE: usize = 64 * 1024;

/// Space for one read: most messages are shorter.
const READ_SIZE: usize = 512;

/// Length of the length in front of each control message.
const PREFIX_LEN: usize = 4;

/// A control message that no peer of this protocol sends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// Longer than [`MAX_MESSAGE`].
    #[error("a control message of {0} bytes, more than {MAX_MESSAGE}")]
    TooLong(u32),
    /// The bytes are no protobuf of the expected type.
    #[error("a control message that cannot be decoded")]
    Undecodable(#[from] prost::DecodeError),
    /// A field that is missing, too long, or not what it must be.
    #[error("field {field} of a control message {problem}")]
    Field {
        /// `snapshot.boot_id`.
        field: &'static str,
        /// `is longer than 128 bytes`.
        problem: String,
    },
    /// More entries than a list may have.
    #[error("list {field} of a control message has {count} entries, more than {limit}")]
    TooMany {
        /// `snapshot.steps`.
        field: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
    /// Another first message than the peer has to send.
    #[error("the control stream did not begin with {0}")]
    Beginning(&'static str),
    /// A control stream beside the first one.
    #[error("a second control stream was opened")]
    SecondControl,
    /// The control stream ended before the session did.
    #[error("the control stream ended before the session did")]
    StreamEnded,
}

/// Guest to host.
#[derive(Clone, PartialEq, Message)]
pub struct GuestMessage {
    /// Which message it is; none: one of a later version.
    #[prost(oneof = "GuestKind", tags = "1, 2, 3, 4, 5, 6")]
    pub kind: Option<GuestKind>,
}

/// What a guest says.
#[derive(Clone, PartialEq, Oneof)]
pub enum GuestKind {
    /// Everything it knows.
    #[prost(message, tag = "1")]
    Snapshot(Snapshot),
    /// A stage of the boot.
    #[prost(message, tag = "2")]
    Stage(StageReached),
    /// The end of a boot step.
    #[prost(message, tag = "3")]
    Step(StepReport),
    /// cloud-init's progress.
    #[prost(message, tag = "4")]
    CloudInit(CloudInit),
    /// The answer to a request.
    #[prost(message, tag = "5")]
    Response(Response),
    /// Ports that came or went.
    #[prost(message, tag = "6")]
    Ports(Ports),
}

/// See [`crate::event::Snapshot`].
#[derive(Clone, PartialEq, Message)]
pub struct Snapshot {
    /// 16 bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub boot_id: Vec<u8>,
    /// Kernel release.
    #[prost(string, tag = "2")]
    pub kernel: String,
    /// Version of the agent.
    #[prost(string, tag = "3")]
    pub agent_version: String,
    /// `instance_id` of `boot.json`.
    #[prost(string, tag = "4")]
    pub instance_id: String,
    /// Stages reached.
    #[prost(message, repeated, tag = "5")]
    pub stages: Vec<StageReached>,
    /// Steps ended.
    #[prost(message, repeated, tag = "6")]
    pub steps: Vec<StepReport>,
    /// SSH host keys.
    #[prost(string, repeated, tag = "7")]
    pub host_keys: Vec<String>,
    /// cloud-init's progress.
    #[prost(message, optional, tag = "8")]
    pub cloud_init: Option<CloudInit>,
}

/// Stages by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum Stage {
    /// Not a stage.
    Unknown = 0,
    /// The kernel is up.
    KernelUp = 1,
    /// The network is up.
    NetworkUp = 2,
    /// The user is ready.
    UserReady = 3,
    /// sshd listens.
    SshListening = 4,
    /// The boot scripts have ended.
    BootScriptsDone = 5,
}

/// See [`crate::event::StageReached`].
#[derive(Clone, Copy, PartialEq, Message)]
pub struct StageReached {
    /// Which one.
    #[prost(enumeration = "Stage", tag = "1")]
    pub stage: i32,
    /// Since the kernel started.
    #[prost(uint64, tag = "2")]
    pub uptime_ms: u64,
    /// Boot scripts that failed.
    #[prost(uint32, tag = "3")]
    pub failed: u32,
}

/// Outcomes by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum Outcome {
    /// Not an outcome.
    Unknown = 0,
    /// It did its work.
    Ok = 1,
    /// There was nothing to do.
    Skipped = 2,
    /// It failed.
    Failed = 3,
}

/// See [`crate::event::StepReport`].
#[derive(Clone, PartialEq, Message)]
pub struct StepReport {
    /// Name of the step.
    #[prost(string, tag = "1")]
    pub name: String,
    /// How it ended.
    #[prost(enumeration = "Outcome", tag = "2")]
    pub outcome: i32,
    /// Exit code, if it was a process.
    #[prost(sint32, optional, tag = "3")]
    pub exit_code: Option<i32>,
    /// Last lines of its output.
    #[prost(string, tag = "4")]
    pub tail: String,
    /// Start, since the kernel started.
    #[prost(uint64, tag = "5")]
    pub started_ms: u64,
    /// End, since the kernel started.
    #[prost(uint64, tag = "6")]
    pub ended_ms: u64,
}

/// See [`crate::event::CloudInitProgress`].
#[derive(Clone, PartialEq, Message)]
pub struct CloudInit {
    /// A line of its log.
    #[prost(string, optional, tag = "1")]
    pub line: Option<String>,
    /// It has finished.
    #[prost(bool, tag = "2")]
    pub completed: bool,
    /// Lines left out before this one.
    #[prost(uint64, tag = "3")]
    pub dropped: u64,
}

/// The answer to the request of the same id.
#[derive(Clone, PartialEq, Message)]
pub struct Response {
    /// The request's id.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Why it was not done; absent: it was.
    #[prost(string, optional, tag = "2")]
    pub refusal: Option<String>,
}

/// Host to guest.
#[derive(Clone, PartialEq, Message)]
pub struct HostMessage {
    /// Which message it is; none: one of a later version.
    #[prost(oneof = "HostKind", tags = "1, 2")]
    pub kind: Option<HostKind>,
}

/// What a host says.
#[derive(Clone, PartialEq, Oneof)]
pub enum HostKind {
    /// The first message of every session.
    #[prost(message, tag = "1")]
    Welcome(Welcome),
    /// Something to do.
    #[prost(message, tag = "2")]
    Request(Request),
}

/// See [`crate::event::Welcome`]. Numbers 2 to 15 are kept for secrets and ports.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Welcome {
    /// The host's clock, since 1970.
    #[prost(uint64, tag = "1")]
    pub host_time_ns: u64,
}

/// Something to do.
#[derive(Clone, PartialEq, Message)]
pub struct Request {
    /// Chosen by the host; the response repeats it.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// What to do; none: something of a later version, to be refused.
    #[prost(oneof = "RequestKind", tags = "2, 3, 4, 5, 6, 7")]
    pub kind: Option<RequestKind>,
}

/// See [`crate::event::Request`].
#[derive(Clone, PartialEq, Oneof)]
pub enum RequestKind {
    /// Send cloud-init's log from now on.
    #[prost(message, tag = "2")]
    FollowCloudInit(()),
    /// Write dirty pages to the disks.
    #[prost(message, tag = "3")]
    Sync(()),
    /// Just answer.
    #[prost(message, tag = "4")]
    Ping(()),
    /// Send ports from now on.
    #[prost(message, tag = "5")]
    WatchPorts(PortInterest),
    /// Listen on a unix socket.
    #[prost(message, tag = "6")]
    Listen(ReverseListener),
    /// End that again.
    #[prost(message, tag = "7")]
    Unlisten(Unlisten),
}

/// A message with its length in front, ready to be written to the control stream.
pub(crate) fn framed(message: &impl Message) -> Bytes {
    debug_assert!(message.encoded_len() <= MAX_MESSAGE);
    framed_bytes(message)
}

/// A message with its length in front, for any stream.
pub(crate) fn framed_bytes(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(PREFIX_LEN + length);
    frame.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    message
        .encode(&mut frame)
        .expect("a growing buffer takes every message");
    frame.freeze()
}

/// Takes control messages off a stream.
#[derive(Debug)]
pub(crate) struct MessageReader<R> {
    stream: R,
    held: BytesMut,
}

impl<R: AsyncRead + Unpin> MessageReader<R> {
    pub(crate) fn new(stream: R) -> Self {
        Self {
            stream,
            held: BytesMut::new(),
        }
    }

    /// Waits for the next message. Cancel-safe. Never returns without one: the stream must outlive the session.
    pub(crate) async fn next<M: Message + Default>(&mut self) -> Result<M, SessionEnd> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(M::decode(message).map_err(MessageError::from)?);
            }
            let begun = !self.held.is_empty();
            self.held.reserve(READ_SIZE);
            let read = self.stream.read_buf(&mut self.held);
            let read = if begun {
                timeout(SILENCE_LIMIT, read)
                    .await
                    .map_err(|_| SessionEnd::Silent(SILENCE_LIMIT))?
            } else {
                read.await
            };
            if read.map_err(|_| MessageError::StreamEnded)? == 0 {
                return Err(MessageError::StreamEnded.into());
            }
        }
    }

    fn take(&mut self) -> Result<Option<Bytes>, MessageError> {
        let Some(prefix) = self.held.first_chunk::<PREFIX_LEN>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*prefix);
        let end = usize::try_from(length)
            .ok()
            .filter(|length| *length <= MAX_MESSAGE)
            .ok_or(MessageError::TooLong(length))?
            + PREFIX_LEN;
        if self.held.len() < end {
            return Ok(None);
        }
        let message = self.held.split_to(end).freeze().slice(PREFIX_LEN..);
        if self.held.is_empty() {
            // Idle ends keep nothing of the longest message they saw.
            self.held = BytesMut::new();
        }
        Ok(Some(message))
    }
}

/// Writes framed messages as they are queued. Ends only in failure.
pub(crate) async fn write_queued<W>(mut stream: W, mut queued: mpsc::Receiver<Bytes>) -> SessionEnd
where
    W: AsyncWrite + Unpin,
{
    while let Some(frame) = queued.recv().await {
        if stream.write_all(&frame).await.is_err() {
            // When the session is over, its driver knows why; here only the control stream can be.
            return MessageError::StreamEnded.into();
        }
    }
    // Nobody queues any more: whoever did has ended the session and says why.
    std::future::pending().await
}
