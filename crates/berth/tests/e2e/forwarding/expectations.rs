//! The table of [`table`](super::table), held against an instance.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::guest_end::{Answer, GuestEnd, Listener};
use super::patience::comes_true;
use super::port_events::{PortEvent, PortEvents};
use super::table::{IGNORED, Row};
use super::talk;
use crate::instance::Instance;
use crate::monitor::http_get;
use crate::network::OwnNetwork;

/// What is sent.
const PAYLOAD: &str = "payload";

/// Rows whose guest addresses are listened on.
pub(crate) struct Open<'a, 'home> {
    instance: &'a Instance<'home>,
    protocol: &'static str,
    rows: Vec<Row>,
    listeners: Vec<Listener>,
    events: PortEvents<'home>,
    /// What the guest has by itself.
    shown_before: Vec<Value>,
}

/// Where a row can be reached on the host.
pub(crate) enum Place {
    Nowhere,
    Port(SocketAddr),
    Socket(PathBuf),
}

impl<'a, 'home> Open<'a, 'home> {
    /// Listens in the guest on the address of each row, and waits until the agent has said what the row says.
    #[track_caller]
    pub(crate) fn new(
        instance: &'a Instance<'home>,
        guest: &mut GuestEnd<'home>,
        protocol: &'static str,
        rows: Vec<Row>,
    ) -> Self {
        let shown_before = listed(instance);
        let mut events = PortEvents::follow(instance);
        let listeners = rows
            .iter()
            .map(|row| guest.listen(protocol, &row.guest, Answer::Label))
            .collect();
        let wanted: Vec<_> = rows
            .iter()
            .map(|row| match host_of(instance, row) {
                None => PortEvent::new("not-forwarding", protocol, &row.guest, None),
                host => PortEvent::new("forwarding", protocol, &row.guest, host.as_deref()),
            })
            .collect();
        events.until_all("listening in the guest", wanted);
        Self {
            instance,
            protocol,
            rows,
            listeners,
            events,
            shown_before,
        }
    }

    /// Where the rows are on the host.
    pub(crate) fn places(&self) -> impl Iterator<Item = (&Row, Place)> {
        self.rows.iter().map(|row| (row, self.place(row)))
    }

    fn place(&self, row: &Row) -> Place {
        match host_of(self.instance, row) {
            None => Place::Nowhere,
            Some(path) if path.starts_with('/') => Place::Socket(path.into()),
            Some(address) => Place::Port(address.parse().expect("an address")),
        }
    }

    /// Sends something on each way to each row, which must arrive there and nowhere else.
    #[track_caller]
    pub(crate) fn carry(&self) {
        for (row, place) in self.places() {
            match place {
                Place::Nowhere => {}
                Place::Port(port) => {
                    for ip in OwnNetwork::ways_to(port.ip()) {
                        let way = SocketAddr::new(ip, port.port());
                        let answer = match self.protocol {
                            "udp" => talk::udp(way, PAYLOAD),
                            _ => talk::tcp(way, PAYLOAD),
                        };
                        self.check(row, &way, answer);
                    }
                }
                Place::Socket(path) => {
                    self.check(row, &path, talk::unix(&path, PAYLOAD));
                }
            }
        }
    }

    #[track_caller]
    fn check(&self, row: &Row, way: &dyn std::fmt::Debug, answer: std::io::Result<String>) {
        match answer {
            Ok(answer) if answer == answer_of(row) => {}
            other => panic!(
                "{} {} by way of {way:?}: {other:?} (rule {})",
                self.protocol, row.guest, row.rule
            ),
        }
    }

    /// Checks that `list --json`, the agent's API and `status` show each row that is forwarded, with what [`Self::carry`] has
    /// sent.
    #[track_caller]
    pub(crate) fn assert_shown(&self) {
        let mut wanted: Vec<Value> = Vec::new();
        for (row, place) in self.places() {
            let ways = match place {
                Place::Nowhere => continue,
                Place::Port(port) => OwnNetwork::ways_to(port.ip()).len(),
                Place::Socket(_) => 1,
            };
            wanted.push(json!({
                "transport": self.protocol,
                "guest": row.guest,
                "host": host_of(self.instance, row),
                "state": "listening",
                "total": ways,
                "bytesToGuest": ways * PAYLOAD.len(),
                "bytesToHost": ways * answer_of(row).len(),
            }));
        }
        wanted.extend(self.shown_before.iter().cloned());
        wanted.sort_by_key(Value::to_string);
        for (what, shown) in [("list --json", listed as Shown), ("the API", asked)] {
            if !comes_true(|| shown(self.instance) == wanted) {
                let shown = shown(self.instance);
                let not_in = |others: &[Value], one: &&Value| !others.contains(one);
                panic!(
                    "{what}, {}: too much: {:#?}, missing: {:#?}",
                    self.protocol,
                    shown
                        .iter()
                        .filter(|it| not_in(&wanted, it))
                        .collect::<Vec<_>>(),
                    wanted
                        .iter()
                        .filter(|it| not_in(&shown, it))
                        .collect::<Vec<_>>(),
                );
            }
        }
        let status = self.instance.home.run(&["status", self.instance.name]);
        let status = status.success();
        for forward in &wanted {
            let text = |key: &str| forward[key].as_str().expect("a text");
            let is_about = |line: &str| {
                let words: Vec<_> = line.split_whitespace().collect();
                words.starts_with(&[text("transport"), text("host"), text("guest")])
            };
            assert!(status.lines().any(is_about), "{forward} in:\n{status}");
        }
    }

    /// Closes everything in the guest, and waits until the agent has said that it stops.
    #[track_caller]
    pub(crate) fn close(mut self, guest: &mut GuestEnd<'home>) {
        for listener in &self.listeners {
            guest.close(*listener);
        }
        let wanted: Vec<_> = self
            .rows
            .iter()
            .filter_map(|row| {
                let host = host_of(self.instance, row)?;
                Some(PortEvent::new(
                    "stopping",
                    self.protocol,
                    &row.guest,
                    Some(&host),
                ))
            })
            .collect();
        self.events.until_all("closing in the guest", wanted);
        for event in self.events.seen() {
            assert_ne!(event.kind, "failed", "{event:?}");
        }
    }
}

/// What comes back.
fn answer_of(row: &Row) -> String {
    format!("{} got {PAYLOAD}", row.guest)
}

type Shown = fn(&Instance<'_>) -> Vec<Value>;

/// The forwards as `list --json` shows them.
fn listed(instance: &Instance<'_>) -> Vec<Value> {
    let list = ["list", "--json", instance.name];
    let listed = instance.home.run(&list).success();
    let listed: Value = serde_json::from_str(&listed).expect("one object");
    comparable(&listed["berthForwards"])
}

/// The forwards as the agent itself shows them.
fn asked(instance: &Instance<'_>) -> Vec<Value> {
    let (_, info) = http_get(&instance.path("ha.sock"), "/v1/info");
    comparable(&info["berthForwards"])
}

/// Forwards as the agent shows them, in a fixed order, without what changes by itself: how many connections are open.
fn comparable(forwards: &Value) -> Vec<Value> {
    let mut forwards = forwards.as_array().cloned().unwrap_or_default();
    for forward in &mut forwards {
        let open = forward
            .as_object_mut()
            .and_then(|it| it.remove("connections"));
        assert!(open.is_some_and(|open| open.is_u64()), "{forward}");
    }
    forwards.sort_by_key(Value::to_string);
    forwards
}

/// The `hostAddr` of a row's events.
fn host_of(instance: &Instance<'_>, row: &Row) -> Option<String> {
    match row.host.as_str() {
        IGNORED => None,
        socket if socket.starts_with('/') => {
            let path = instance.path(&format!("sock{socket}"));
            Some(path.to_str().expect("a text").to_owned())
        }
        address => Some(address.to_owned()),
    }
}
