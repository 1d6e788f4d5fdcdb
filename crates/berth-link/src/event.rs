//! What host and guest tell each other, checked: no caller ever sees a wire type.
//!
//! Every text that came from the guest is capped, and holds no terminal control: it may be printed as it is.

mod ports;
pub(crate) mod wire;

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

pub use ports::{
    GuestSocket, MAX_PORTS, MAX_PORTS_PER_UPDATE, MAX_SOCKET_PATH, MAX_UDP_RANGES, PortInterest,
    PortsUpdate, ReverseListener, Transport,
};

/// The step after which sshd answers, though nobody is let in yet: a login may begin, and wait with its signature.
pub const EARLY_SSHD: &str = "early-sshd";

/// Longest name of a step, in bytes.
pub const MAX_STEP_NAME: usize = 128;
/// Longest tail of a step's output, in bytes.
pub const MAX_TAIL: usize = 4096;
/// Most steps that one snapshot may list.
pub const MAX_STEPS: usize = 128;
/// Most SSH host keys that a guest may report.
pub const MAX_HOST_KEYS: usize = 8;
/// Longest SSH host key line, in bytes.
pub const MAX_HOST_KEY: usize = 2048;
/// Longest line of cloud-init's log, in bytes.
pub const MAX_LOG_LINE: usize = 1024;
/// Longest reason for a refusal, in bytes.
pub const MAX_REFUSAL: usize = 1024;
/// Longest version, kernel release or instance id, in bytes.
pub const MAX_NAME: usize = 128;

/// The kernel's boot id (`/proc/sys/kernel/random/boot_id`): it changes with every boot of the guest.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct BootId(pub [u8; 16]);

/// A text that is not a boot id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a boot id (32 hexadecimal digits, with or without dashes)")]
pub struct BootIdError(String);

impl FromStr for BootId {
    type Err = BootIdError;

    /// Reads the kernel's form, white space around it and dashes in it ignored.
    fn from_str(text: &str) -> Result<Self, BootIdError> {
        let refused = || {
            BootIdError(
                text.chars()
                    .take(64)
                    .flat_map(char::escape_default)
                    .collect(),
            )
        };
        let digits: Vec<u8> = text
            .trim()
            .chars()
            .filter(|c| *c != '-')
            .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
            .collect::<Option<_>>()
            .ok_or_else(refused)?;
        let mut id = [0; 16];
        if digits.len() != 2 * id.len() {
            return Err(refused());
        }
        for (byte, pair) in id.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = pair[0] << 4 | pair[1];
        }
        Ok(Self(id))
    }
}

impl fmt::Display for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, byte) in self.0.iter().enumerate() {
            if matches!(at, 4 | 6 | 8 | 10) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for BootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BootId({self})")
    }
}

/// How far the guest's boot has come. Stages are independent: one may be reached before another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    /// The agent runs, so the kernel does.
    KernelUp,
    /// An interface has an address and a route.
    NetworkUp,
    /// The login user exists with its keys.
    UserReady,
    /// sshd accepts connections.
    SshListening,
    /// Every boot step and provision script has ended.
    BootScriptsDone {
        /// How many of them failed.
        failed: u32,
    },
}

/// A stage and when it was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StageReached {
    /// Which one.
    pub stage: Stage,
    /// Time since the guest's kernel started.
    pub uptime: Duration,
}

/// How a boot step ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StepOutcome {
    /// It did its work.
    Ok,
    /// There was nothing to do.
    Skipped,
    /// It failed; see the exit code and the tail.
    Failed,
}

/// One boot step or provision script that ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepReport {
    /// Name, printable ASCII, at most [`MAX_STEP_NAME`] bytes; a later report of the same name replaces the earlier one.
    pub name: String,
    /// How it ended.
    pub outcome: StepOutcome,
    /// Exit code of its process; 128 + signal when it was killed; `None` when it is no process.
    pub exit_code: Option<i32>,
    /// Last lines of its output, at most [`MAX_TAIL`] bytes. A snapshot may leave it out where the step succeeded.
    pub tail: String,
    /// Start, since the guest's kernel started.
    pub started: Duration,
    /// End, since the guest's kernel started.
    pub ended: Duration,
}

/// cloud-init's progress.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CloudInitProgress {
    /// A line of its log (the last one, in a snapshot), at most [`MAX_LOG_LINE`] bytes.
    pub line: Option<String>,
    /// cloud-init has finished.
    pub completed: bool,
    /// Lines left out just before this one, because a reader was too slow.
    pub dropped: u64,
}

/// Everything the guest knows of its boot: the first message of every session, and again whenever diffs were lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Which boot this is.
    pub boot_id: BootId,
    /// Kernel release (`uname -r`).
    pub kernel: String,
    /// Version of the guest agent.
    pub agent_version: String,
    /// `instance_id` of the `boot.json` that the agent applied; empty when it found none.
    pub instance_id: String,
    /// Stages reached so far, each at most once.
    pub stages: Vec<StageReached>,
    /// Steps that have ended so far, by name at most once.
    pub steps: Vec<StepReport>,
    /// SSH host keys, as public key lines.
    pub host_keys: Vec<String>,
    /// cloud-init's progress.
    pub cloud_init: CloudInitProgress,
}

/// What the guest tells by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestEvent {
    /// All there is: replaces what was known.
    Snapshot(Box<Snapshot>),
    /// A stage was reached.
    Stage(StageReached),
    /// A step ended.
    Step(StepReport),
    /// cloud-init went on (only after [`Request::FollowCloudInit`]).
    CloudInit(CloudInitProgress),
    /// Sockets came or went (only after [`Request::WatchPorts`]; the first one of a session holds all).
    Ports(PortsUpdate),
}

/// What the host asks of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Send cloud-init's log as [`GuestEvent::CloudInit`] until it has finished or the session ends.
    FollowCloudInit,
    /// Write everything that is dirty to the disks (`sync(2)`); answered when that is done.
    Sync,
    /// Just answer.
    Ping,
    /// Watch ports, and send them as [`GuestEvent::Ports`] until the session ends; answered once they are known. Asked again,
    /// the last one holds.
    WatchPorts(PortInterest),
    /// Listen on a unix socket: each connection becomes a stream to the host. Ends with the session.
    Listen(ReverseListener),
    /// End that again.
    Unlisten {
        /// Which listener.
        id: u32,
    },
}

/// The guest's answer: done, or why not (one line).
pub type Response = Result<(), Refusal>;

/// Why the guest did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the guest agent refused: {0}")]
pub struct Refusal(pub String);

/// The host's first message in a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// The host's clock.
    pub host_time: SystemTime,
}
