//! The host's end of the link: one supervised connection, with a generation number.
//!
//! One task owns the carrier. It connects, says hello, runs the session and starts over, for ever; everybody else holds a
//! [`LinkHandle`] and reads [`LinkEvent`]s. While nothing happens it does nothing: a HELLO stays in the carrier until a guest
//! agent opens the port, and neither a wait for it nor a session without traffic holds a timer.

mod greet;
mod ports;
mod queue;
mod reverse;
mod supervisor;
mod talk;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
pub use berth_relay::Carrier;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::event::{BootId, GuestEvent, Request, Response, Welcome, wire};
use crate::flow::FlowHeader;
use crate::message::MessageError;
use crate::mux::{LinkStream, Mux, OpenError};
use crate::session::SessionEnd;
use queue::EventQueue;
pub use reverse::ReverseStreams;
use reverse::{Takers, WeakTakers};
use supervisor::Owner;

/// How long the guest has to answer a request.
pub const REQUEST_DEADLINE: Duration = Duration::from_secs(3);

/// Requests that may wait for an answer at the same time.
pub const MAX_REQUESTS: usize = 32;

/// Events that may wait in the channel to their reader; what does not fit waits, bounded, in the owner.
const EVENT_CHANNEL: usize = 16;

/// The way to the guest's port.
#[async_trait]
pub trait Connector: Send + Sync + 'static {
    /// Connects to the carrier. The guest's end need not be open yet. Must end by itself within a few seconds.
    async fn connect(&self) -> io::Result<Box<dyn Carrier>>;
}

/// Makes the host's first message of a session; called once per session, so that the caller owns the clock.
pub type WelcomeSource = Arc<dyn Fn() -> Welcome + Send + Sync>;

/// Who answered the hello.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Which boot of the guest.
    pub boot_id: BootId,
    /// Version of its agent, printable ASCII.
    pub agent_version: String,
    /// Protocol version that both ends use.
    pub protocol: u16,
}

/// What happens on the link.
#[derive(Debug)]
pub enum LinkEvent {
    /// A session began. A snapshot follows.
    Up {
        /// Counts sessions from 1.
        generation: u64,
        /// Who answered.
        peer: Peer,
    },
    /// The guest says something. The first one of every session is a snapshot; a snapshot replaces what was told before.
    Guest(GuestEvent),
    /// The session is over; the supervisor goes on trying.
    Down {
        /// The same number as in [`LinkEvent::Up`].
        generation: u64,
        /// Why.
        reason: SessionEnd,
    },
}

/// Where the link is, for people who ask what a start is waiting for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkState {
    /// There is no carrier yet.
    Connecting {
        /// Why the last attempt or session ended, with all causes.
        failure: Option<String>,
    },
    /// The carrier is there and the HELLO is on its way; no guest agent has answered.
    Greeting,
    /// A session runs.
    Up {
        /// Its number.
        generation: u64,
    },
}

/// Why the link could not do what was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// No session.
    #[error("the guest agent is not connected")]
    Down,
    /// The session ended before the answer came.
    #[error("the connection to the guest agent ended before it answered {0:?}")]
    Lost(Request),
    /// No answer within [`REQUEST_DEADLINE`].
    #[error("the guest agent did not answer {0:?} within {1:?}")]
    TimedOut(Request, Duration),
    /// More than [`MAX_REQUESTS`] requests wait for answers.
    #[error("{MAX_REQUESTS} requests to the guest agent already wait for an answer")]
    Busy,
    /// The guest would take the request for a breach of the protocol.
    #[error("the guest agent cannot be asked that")]
    Malformed(#[from] MessageError),
    /// No stream can be opened.
    #[error("could not open a stream to the guest agent")]
    Open(#[from] OpenError),
    /// The supervisor was cancelled.
    #[error("the link to the guest agent was shut down")]
    Stopped,
}

/// Starts the task that owns the link.
#[derive(Debug)]
pub struct Supervisor;

impl Supervisor {
    /// Starts the owner task on `tracker`; it runs until `cancel`, or until the receiver of events is dropped.
    ///
    /// A slow reader of events costs no memory: cloud-init lines are dropped (oldest first, counted), everything else
    /// makes the guest wait.
    pub fn start(
        connector: Arc<dyn Connector>,
        welcome: WelcomeSource,
        tracker: &TaskTracker,
        cancel: CancellationToken,
    ) -> (LinkHandle, mpsc::Receiver<LinkEvent>) {
        let (events, receiver) = mpsc::channel(EVENT_CHANNEL);
        let (current, watched) = watch::channel(Current::connecting(None));
        let kick = Arc::new(Notify::new());
        let takers = Takers::default();
        let weak_takers = takers.downgrade();
        let owner = Owner {
            connector,
            welcome,
            events: EventQueue::new(events),
            current,
            kick: kick.clone(),
            takers,
            cancel,
            generation: 0,
        };
        tracker.spawn(owner.run());
        let handle = LinkHandle {
            current: watched,
            kick,
            takers: weak_takers,
        };
        (handle, receiver)
    }
}

/// A cheap handle to the link; the owner task does the work.
#[derive(Debug, Clone)]
pub struct LinkHandle {
    current: watch::Receiver<Current>,
    kick: Arc<Notify>,
    takers: WeakTakers,
}

impl LinkHandle {
    /// Asks the guest and waits for its answer, at most [`REQUEST_DEADLINE`].
    pub async fn request(&self, request: Request) -> Result<Response, LinkError> {
        wire::check(&request)?;
        let session = self.session()?;
        let (reply, answer) = oneshot::channel();
        let ask = Ask {
            request: request.clone(),
            reply,
        };
        session.asks.try_send(ask).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => LinkError::Busy,
            mpsc::error::TrySendError::Closed(_) => LinkError::Down,
        })?;
        match timeout(REQUEST_DEADLINE, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(LinkError::Lost(request)),
            Err(_) => Err(LinkError::TimedOut(request, REQUEST_DEADLINE)),
        }
    }

    /// Opens a stream to the guest. Bytes may be written at once; a refusal arrives as an error of the first read.
    pub fn open_stream(&self, header: &FlowHeader) -> Result<LinkStream, LinkError> {
        Ok(self.session()?.mux.open(header)?)
    }

    /// Registers for the connections of one listener in the guest, in this session and all that follow.
    pub fn take_reverse(&self) -> Result<ReverseStreams, LinkError> {
        self.takers.register()
    }

    /// Says that something happened to the carrier or to the guest's end of it (QEMU's `VSERPORT_CHANGE`, a reset, resume).
    ///
    /// Ends a wait before the next attempt; repeats a HELLO that nobody answered; checks a running session with a ping,
    /// which ends it unless answered within [`REQUEST_DEADLINE`]. Too many kicks do no harm.
    pub fn kick(&self) {
        self.kick.notify_one();
    }

    /// Where the link is now.
    #[must_use]
    pub fn state(&self) -> LinkState {
        self.current.borrow().state.clone()
    }

    fn session(&self) -> Result<Session, LinkError> {
        if self.current.has_changed().is_err() {
            return Err(LinkError::Stopped);
        }
        self.current.borrow().session.clone().ok_or(LinkError::Down)
    }
}

/// What the owner publishes.
#[derive(Debug, Clone)]
struct Current {
    state: LinkState,
    session: Option<Session>,
}

impl Current {
    fn connecting(failure: Option<String>) -> Self {
        Self {
            state: LinkState::Connecting { failure },
            session: None,
        }
    }
}

/// The way into the running session.
#[derive(Debug, Clone)]
struct Session {
    mux: Mux,
    asks: mpsc::Sender<Ask>,
}

/// A request on its way to the owner.
#[derive(Debug)]
struct Ask {
    request: Request,
    reply: oneshot::Sender<Result<Response, LinkError>>,
}
