//! How the forwards stand, for whoever asks.

use std::sync::Arc;
use std::time::Duration;

use berth_relay::Traffic;
use tokio::time::Instant;

use crate::address::{GuestTarget, HostAddr};
use crate::listen::Forward;

/// How everything stands.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// Every forward that there ought to be.
    pub forwards: Vec<ForwardStatus>,
    /// Whether static rules and unix sockets were all tried once.
    pub is_settled: bool,
    /// Forwards that are left out because there are too many.
    pub left_out: usize,
    /// Changes that no notice told of, because there were too many.
    pub notices_left_out: u64,
}

/// How one forward stands.
#[derive(Debug, Clone)]
pub struct ForwardStatus {
    /// The sockets of the guest that it leads to, the preferred first.
    pub guests: Vec<GuestTarget>,
    /// Where it is on the host.
    pub host: HostAddr,
    /// Whether a rule wants it whatever the guest listens on.
    pub is_static: bool,
    /// Whether the guest listens and the host's socket is connected to.
    pub is_reverse: bool,
    /// How it stands.
    pub state: ForwardState,
    /// For how long it has stood so.
    pub age: Duration,
    /// What went through it, and what went wrong last. Connections that were refused count as errors only.
    pub traffic: Traffic,
}

/// How a forward stands, in a word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ForwardState {
    /// It listens.
    Listening,
    /// It will listen when somebody else lets go, or when there is a way into the guest. It is tried again by itself.
    Waiting {
        /// What for. Safe to print.
        why: String,
    },
    /// It cannot listen.
    Failed {
        /// Why. Safe to print.
        why: String,
    },
}

/// What the owner publishes after every change; the counters go on counting.
#[derive(Debug, Clone, Default)]
pub(super) struct Published {
    pub(super) rows: Arc<[Row]>,
    pub(super) is_settled: bool,
    pub(super) left_out: usize,
    pub(super) notices_left_out: u64,
}

/// One forward.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) guests: Vec<GuestTarget>,
    pub(super) host: HostAddr,
    pub(super) is_static: bool,
    pub(super) is_reverse: bool,
    pub(super) state: ForwardState,
    pub(super) since: Instant,
    /// `None`: it never listened, because another has its place.
    pub(super) forward: Option<Arc<Forward>>,
}

impl Published {
    pub(super) fn status(&self) -> Status {
        Status {
            forwards: self.rows.iter().map(Row::status).collect(),
            is_settled: self.is_settled,
            left_out: self.left_out,
            notices_left_out: self.notices_left_out,
        }
    }
}

impl Row {
    fn status(&self) -> ForwardStatus {
        let traffic = self.forward.as_ref().map(|it| it.tally().traffic());
        ForwardStatus {
            guests: self.guests.clone(),
            host: self.host.clone(),
            is_static: self.is_static,
            is_reverse: self.is_reverse,
            state: self.state.clone(),
            age: self.since.elapsed(),
            traffic: traffic.unwrap_or_default(),
        }
    }
}
