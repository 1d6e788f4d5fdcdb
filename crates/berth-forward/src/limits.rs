//! How much of everything there may be, whatever the guest does.

use std::time::Duration;

use tokio::time::Instant;

/// Upper bounds. The defaults are for a person's computer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Forwards that listen at the same time.
    pub listeners: usize,
    /// Connections through one forward.
    pub connections_per_forward: usize,
    /// Connections through all forwards.
    pub connections: usize,
    /// How long a dial into the guest may take.
    pub dial: Duration,
    /// How long a connection waits for a lost way into the guest to come back, before the client is refused.
    ///
    /// Longer than a restart of the guest agent or of `ssh` takes, so that clients see a delay and not an error; short enough that
    /// the client of a guest that reboots or hangs is told soon.
    pub link: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            listeners: 4096,
            connections_per_forward: 4096,
            connections: 8192,
            dial: Duration::from_secs(10),
            link: Duration::from_secs(2),
        }
    }
}

/// Allows bursts and bounds the rate over time.
#[derive(Debug, Clone)]
pub(crate) struct Bucket {
    rate: Rate,
    tokens: u32,
    /// When the number of tokens was last true.
    counted: Instant,
}

/// The size of a [`Bucket`], and how long one token takes to come back.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rate {
    pub(crate) burst: u32,
    pub(crate) every: Duration,
}

impl Bucket {
    pub(crate) fn full(rate: Rate, now: Instant) -> Self {
        Self {
            rate,
            tokens: rate.burst,
            counted: now,
        }
    }

    /// Takes a token, or says when there will be one.
    pub(crate) fn take(&mut self, now: Instant) -> Result<(), Instant> {
        self.check(now)?;
        self.tokens -= 1;
        Ok(())
    }

    /// Whether there is a token, or when there will be one.
    pub(crate) fn check(&mut self, now: Instant) -> Result<(), Instant> {
        self.refill(now);
        if self.tokens > 0 {
            return Ok(());
        }
        Err(self.counted + self.rate.every)
    }

    /// Whether nothing was taken for so long that the bucket has nothing to remember.
    pub(crate) fn is_full(&mut self, now: Instant) -> bool {
        self.refill(now);
        self.tokens == self.rate.burst
    }

    fn refill(&mut self, now: Instant) {
        let every = self.rate.every.as_nanos().max(1);
        let passed = now.saturating_duration_since(self.counted).as_nanos() / every;
        let missing = self.rate.burst - self.tokens;
        match u32::try_from(passed) {
            Ok(back) if back < missing => {
                self.tokens += back;
                self.counted += self.rate.every * back;
            }
            _ => {
                self.tokens = self.rate.burst;
                self.counted = now;
            }
        }
    }
}

/// Waits between attempts: 250 ms, doubling to 10 s.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Retry {
    wait: Duration,
    pub(crate) at: Instant,
}

impl Retry {
    const FIRST: Duration = Duration::from_millis(250);
    const LONGEST: Duration = Duration::from_secs(10);

    pub(crate) fn first(now: Instant) -> Self {
        Self {
            wait: Self::FIRST,
            at: now + Self::FIRST,
        }
    }

    /// Lets the attempt come now, and the ones after it as if it had come in its time.
    pub(crate) fn sooner(self, now: Instant) -> Self {
        Self { at: now, ..self }
    }

    pub(crate) fn next(self, now: Instant) -> Self {
        let wait = (self.wait * 2).min(Self::LONGEST);
        Self {
            wait,
            at: now + wait,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_a_burst_and_then_one_at_a_time() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let rate = Rate {
            burst: 2,
            every: Duration::from_millis(100),
        };
        let mut bucket = Bucket::full(rate, start);
        assert_eq!(bucket.take(at(0)), Ok(()));
        assert!(!bucket.is_full(at(0)));
        assert_eq!(bucket.take(at(10)), Ok(()));
        assert_eq!(bucket.take(at(10)), Err(at(100)));
        assert_eq!(bucket.take(at(130)), Ok(()));
        assert_eq!(bucket.take(at(150)), Err(at(200)), "no time is lost");
        assert!(bucket.is_full(at(10_000)));
        assert_eq!(bucket.take(at(10_000)), Ok(()));
        assert_eq!(bucket.take(at(10_000)), Ok(()));
        assert_eq!(bucket.take(at(10_000)), Err(at(10_100)));
    }

    #[test]
    fn attempts_become_rarer_up_to_a_limit() {
        let now = Instant::now();
        let mut retry = Retry::first(now);
        let mut waits = vec![retry.wait.as_millis()];
        for _ in 0..7 {
            retry = retry.next(now);
            waits.push(retry.wait.as_millis());
        }
        assert_eq!(waits, [250, 500, 1000, 2000, 4000, 8000, 10_000, 10_000]);
    }
}
