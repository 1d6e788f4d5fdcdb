//! Pauses between attempts that failed.

use std::time::Duration;

/// The first pause that is one.
const FIRST: Duration = Duration::from_millis(50);

/// No pause, then 50 ms, doubling up to a limit.
#[derive(Debug)]
pub(crate) struct Backoff {
    longest: Duration,
    attempts: u32,
}

impl Backoff {
    pub(crate) fn up_to(longest: Duration) -> Self {
        Self {
            longest,
            attempts: 0,
        }
    }

    /// The pause before the next attempt.
    pub(crate) fn next(&mut self) -> Duration {
        let doublings = self.attempts.checked_sub(1);
        self.attempts = self.attempts.saturating_add(1);
        doublings.map_or(Duration::ZERO, |doublings| {
            FIRST
                .saturating_mul(1 << doublings.min(10))
                .min(self.longest)
        })
    }

    /// Begins anew, after an attempt that was worth it.
    pub(crate) fn reset(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_limit() {
        let mut backoff = Backoff::up_to(Duration::from_secs(2));
        let pauses: Vec<_> = (0..9).map(|_| backoff.next().as_millis()).collect();
        assert_eq!(pauses, [0, 50, 100, 200, 400, 800, 1600, 2000, 2000]);
        backoff.attempts = u32::MAX;
        assert_eq!(backoff.next(), Duration::from_secs(2));
        backoff.reset();
        assert_eq!(backoff.next(), Duration::ZERO);
    }
}
