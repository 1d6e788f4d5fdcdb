//! What host and guest tell each other about the guest's clock, on a stream of kind [`crate::flow::FlowKind::Time`].
//!
//! The host asks for the guest's time, works out by how much it is off from how long the answer took, and says what to add. So the
//! guest needs to know nothing of the host's clock, and the host sees whether a change was of use by asking again.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::conversation::Messages;
pub use crate::conversation::TalkError;
use crate::message::{self as wire, TimeAsk, TimeAskKind, TimeTold, TimeToldKind};
use crate::mux::LinkStream;
use crate::text;

/// Longest reason of a refusal, in bytes.
pub const MAX_REASON: usize = 1024;

/// What the host says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// Tell the time.
    Read,
    /// Change the clock.
    Adjust {
        /// Nanoseconds to add; may be negative.
        add_ns: i64,
        /// At once; else bit by bit, so that no program sees a jump.
        step: bool,
    },
}

/// The guest's clock, when the question came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reading {
    /// Its time.
    pub time: SystemTime,
    /// Whether an NTP daemon in the guest keeps it right, by the kernel's word.
    pub kept: bool,
}

/// What the guest says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// The time.
    Clock(Reading),
    /// The clock was changed, or is being changed.
    Adjusted,
    /// It was not: why, as text that may be printed.
    Refused(String),
}

/// The host's end.
#[derive(Debug)]
pub struct HostEnd(Messages);

impl HostEnd {
    /// Talks over a stream of kind [`crate::flow::FlowKind::Time`].
    #[must_use]
    pub fn new(stream: LinkStream) -> Self {
        Self(Messages::new(stream))
    }

    /// Says something, and waits for the answer.
    pub async fn ask(&mut self, ask: Ask) -> Result<Told, TalkError> {
        self.0.send(&TimeAsk::from(ask)).await?;
        loop {
            let TimeTold { kind } = self.0.next().await?;
            if let Some(kind) = kind {
                return Told::try_from(kind);
            }
        }
    }
}

/// The guest's end.
#[derive(Debug)]
pub struct GuestEnd(Messages);

impl GuestEnd {
    /// Talks over a stream of kind [`crate::flow::FlowKind::Time`].
    #[must_use]
    pub fn new(stream: LinkStream) -> Self {
        Self(Messages::new(stream))
    }

    /// Waits for what the host says next.
    pub async fn asked(&mut self) -> Result<Ask, TalkError> {
        loop {
            let TimeAsk { kind } = self.0.next().await?;
            if let Some(kind) = kind {
                return Ok(kind.into());
            }
        }
    }

    /// Answers.
    pub async fn tell(&mut self, told: Told) -> Result<(), TalkError> {
        self.0.send(&TimeTold::from(told)).await
    }
}

impl From<Ask> for TimeAsk {
    fn from(ask: Ask) -> Self {
        let kind = match ask {
            Ask::Read => TimeAskKind::Read(()),
            Ask::Adjust { add_ns, step } => TimeAskKind::Adjust(wire::Adjust { add_ns, step }),
        };
        Self { kind: Some(kind) }
    }
}

impl From<TimeAskKind> for Ask {
    fn from(kind: TimeAskKind) -> Self {
        match kind {
            TimeAskKind::Read(()) => Self::Read,
            TimeAskKind::Adjust(wire::Adjust { add_ns, step }) => Self::Adjust { add_ns, step },
        }
    }
}

impl From<Told> for TimeTold {
    fn from(told: Told) -> Self {
        let kind = match told {
            Told::Clock(Reading { time, kept }) => {
                let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
                let time_ns = u64::try_from(since.as_nanos()).unwrap_or(u64::MAX);
                TimeToldKind::Clock(wire::Clock { time_ns, kept })
            }
            Told::Adjusted => TimeToldKind::Adjusted(()),
            Told::Refused(why) => TimeToldKind::Refused(wire::TimeRefusal {
                why: text::head(&why, MAX_REASON),
            }),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<TimeToldKind> for Told {
    type Error = TalkError;

    fn try_from(kind: TimeToldKind) -> Result<Self, TalkError> {
        Ok(match kind {
            TimeToldKind::Clock(wire::Clock { time_ns, kept }) => {
                let time = UNIX_EPOCH.checked_add(Duration::from_nanos(time_ns));
                let time = time.ok_or_else(|| TalkError::Field {
                    field: "guest's time",
                    problem: "is none".to_owned(),
                })?;
                Self::Clock(Reading { time, kept })
            }
            TimeToldKind::Adjusted(()) => Self::Adjusted,
            TimeToldKind::Refused(wire::TimeRefusal { why }) => {
                Self::Refused(text::head(&why, MAX_REASON))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn what_is_said_survives_the_wire() {
        for ask in [
            Ask::Read,
            Ask::Adjust {
                add_ns: -5,
                step: true,
            },
        ] {
            let read = TimeAsk::decode(&*TimeAsk::from(ask).encode_to_vec()).unwrap();
            assert_eq!(Ask::from(read.kind.unwrap()), ask);
        }
        let time = UNIX_EPOCH + Duration::from_nanos(1_700_000_000_000_000_001);
        for told in [
            Told::Clock(Reading { time, kept: true }),
            Told::Adjusted,
            Told::Refused("no".to_owned()),
        ] {
            let read = TimeTold::decode(&*TimeTold::from(told.clone()).encode_to_vec()).unwrap();
            assert_eq!(Told::try_from(read.kind.unwrap()).unwrap(), told);
        }
    }

    #[test]
    fn a_refusal_is_cut_and_escaped() {
        let why = format!("\u{1b}[2J{}", "x".repeat(5000));
        let told = TimeToldKind::Refused(wire::TimeRefusal { why });
        let Told::Refused(why) = Told::try_from(told).unwrap() else {
            panic!("a refusal");
        };
        assert!(why.len() <= MAX_REASON && !why.contains('\u{1b}'));
    }
}
