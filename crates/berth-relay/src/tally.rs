//! What went through, for whoever shows it.

use std::error::Error;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Counts what goes through one forward, from the host's point of view. Shared by all of its connections.
#[derive(Debug, Default)]
pub struct Tally {
    pub(crate) to_guest: Counter,
    pub(crate) to_host: Counter,
    open: Counter,
    total: Counter,
    pub(crate) dropped: Counter,
    last_error: Mutex<Option<String>>,
}

/// What a [`Tally`] had counted at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Bytes towards the guest.
    pub to_guest: u64,
    /// Bytes towards the host.
    pub to_host: u64,
    /// Connections, or flows of datagrams, that are open now.
    pub open: u64,
    /// Connections, or flows of datagrams, so far.
    pub total: u64,
    /// Datagrams that were dropped because something was too slow for them.
    pub dropped: u64,
    /// Why a connection failed last, in one line. Resets are part of normal life and not kept.
    pub last_error: Option<String>,
}

impl Tally {
    /// What was counted so far.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        Traffic {
            to_guest: self.to_guest.read(),
            to_host: self.to_host.read(),
            open: self.open.read(),
            total: self.total.read(),
            dropped: self.dropped.read(),
            last_error: self.error().clone(),
        }
    }

    /// Keeps `why`, with its causes, as the last error.
    pub fn note_error(&self, why: &dyn Error) {
        let mut text = why.to_string();
        let mut cause = why.source();
        while let Some(why) = cause {
            text = format!("{text}: {why}");
            cause = why.source();
        }
        *self.error() = Some(text);
    }

    /// Counts a connection as open until the answer is dropped.
    pub(crate) fn connection(&self) -> OpenConnection<'_> {
        self.total.add(1);
        self.open.add(1);
        OpenConnection(self)
    }

    fn error(&self) -> MutexGuard<'_, Option<String>> {
        // A text is replaced whole, so a panic elsewhere leaves no half of one.
        self.last_error
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A number of a [`Tally`]. Nothing is concluded from one about another, so their order does not matter.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add(&self, count: usize) {
        self.0.fetch_add(count as u64, Ordering::Relaxed);
    }

    fn subtract(&self, count: u64) {
        self.0.fetch_sub(count, Ordering::Relaxed);
    }

    fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A connection that counts as open.
#[derive(Debug)]
pub(crate) struct OpenConnection<'a>(&'a Tally);

impl Drop for OpenConnection<'_> {
    fn drop(&mut self) {
        self.0.open.subtract(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_count_as_open_until_they_end() {
        let tally = Tally::default();
        let first = tally.connection();
        let second = tally.connection();
        drop(first);
        tally.to_guest.add(3);
        tally.to_host.add(4);
        let Traffic {
            to_guest,
            to_host,
            open,
            total,
            ..
        } = tally.traffic();
        assert_eq!((to_guest, to_host, open, total), (3, 4, 1, 2));
        drop(second);
        assert_eq!(tally.traffic().open, 0);
    }

    #[test]
    fn an_error_is_kept_with_its_causes() {
        let tally = Tally::default();
        let cause = std::io::Error::other("no route");
        tally.note_error(&crate::RelayError::Remote(cause));
        let kept = tally.traffic().last_error.unwrap();
        assert!(kept.ends_with(": no route"), "{kept}");
    }
}
