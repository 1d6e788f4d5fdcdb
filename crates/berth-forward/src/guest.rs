//! The ways into the guest, as this crate sees them. It knows neither the guest link nor gRPC nor `ssh`: whoever starts a
//! [`Reconciler`](crate::reconcile::Reconciler) hands in one of these.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use berth_relay::RemoteStream;
use tokio::sync::watch;

use crate::address::{GuestTarget, HostAddr};

/// One connection into the guest, or out of it.
///
/// Shutting it down is a half-close; dropping it before both ends have shut down resets it. For a UDP target it carries datagrams as
/// `berth_relay::udp` frames them.
pub trait GuestStream: RemoteStream + Send {}
impl<T: RemoteStream + Send> GuestStream for T {}

/// Connects to sockets in the guest.
#[async_trait]
pub trait Dialer: Send + Sync + 'static {
    /// Connects. A dial that the guest refuses may fail here, or later as an error of the first read; an error here has the guest's
    /// next socket of the same forward tried.
    async fn dial(&self, target: &GuestTarget) -> io::Result<Box<dyn GuestStream>>;

    /// Waits until there is a way into the guest; at once when there is one. Must be cancel-safe.
    async fn ready(&self) {}
}

/// Has the guest's user listen on unix sockets in the guest.
#[async_trait]
pub trait ReverseListeners: Send + Sync + 'static {
    /// Starts to listen at an absolute path. `id` names the listener from then on; ids are not used twice.
    async fn listen(&self, id: u32, path: &str) -> io::Result<()>;

    /// Ends a listener, and removes the socket that was made for it.
    async fn unlisten(&self, id: u32) -> io::Result<()>;

    /// Waits for the next connection that the guest accepted, also through the ends of sessions, and says whose it is; `None` when
    /// there will be no more. Must be cancel-safe.
    async fn accept(&self) -> Option<(u32, Box<dyn GuestStream>)>;

    /// The number of the session with the guest; `None` while there is none. With a new number all listeners are gone.
    fn session(&self) -> watch::Receiver<Option<u64>>;
}

/// A forward that OpenSSH itself does.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SshForwarding {
    /// `-L`: a unix socket on the host leads to a socket in the guest (never UDP).
    FromHost {
        /// Absolute path on the host, in a directory of our own. Nothing is there, or what an earlier agent left.
        socket: PathBuf,
        /// Where it leads to.
        guest: GuestTarget,
    },
    /// `-R`: a unix socket in the guest leads to one on the host.
    FromGuest {
        /// Absolute path in the guest.
        guest: String,
        /// The host's socket.
        socket: PathBuf,
    },
}

/// Forwards of a running `ssh` (the ControlMaster).
#[async_trait]
pub trait SshControl: Send + Sync + 'static {
    /// Sets up a forward. The error is for people. Must end by itself within some seconds.
    async fn forward(&self, forwarding: &SshForwarding) -> Result<(), String>;

    /// Takes a forward down and removes the socket that was made for it. Must end by itself within some seconds.
    async fn cancel(&self, forwarding: &SshForwarding) -> Result<(), String>;

    /// The number of the running `ssh`; `None` while there is none. With a new number all forwards are gone.
    fn master(&self) -> watch::Receiver<Option<u64>>;
}

/// Who listens in the guest for the host.
#[derive(Clone)]
pub enum Reverse {
    /// Nobody.
    None,
    /// The guest agent, which hands us the connections.
    Agent(Arc<dyn ReverseListeners>),
    /// sshd, whose `ssh` connects to the host's socket itself.
    Ssh(Arc<dyn SshControl>),
}

impl fmt::Debug for Reverse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Agent(_) => "Agent",
            Self::Ssh(_) => "Ssh",
        })
    }
}

/// What carries the connections.
#[derive(Clone)]
pub enum Access {
    /// A guest agent.
    Agent {
        /// Connects to sockets in the guest.
        dialer: Arc<dyn Dialer>,
        /// Who listens in the guest.
        reverse: Reverse,
    },
    /// OpenSSH, for TCP and unix sockets only.
    Ssh(Arc<dyn SshControl>),
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Agent { .. } => "Agent",
            Self::Ssh(_) => "Ssh",
        })
    }
}

/// A change that a person may want to hear of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// What happened.
    pub kind: NoticeKind,
    /// The guest's socket. Its [`protocol`](GuestTarget::protocol) is the notice's.
    pub guest: GuestTarget,
    /// Where it leads to on the host; absent when it is not forwarded.
    pub host: Option<HostAddr>,
    /// Why it failed, or why it cannot be forwarded. Safe to print.
    pub error: Option<String>,
    /// Whether a failure is one that many hosts have and few people mind: a privileged port, or DNS, NTP and its like taken.
    pub is_minor: bool,
}

/// What happened to a forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum NoticeKind {
    /// It listens on the host.
    Forwarding,
    /// No rule forwards it.
    NotForwarding,
    /// It listened, and has been taken down because the guest's socket is gone.
    Stopping,
    /// It cannot listen now.
    Failed,
}

/// Takes notices. Called from the owner's task, so it must not block.
pub type NoticeSink = Box<dyn FnMut(Notice) + Send>;
