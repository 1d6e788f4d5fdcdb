//! The time, passed in: libraries never ask the machine themselves.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use jiff::tz::{Offset, TimeZone};

/// One moment, on the wall and since the clock's own beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// Wall time; may be set back by people and time servers.
    pub wall: Timestamp,
    /// Offset of the local zone at that time.
    pub offset: Offset,
    /// Time since an arbitrary beginning; never goes back.
    pub steady: Duration,
}

/// What tells the time.
pub trait Clock: std::fmt::Debug + Send + Sync {
    /// Now.
    fn now(&self) -> Moment;
}

/// The machine's clocks. Made by the front door, which also knows the zone.
#[derive(Debug)]
pub struct SystemClock {
    zone: TimeZone,
    beginning: Instant,
}

impl SystemClock {
    /// Takes the zone that event times are written in (`TimeZone::system()` in the front door).
    #[must_use]
    pub fn new(zone: TimeZone) -> Self {
        Self {
            zone,
            beginning: Instant::now(),
        }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Moment {
        let wall = Timestamp::now();
        Moment {
            wall,
            offset: self.zone.to_offset(wall),
            steady: self.beginning.elapsed(),
        }
    }
}
