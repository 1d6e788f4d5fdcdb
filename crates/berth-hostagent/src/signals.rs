//! Stop requests: the first asks for an orderly stop, the second for haste.

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::sys;

/// How urgently somebody wants the agent to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Urgency {
    /// Nobody asked.
    None,
    /// An orderly stop, with the name of the signal that asked.
    Stop(&'static str),
    /// A second signal: down the ladder at once.
    Now,
}

/// The stop requests of this process.
#[derive(Debug, Clone)]
pub struct StopRequests {
    urgency: watch::Receiver<Urgency>,
    hurry: watch::Receiver<bool>,
}

impl StopRequests {
    /// Takes over SIGINT, SIGTERM and SIGHUP (or the console events of Windows) for the rest of the process.
    pub fn listen(tracker: &TaskTracker, cancel: CancellationToken) -> std::io::Result<Self> {
        let mut signals = sys::Signals::take_over()?;
        let (asker, urgency, hurry) = Self::channel();
        tracker.spawn(async move {
            while let Some(name) = cancel.run_until_cancelled(signals.next()).await {
                tracing::info!(signal = name, "asked to stop");
                asker.ask(name);
            }
        });
        Ok(Self { urgency, hurry })
    }

    fn channel() -> (Asker, watch::Receiver<Urgency>, watch::Receiver<bool>) {
        let (urgency, urgency_seen) = watch::channel(Urgency::None);
        let (hurry, hurry_seen) = watch::channel(false);
        (Asker { urgency, hurry }, urgency_seen, hurry_seen)
    }

    /// Requests that a test makes by hand.
    #[cfg(test)]
    pub(crate) fn by_hand() -> (Asker, Self) {
        let (asker, urgency, hurry) = Self::channel();
        (asker, Self { urgency, hurry })
    }

    /// Waits for the first request and names it.
    pub async fn stop(&mut self) -> &'static str {
        match self
            .urgency
            .wait_for(|&u| u != Urgency::None)
            .await
            .map(|u| *u)
        {
            Ok(Urgency::Stop(name)) => name,
            Ok(_) => "a second signal",
            // The listener was cancelled: the process is about to end anyway.
            Err(_) => std::future::pending().await,
        }
    }

    /// Whether somebody asked already.
    #[must_use]
    pub fn asked(&self) -> bool {
        *self.urgency.borrow() != Urgency::None
    }

    /// Turns true with the second request.
    #[must_use]
    pub fn hurry(&self) -> watch::Receiver<bool> {
        self.hurry.clone()
    }
}

/// The sending side.
#[derive(Debug)]
pub(crate) struct Asker {
    urgency: watch::Sender<Urgency>,
    hurry: watch::Sender<bool>,
}

impl Asker {
    /// Counts one request.
    pub(crate) fn ask(&self, name: &'static str) {
        self.urgency.send_modify(|urgency| {
            *urgency = match *urgency {
                Urgency::None => Urgency::Stop(name),
                Urgency::Stop(_) | Urgency::Now => Urgency::Now,
            };
        });
        if *self.urgency.borrow() == Urgency::Now {
            self.hurry.send_replace(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_second_request_is_haste() {
        let (asker, mut requests) = StopRequests::by_hand();
        assert!(!requests.asked());
        asker.ask("SIGINT");
        assert_eq!(requests.stop().await, "SIGINT");
        assert!(!*requests.hurry().borrow());
        asker.ask("SIGTERM");
        assert!(*requests.hurry().borrow());
    }
}
