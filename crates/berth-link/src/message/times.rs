//! Messages on the stream of the clocks, as they travel.

use prost::{Message, Oneof};

/// Host to guest.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct TimeAsk {
    /// Which message it is; none: one of a later version.
    #[prost(oneof = "TimeAskKind", tags = "1, 2")]
    pub kind: Option<TimeAskKind>,
}

/// What a host says there.
#[derive(Clone, Copy, PartialEq, Oneof)]
pub enum TimeAskKind {
    /// Tell the time.
    #[prost(message, tag = "1")]
    Read(()),
    /// Change the clock.
    #[prost(message, tag = "2")]
    Adjust(Adjust),
}

/// See [`crate::time::Ask::Adjust`].
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Adjust {
    /// What to add.
    #[prost(sint64, tag = "1")]
    pub add_ns: i64,
    /// At once, and not bit by bit.
    #[prost(bool, tag = "2")]
    pub step: bool,
}

/// Guest to host.
#[derive(Clone, PartialEq, Message)]
pub struct TimeTold {
    /// Which message it is; none: one of a later version.
    #[prost(oneof = "TimeToldKind", tags = "1, 2, 3")]
    pub kind: Option<TimeToldKind>,
}

/// What a guest says there.
#[derive(Clone, PartialEq, Oneof)]
pub enum TimeToldKind {
    /// The time.
    #[prost(message, tag = "1")]
    Clock(Clock),
    /// The clock was changed.
    #[prost(message, tag = "2")]
    Adjusted(()),
    /// It was not.
    #[prost(message, tag = "3")]
    Refused(TimeRefusal),
}

/// See [`crate::time::Reading`].
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Clock {
    /// Since 1970, when the question came.
    #[prost(uint64, tag = "1")]
    pub time_ns: u64,
    /// Somebody keeps it right.
    #[prost(bool, tag = "2")]
    pub kept: bool,
}

/// Why a clock was not changed.
#[derive(Clone, PartialEq, Message)]
pub struct TimeRefusal {
    /// For people.
    #[prost(string, tag = "1")]
    pub why: String,
}
