//! Looking up who has a port, beside everything else.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::address::Transport;
use crate::limits::{Bucket, Rate};
use crate::sys;

/// A look-up reads much of `/proc`; a guest that opens ever new ports that the host uses must not cause many.
const RATE: Rate = Rate {
    burst: 8,
    every: Duration::from_millis(500),
};

pub(super) type Port = (Transport, u16);

/// What a look-up found: the ports that were asked for, with their owners where they are known.
pub(super) type Answer = BTreeMap<Port, Option<String>>;

/// At most one look-up at a time.
pub(super) struct Explainer {
    bucket: Bucket,
    under_way: Option<LookUp>,
}

struct LookUp {
    ports: BTreeSet<Port>,
    owners: JoinHandle<BTreeMap<Port, String>>,
}

impl Explainer {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            bucket: Bucket::full(RATE, now),
            under_way: None,
        }
    }

    pub(super) fn is_busy(&self) -> bool {
        self.under_way.is_some()
    }

    /// Begins a look-up. The answer is given at once, and empty, when there were too many of late.
    pub(super) fn ask(
        &mut self,
        ports: BTreeSet<Port>,
        now: Instant,
        tracker: &TaskTracker,
    ) -> Option<Answer> {
        if self.bucket.take(now).is_err() {
            return Some(ports.into_iter().map(|port| (port, None)).collect());
        }
        let asked = ports.clone();
        let owners = tracker.spawn_blocking(move || sys::owners_of_ports(&asked));
        self.under_way = Some(LookUp { ports, owners });
        None
    }

    /// Waits for the answer; for ever when there is no look-up. Cancel-safe.
    pub(super) async fn answer(&mut self) -> Answer {
        let Some(LookUp { ports, owners }) = &mut self.under_way else {
            return std::future::pending().await;
        };
        // One that panicked knows nothing.
        let mut owners = owners.await.unwrap_or_default();
        let explained = ports.iter().map(|port| (*port, owners.remove(port)));
        let explained = explained.collect();
        self.under_way = None;
        explained
    }
}
