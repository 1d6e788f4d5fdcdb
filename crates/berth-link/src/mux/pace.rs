//! Whether much goes through a carrier.

use std::time::{Duration, Instant};

/// Bytes that are bulk and not talk, if they take no longer than [`SPAN`].
const MUCH: usize = 256 * 1024;

/// See [`MUCH`]; and how long bulk is remembered.
const SPAN: Duration = Duration::from_millis(100);

/// What a driver has moved lately. The clock is read once for every [`MUCH`] bytes.
#[derive(Debug)]
pub(super) struct Pace {
    moved: usize,
    since: Instant,
}

/// When there was bulk last.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct BulkSeen(Option<Instant>);

impl Pace {
    pub(super) fn new() -> Self {
        Self {
            moved: 0,
            since: Instant::now(),
        }
    }

    /// Counts bytes; whether it was bulk that has come to an end of its count.
    pub(super) fn note(&mut self, count: usize) -> Option<BulkSeen> {
        self.moved += count;
        if self.moved < MUCH {
            return None;
        }
        let now = Instant::now();
        let took = now - self.since;
        *self = Self {
            moved: 0,
            since: now,
        };
        (took <= SPAN).then_some(BulkSeen(Some(now)))
    }
}

impl BulkSeen {
    /// Whether there is bulk still, as far as one can tell.
    pub(super) fn is_recent(self) -> bool {
        self.0.is_some_and(|at| at.elapsed() <= SPAN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn much_in_a_short_time_is_bulk_and_a_little_is_not() {
        let mut pace = Pace::new();
        assert!(pace.note(MUCH - 1).is_none());
        let seen = pace.note(1).unwrap_or_default();
        assert!(seen.is_recent());
        assert!(pace.note(MUCH - 1).is_none(), "counted anew");
        assert!(!BulkSeen::default().is_recent());
    }

    #[test]
    fn much_in_a_long_time_is_talk() {
        let mut pace = Pace {
            moved: MUCH - 1,
            since: Instant::now() - 2 * SPAN,
        };
        assert!(pace.note(1).is_none());
        assert!(!BulkSeen(Some(Instant::now() - 2 * SPAN)).is_recent());
    }
}
