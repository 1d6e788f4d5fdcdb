//! When somebody last sent something.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::{Instant, sleep_until};

use super::Patience;

/// Who sent something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sender {
    Client,
    Server,
}

/// When somebody last sent something, and who.
#[derive(Debug)]
pub(super) struct Activity(Mutex<(Instant, Sender)>);

impl Activity {
    /// As if the client had sent something now.
    pub(super) fn new() -> Self {
        Self(Mutex::new((Instant::now(), Sender::Client)))
    }

    pub(super) fn note(&self, sender: Sender) {
        *self.last() = (Instant::now(), sender);
    }

    pub(super) fn at(&self) -> Instant {
        self.last().0
    }

    /// Waits until everybody has been silent for long enough.
    pub(super) async fn idle(&self, patience: Patience) {
        // An answer may make the rest of a wait shorter.
        let shortest = patience.for_answer.min(patience.after_answer);
        loop {
            let (at, sender) = *self.last();
            let end = at
                + match sender {
                    Sender::Client => patience.for_answer,
                    Sender::Server => patience.after_answer,
                };
            let now = Instant::now();
            if end <= now {
                return;
            }
            sleep_until(end.min(now + shortest)).await;
        }
    }

    fn last(&self) -> MutexGuard<'_, (Instant, Sender)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn silence_counts_from_the_last_datagram_of_either_side() {
        let patience = Patience::of_port(53);
        let seconds = Duration::from_secs;
        let begin = Instant::now();
        let unanswered = Activity::new();
        unanswered.idle(patience).await;
        assert_eq!(begin.elapsed().as_secs(), 60);

        let begin = Instant::now();
        let answered = Activity::new();
        let answering = async {
            sleep_until(begin + seconds(1)).await;
            answered.note(Sender::Server);
            sleep_until(begin + seconds(8)).await;
            answered.note(Sender::Client);
            sleep_until(begin + seconds(40)).await;
            answered.note(Sender::Server);
        };
        tokio::join!(answering, answered.idle(patience));
        assert_eq!(begin.elapsed().as_secs(), 50);
    }
}
