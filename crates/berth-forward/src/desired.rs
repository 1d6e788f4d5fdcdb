//! What ought to listen: the rules applied to what the guest listens on.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::address::{GuestPorts, GuestTarget, HostAddr, Transport};
use crate::notices::Subject;
use crate::rules::{Decision, Route, RuleList};

/// One thing that listens, by its one name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    /// A place on the host.
    Host {
        transport: Transport,
        /// [Canonical](HostAddr::canonical).
        host: HostAddr,
    },
    /// A unix socket in the guest, which leads to one on the host.
    Guest { path: String, socket: PathBuf },
}

/// Where a connection to it goes: one or several sockets of the guest, the preferred first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// Those of the rule that has the host address. Never empty.
    pub(crate) claims: Vec<Claim>,
    /// Those of later rules, which would lead there too.
    pub(crate) outranked: Vec<Claim>,
}

/// One socket of the guest that leads to a host address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) guest: GuestTarget,
    /// As the rule writes it.
    pub(crate) host: HostAddr,
    pub(crate) rank: usize,
    pub(crate) kind: ClaimKind,
}

/// In the order in which connections prefer them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ClaimKind {
    /// A socket that the guest has reported, for a static forward: it tells the address to dial, and is nobody's news.
    Served,
    /// A socket that the guest has reported.
    Reported,
    /// A static rule, or one for a unix socket: nobody knows whether anything listens.
    Fixed,
}

/// The desired set.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Desired {
    pub(crate) forwards: BTreeMap<Key, Wanted>,
    /// Reported sockets that stay inside, with a reason that the rules do not show.
    pub(crate) inside: Vec<(GuestTarget, Option<&'static str>)>,
    /// The first of those that are too many, and their number.
    pub(crate) too_many: Option<(Subject, usize)>,
}

/// A guest may listen on the same port of every address that it has.
const MOST_TARGETS: usize = 8;

/// Why a UDP port stays inside when `ssh` carries the connections.
pub(crate) const NO_UDP: &str = "SSH carries no UDP";

/// Applies the rules. The part that does not depend on the guest is worked out once.
#[derive(Debug)]
pub(crate) struct Wishes {
    rules: RuleList,
    fixed: Vec<(Key, Claim)>,
    fixed_inside: Vec<(GuestTarget, Option<&'static str>)>,
    carries_udp: bool,
    most: usize,
}

impl Wishes {
    pub(crate) fn new(rules: RuleList, carries_udp: bool, most: usize) -> Self {
        let mut wishes = Self {
            fixed: Vec::new(),
            fixed_inside: Vec::new(),
            carries_udp,
            most,
            rules,
        };
        let sockets = wishes.rules.socket_forwards().iter().filter_map(|socket| {
            let guest = GuestTarget::Unix {
                path: socket.guest.clone(),
                as_root: false,
            };
            let key = match &socket.route.host {
                HostAddr::Socket(host) if socket.reverse => Key::Guest {
                    path: socket.guest.clone(),
                    socket: host.clone(),
                },
                _ if socket.reverse => return None,
                host => Key::host(Transport::Tcp, host),
            };
            Some((
                key,
                Claim::new(guest, socket.route.clone(), ClaimKind::Fixed),
            ))
        });
        wishes.fixed = sockets.collect();
        // One more than may listen shows that there are too many; a rule may name 65,535 ports.
        let statics = wishes.rules.static_forwards().take(most.saturating_add(1));
        for forward in statics {
            let guest = GuestTarget::port(forward.transport, forward.guest);
            if forward.transport == Transport::Udp && !carries_udp {
                wishes.fixed_inside.push((guest, Some(NO_UDP)));
                continue;
            }
            let key = Key::host(forward.transport, &forward.route.host);
            let claim = Claim::new(guest, forward.route, ClaimKind::Fixed);
            wishes.fixed.push((key, claim));
        }
        wishes
    }

    /// What ought to listen, given what listens in the guest.
    pub(crate) fn with(&self, guest: &GuestPorts) -> Desired {
        let mut desired = Desired {
            inside: self.fixed_inside.clone(),
            ..Desired::default()
        };
        for (key, claim) in &self.fixed {
            desired.add(key.clone(), claim.clone(), self.most);
        }
        for port in guest.ports.iter() {
            self.add_reported(&mut desired, port.transport, port.address);
        }
        for wanted in desired.forwards.values_mut() {
            wanted.settle();
        }
        desired
    }

    fn add_reported(&self, desired: &mut Desired, transport: Transport, address: SocketAddr) {
        let guest = GuestTarget::port(transport, address);
        let (route, kind) = match self.rules.decide(transport, address) {
            Decision::Forward(route) => (route, ClaimKind::Reported),
            Decision::Static(route) => (route, ClaimKind::Served),
            Decision::Ignore(_) => {
                // Who has switched everything off need not be told of every port.
                if !self.rules.is_disabled(transport) {
                    desired.inside.push((guest, None));
                }
                return;
            }
        };
        if transport == Transport::Udp && !self.carries_udp {
            if kind == ClaimKind::Reported {
                desired.inside.push((guest, Some(NO_UDP)));
            }
            return;
        }
        let key = Key::host(transport, &route.host);
        desired.add(key, Claim::new(guest, route, kind), self.most);
    }
}

impl Desired {
    fn add(&mut self, key: Key, claim: Claim, most: usize) {
        let full = self.forwards.len() >= most;
        match self.forwards.get_mut(&key) {
            Some(wanted) => wanted.claims.push(claim),
            None if full => {
                let (_, count) = self.too_many.get_or_insert((claim.subject(), 0));
                *count += 1;
            }
            None => {
                let wanted = Wanted {
                    claims: vec![claim],
                    outranked: Vec::new(),
                };
                self.forwards.insert(key, wanted);
            }
        }
    }
}

impl Wanted {
    /// Puts the claims in order, and apart those of rules that come too late.
    fn settle(&mut self) {
        self.claims.sort_by(|a, b| {
            (a.rank, a.kind, &a.guest, &a.host).cmp(&(b.rank, b.kind, &b.guest, &b.host))
        });
        self.claims.dedup();
        let first = self.claims.first().map_or(0, |claim| claim.rank);
        let having_it = self.claims.partition_point(|claim| claim.rank == first);
        self.outranked = self.claims.split_off(having_it);
    }

    /// The sockets of the guest that connections may go to, the preferred first; not more than are worth trying.
    pub(crate) fn targets(&self) -> Vec<GuestTarget> {
        let mut targets = Vec::new();
        for claim in &self.claims {
            if targets.len() == MOST_TARGETS {
                break;
            }
            if !targets.contains(&claim.guest) {
                targets.push(claim.guest.clone());
            }
        }
        targets
    }

    /// Those that people are told of.
    pub(crate) fn news(&self) -> impl Iterator<Item = &Claim> {
        let claims = self.claims.iter();
        claims.filter(|claim| claim.kind != ClaimKind::Served)
    }

    /// Whether a rule wants it, whatever the guest listens on.
    pub(crate) fn is_fixed(&self) -> bool {
        self.claims.iter().any(Claim::is_fixed)
    }
}

impl Claim {
    fn new(guest: GuestTarget, route: Route, kind: ClaimKind) -> Self {
        Self {
            guest,
            host: route.host,
            rank: route.rank,
            kind,
        }
    }

    pub(crate) fn is_fixed(&self) -> bool {
        self.kind == ClaimKind::Fixed
    }

    pub(crate) fn subject(&self) -> Subject {
        Subject {
            guest: self.guest.clone(),
            host: Some(self.host.clone()),
        }
    }
}

impl Key {
    fn host(transport: Transport, host: &HostAddr) -> Self {
        Self::Host {
            transport,
            host: host.canonical(),
        }
    }

    /// The port on the host that it needs.
    pub(crate) fn port(&self) -> Option<(Transport, u16)> {
        match self {
            Self::Host { transport, host } => match host {
                HostAddr::Port(address) => Some((*transport, address.port())),
                HostAddr::Localhost(port) => Some((*transport, *port)),
                HostAddr::Socket(_) => None,
            },
            Self::Guest { .. } => None,
        }
    }
}
