//! What the agent says about ports, in its events.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::instance::{Instance, Lines};

/// Finds events that never come.
const HANG: Duration = Duration::from_secs(60);

/// One event about a port, without its error.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PortEvent {
    /// `forwarding`, `not-forwarding`, `stopping` or `failed`.
    pub(crate) kind: String,
    pub(crate) protocol: String,
    pub(crate) guest: String,
    pub(crate) host: Option<String>,
}

impl PortEvent {
    pub(crate) fn new(kind: &str, protocol: &str, guest: &str, host: Option<&str>) -> Self {
        Self {
            kind: kind.to_owned(),
            protocol: protocol.to_owned(),
            guest: guest.to_owned(),
            host: host.map(str::to_owned),
        }
    }

    /// An event about a port, if it is one.
    pub(crate) fn of(event: &Value) -> Option<Self> {
        let about = event["status"]["portForward"].as_object()?;
        let text = |key: &str| about.get(key).and_then(Value::as_str).map(str::to_owned);
        Some(Self {
            kind: text("type").expect("a type"),
            protocol: text("protocol").expect("a protocol"),
            guest: text("guestAddr").expect("a guest address"),
            host: text("hostAddr"),
        })
    }
}

/// The events about ports from now on.
pub(crate) struct PortEvents<'home> {
    lines: Lines<'home>,
    seen: Vec<PortEvent>,
}

impl<'home> PortEvents<'home> {
    #[track_caller]
    pub(crate) fn follow(instance: &Instance<'home>) -> Self {
        Self {
            lines: instance.follow("ha.stdout.log"),
            seen: Vec::new(),
        }
    }

    /// Waits until each of these was said, in any order.
    #[track_caller]
    pub(crate) fn until_all(&mut self, what: &str, wanted: impl IntoIterator<Item = PortEvent>) {
        let mut missing: BTreeSet<PortEvent> = wanted.into_iter().collect();
        for event in &self.seen {
            missing.remove(event);
        }
        let end = Instant::now() + HANG;
        while !missing.is_empty() {
            let line = self.lines.next_before(end);
            let Some(line) = line else {
                panic!(
                    "{what}: never said: {missing:#?}\nbut said: {:#?}",
                    self.seen
                );
            };
            if let Some(event) = PortEvent::of(&line) {
                missing.remove(&event);
                self.seen.push(event);
            }
        }
    }

    /// Waits until a port of the guest could not be forwarded, and returns why.
    #[track_caller]
    pub(crate) fn until_failed(&mut self, protocol: &str, guest: &str) -> String {
        let end = Instant::now() + HANG;
        loop {
            let Some(line) = self.lines.next_before(end) else {
                panic!("{guest} did not fail: {:#?}", self.seen);
            };
            let Some(event) = PortEvent::of(&line) else {
                continue;
            };
            let failed = event.kind == "failed"
                && (event.protocol.as_str(), event.guest.as_str()) == (protocol, guest);
            self.seen.push(event);
            if failed {
                let error = &line["status"]["portForward"]["error"];
                return error.as_str().expect("a reason").to_owned();
            }
        }
    }

    /// What was said until now.
    pub(crate) fn seen(&self) -> &[PortEvent] {
        &self.seen
    }
}
