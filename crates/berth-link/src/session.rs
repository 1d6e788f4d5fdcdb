//! How a session ends.

use std::io;
use std::time::Duration;

use crate::event::Request;
use crate::frame::FrameError;
use crate::hello::{Hello, VERSION};
use crate::message::MessageError;

/// Why a session, or an attempt at one, is over.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SessionEnd {
    /// The carrier ended.
    #[error("the other end hung up")]
    HungUp,
    /// The carrier failed.
    #[error("could not {verb} the carrier")]
    Io {
        /// `read from` or `write to`.
        verb: &'static str,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The other end ended the session in good order.
    #[error("the other end said good-bye")]
    Goodbye,
    /// The guest agent opened its port anew: it was restarted, or the guest was.
    #[error("the guest agent started anew")]
    Knocked,
    /// The host began another session.
    #[error("the host began another session")]
    Superseded(Hello),
    /// A frame that no peer of this protocol sends.
    #[error("the other end broke the protocol")]
    BadFrame(#[from] FrameError),
    /// A control message that no peer of this protocol sends.
    #[error("the other end sent a bad message")]
    BadMessage(#[from] MessageError),
    /// The peer stopped in the middle of a frame or a control message.
    #[error("the other end stopped in the middle of a frame for {0:?}")]
    Silent(Duration),
    /// A check of the session got no answer.
    #[error("the guest agent did not answer {0:?} within {1:?}")]
    Unanswered(Request, Duration),
    /// Too many bytes that were no greeting.
    #[error("{0} bytes came from the guest's port, and no greeting of a guest agent among them")]
    Garbage(u64),
    /// The guest agent speaks no version that this host does.
    #[error("the guest agent speaks version {0} of the link protocol, this host up to {VERSION}")]
    Version(u16),
    /// No random number for the session's id.
    #[error("could not get a random session id from the system")]
    NoRandom(#[source] getrandom::Error),
    /// This end was told to stop.
    #[error("the link was shut down")]
    Cancelled,
}

impl SessionEnd {
    pub(crate) fn io(verb: &'static str, source: io::Error) -> Self {
        Self::Io { verb, source }
    }
}
