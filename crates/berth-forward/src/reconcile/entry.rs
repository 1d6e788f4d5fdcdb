//! One forward that ought to listen, and how that goes.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::time::Instant;

use crate::address::{HostAddr, Transport};
use crate::desired::{Key, Wanted};
use crate::limits::Retry;
use crate::listen::{Failure, FailureKind, Forward, Listening};
use crate::notices::{Standing, Subject};

use super::status::{ForwardState, Row};

/// One forward.
pub(super) struct Entry {
    pub(super) wanted: Wanted,
    pub(super) forward: Arc<Forward>,
    state: State,
    since: Instant,
}

enum State {
    /// Not tried yet, or lost and to be tried at once.
    New,
    Open(Listening),
    Down {
        failure: Failure,
        /// `None`: only an event helps.
        retry: Option<Retry>,
        /// Whether it was looked up who has the port.
        explained: bool,
    },
}

impl Entry {
    pub(super) fn new(wanted: Wanted, forward: Arc<Forward>, now: Instant) -> Self {
        forward.aim(wanted.targets());
        Self {
            wanted,
            forward,
            state: State::New,
            since: now,
        }
    }

    /// Takes in what is wanted now.
    pub(super) fn want(&mut self, wanted: Wanted) {
        if self.wanted != wanted {
            self.forward.aim(wanted.targets());
            self.wanted = wanted;
        }
    }

    pub(super) fn into_listening(self) -> Option<Listening> {
        match self.state {
            State::Open(listening) => Some(listening),
            State::New | State::Down { .. } => None,
        }
    }

    pub(super) fn listening(&self) -> Option<&Listening> {
        match &self.state {
            State::Open(listening) => Some(listening),
            State::New | State::Down { .. } => None,
        }
    }

    /// Whether it is to be tried now.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        match &self.state {
            State::New => true,
            State::Open(_) => false,
            State::Down { retry, .. } => retry.is_some_and(|retry| retry.at <= now),
        }
    }

    /// When it is to be tried again.
    pub(super) fn due_at(&self) -> Option<Instant> {
        match &self.state {
            State::Down { retry, .. } => retry.map(|retry| retry.at),
            State::New | State::Open(_) => None,
        }
    }

    /// Takes in how an attempt went.
    pub(super) fn tried(&mut self, outcome: Result<Listening, Failure>, now: Instant) {
        let next = match outcome {
            Ok(listening) => State::Open(listening),
            Err(failure) => self.failed(failure, now),
        };
        let changed = match (&self.state, &next) {
            (State::Down { failure: old, .. }, State::Down { failure: new, .. }) => {
                old.kind != new.kind
            }
            _ => true,
        };
        if changed {
            self.since = now;
        }
        self.state = next;
    }

    fn failed(&self, failure: Failure, now: Instant) -> State {
        let (retry, explained, known) = match &self.state {
            State::Down {
                failure: known,
                retry,
                explained,
            } if known.kind == failure.kind => (*retry, *explained, Some(known)),
            _ => (None, false, None),
        };
        let is_tried_again = matches!(failure.kind, FailureKind::Taken | FailureKind::Other);
        let next = retry.map_or_else(|| Retry::first(now), |retry| retry.next(now));
        State::Down {
            // The explanation stays for as long as the port is taken.
            failure: match known {
                Some(known) if explained => known.clone(),
                _ => failure,
            },
            retry: is_tried_again.then_some(next),
            explained,
        }
    }

    /// Takes note that it does not listen any more, and gives back what is left of it.
    pub(super) fn lost(&mut self, now: Instant) -> Option<Listening> {
        match std::mem::replace(&mut self.state, State::New) {
            State::Open(listening) => {
                self.since = now;
                Some(listening)
            }
            other => {
                self.state = other;
                None
            }
        }
    }

    /// Lets it be tried now.
    pub(super) fn hurry(&mut self, now: Instant) {
        if let State::Down { retry, .. } = &mut self.state {
            *retry = Some(retry.map_or_else(|| Retry::first(now), |retry| retry.sooner(now)));
        }
    }

    /// Whether it waits for the way into the guest.
    pub(super) fn needs_way(&self) -> bool {
        matches!(&self.state, State::Down { failure, .. } if failure.kind == FailureKind::NoWay)
    }

    /// The port that somebody else has.
    pub(super) fn taken_port(&self, key: &Key) -> Option<(Transport, u16)> {
        match &self.state {
            State::Down { failure, .. } if failure.kind == FailureKind::Taken => key.port(),
            _ => None,
        }
    }

    /// The port whose owner is to be looked up.
    pub(super) fn unexplained_port(&self, key: &Key) -> Option<(Transport, u16)> {
        match &self.state {
            State::Down {
                explained: false, ..
            } => self.taken_port(key),
            _ => None,
        }
    }

    /// Takes in who has the port, if that is known.
    pub(super) fn explain(&mut self, port: (Transport, u16), owner: Option<&str>) {
        if let State::Down {
            failure, explained, ..
        } = &mut self.state
        {
            *explained = true;
            let (_, number) = port;
            failure.why = match owner {
                Some(owner) => format!("port {number} is taken by {owner}"),
                None => format!("port {number} is taken by another process"),
            };
        }
    }

    /// What people are told of it. Nothing yet while it is looked up who has the port.
    pub(super) fn tell(&self, key: &Key, all: &mut BTreeMap<Subject, Option<Standing>>) {
        let standing = match &self.state {
            State::New => None,
            _ if self.unexplained_port(key).is_some() => None,
            State::Open(_) => Some(Standing::Forwarded),
            State::Down { failure, .. } => Some(Standing::Failed {
                why: failure.why.clone(),
                is_minor: is_minor(key, failure.kind),
            }),
        };
        for claim in self.wanted.news() {
            all.insert(claim.subject(), standing.clone());
        }
        for claim in &self.wanted.outranked {
            let why = self.outranked_why();
            let is_minor = false;
            all.entry(claim.subject())
                .or_insert(Some(Standing::Failed { why, is_minor }));
        }
    }

    fn outranked_why(&self) -> String {
        let first = self.wanted.claims.first();
        let guest = first.map_or_else(String::new, |claim| claim.guest.to_string());
        format!("an earlier rule leads from there to {guest}")
    }

    /// What is shown of it: itself, and those whose place it has.
    pub(super) fn rows(&self, key: &Key) -> impl Iterator<Item = Row> + '_ {
        let host = match key {
            Key::Guest { socket, .. } => HostAddr::Socket(socket.clone()),
            Key::Host { host, .. } => {
                let first = self.wanted.claims.first();
                first.map_or_else(|| host.clone(), |claim| claim.host.clone())
            }
        };
        let state = match &self.state {
            State::Open(_) => ForwardState::Listening,
            State::New => ForwardState::Waiting { why: String::new() },
            State::Down { failure, .. } => {
                let why = failure.why.clone();
                match failure.kind {
                    FailureKind::Taken | FailureKind::NoWay => ForwardState::Waiting { why },
                    FailureKind::Denied | FailureKind::Other => ForwardState::Failed { why },
                }
            }
        };
        let own = Row {
            guests: self.wanted.targets(),
            host,
            is_static: self.wanted.is_fixed(),
            is_reverse: matches!(key, Key::Guest { .. }),
            state,
            since: self.since,
            forward: Some(Arc::clone(&self.forward)),
        };
        let outranked = self.wanted.outranked.iter().map(|claim| Row {
            guests: vec![claim.guest.clone()],
            host: claim.host.clone(),
            is_static: claim.is_fixed(),
            is_reverse: false,
            state: ForwardState::Waiting {
                why: self.outranked_why(),
            },
            since: self.since,
            forward: None,
        });
        std::iter::once(own).chain(outranked)
    }
}

/// Whether many hosts fail so and few people mind: privileged ports, and those of services that every system has (DNS, NTP, mDNS,
/// LLMNR). Lima keeps quiet about the same.
fn is_minor(key: &Key, kind: FailureKind) -> bool {
    match (kind, key.port()) {
        (FailureKind::Denied, Some(_)) | (FailureKind::Taken, Some((_, 53))) => true,
        (FailureKind::Taken, Some((Transport::Udp, port))) => matches!(port, 323 | 5353 | 5355),
        _ => false,
    }
}
