//! What the guest listens on, as Lima's agent tells it: filtered, capped, and put together over all connections.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use berth_forward::address::{GuestPort, GuestPorts, Transport};
use berth_guest_api::port::{GuestPort as Reported, PortChanges, PortList, Protocol};
use berth_link::event::PortInterest;

/// Most ports of one guest that are known at the same time.
pub(super) const MAX_PORTS: usize = 4096;

/// UDP ports of the system itself: DHCP of both versions, NTP's control, mDNS, LLMNR. A forward of them breaks the host's own.
const SYSTEM_UDP: [u16; 5] = [68, 323, 546, 5353, 5355];

/// Where Linux takes the ports of sockets that asked for none. Lima's agent reports those too.
const EPHEMERAL: RangeInclusive<u16> = 32768..=60999;

/// Every port that counts.
#[derive(Debug)]
pub(super) struct PortTable {
    interest: PortInterest,
    ports: Arc<BTreeSet<GuestPort>>,
    known: bool,
    /// Ports that found no room, since the last whole list.
    pub(super) left_out: usize,
}

impl PortTable {
    pub(super) fn new(interest: PortInterest) -> Self {
        Self {
            interest,
            ports: Arc::default(),
            known: false,
            left_out: 0,
        }
    }

    /// Takes a whole list in place of everything before; says whether that changed anything.
    pub(super) fn replace(&mut self, list: &PortList) -> bool {
        let mut ports = BTreeSet::new();
        self.left_out = 0;
        for port in &list.ports {
            if let Some(port) = counted(&self.interest, *port) {
                self.left_out += usize::from(!add(&mut ports, port));
            }
        }
        let changed = !self.known || *self.ports != ports;
        self.known = true;
        if changed {
            self.ports = Arc::new(ports);
        }
        changed
    }

    /// Takes in changes, which may repeat what is known; says whether any did not.
    pub(super) fn apply(&mut self, event: &PortChanges) -> bool {
        let mut changed = false;
        let interest = &self.interest;
        let counts = |port: &Reported| counted(interest, *port);
        for gone in event.removed.iter().filter_map(counts) {
            if self.ports.contains(&gone) {
                changed |= Arc::make_mut(&mut self.ports).remove(&gone);
            }
        }
        for new in event.added.iter().filter_map(counts) {
            if !self.ports.contains(&new) {
                let added = add(Arc::make_mut(&mut self.ports), new);
                self.left_out += usize::from(!added);
                changed |= added;
            }
        }
        changed
    }

    /// What is known now.
    pub(super) fn published(&self) -> GuestPorts {
        GuestPorts {
            known: self.known,
            ports: Arc::clone(&self.ports),
        }
    }
}

/// The port as others see it, if it counts.
fn counted(interest: &PortInterest, port: Reported) -> Option<GuestPort> {
    let transport = match port.protocol {
        Protocol::Tcp => Transport::Tcp,
        Protocol::Udp if udp_counts(interest, port.port) => Transport::Udp,
        Protocol::Udp => return None,
    };
    Some(GuestPort {
        transport,
        address: SocketAddr::new(port.ip.to_canonical(), port.port),
    })
}

/// Unlike our agent, Lima's cannot tell which program asked for its port by number.
fn udp_counts(interest: &PortInterest, port: u16) -> bool {
    let named = interest
        .udp_ranges
        .iter()
        .any(|range| range.contains(&port));
    let of_the_system = SYSTEM_UDP.contains(&port) && !interest.system_udp;
    named || !(of_the_system || EPHEMERAL.contains(&port))
}

/// Adds a port if there is room; `false` if there is none.
fn add(ports: &mut BTreeSet<GuestPort>, port: GuestPort) -> bool {
    let room = ports.len() < MAX_PORTS || ports.contains(&port);
    if room {
        ports.insert(port);
    }
    room
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reported(protocol: Protocol, address: &str) -> Reported {
        let address: SocketAddr = address.parse().unwrap();
        Reported {
            protocol,
            ip: address.ip(),
            port: address.port(),
        }
    }

    fn tcp(address: &str) -> Reported {
        reported(Protocol::Tcp, address)
    }

    fn shown(table: &PortTable) -> Vec<String> {
        let ports = table.published().ports;
        ports
            .iter()
            .map(|port| format!("{:?} {}", port.transport, port.address))
            .collect()
    }

    fn changes(added: Vec<Reported>, removed: Vec<Reported>) -> PortChanges {
        PortChanges {
            added,
            removed,
            ..PortChanges::default()
        }
    }

    fn list(ports: Vec<Reported>) -> PortList {
        PortList {
            ports,
            malformed: 0,
        }
    }

    #[test]
    fn changes_may_repeat_and_name_what_was_never_there() {
        let mut table = PortTable::new(PortInterest::default());
        assert!(!table.published().known);
        assert!(table.replace(&list(Vec::new())), "nothing is news at first");
        assert!(table.published().known);
        assert!(!table.replace(&list(Vec::new())));
        let web = tcp("[::ffff:127.0.0.1]:80");
        assert!(table.apply(&changes(vec![web, web], vec![tcp("127.0.0.1:81")])));
        assert!(!table.apply(&changes(vec![web, tcp("127.0.0.1:80")], Vec::new())));
        assert_eq!(shown(&table), ["Tcp 127.0.0.1:80"]);
        // Removed first: a port named twice was opened again.
        assert!(table.apply(&changes(vec![web], vec![web])));
        assert_eq!(shown(&table), ["Tcp 127.0.0.1:80"]);
        assert!(table.replace(&list(vec![tcp("[::1]:80")])));
        assert_eq!(shown(&table), ["Tcp [::1]:80"]);
    }

    #[test]
    fn what_was_published_is_not_changed_behind_its_readers_back() {
        let mut table = PortTable::new(PortInterest::default());
        table.replace(&list(vec![tcp("0.0.0.0:80")]));
        let before = table.published();
        table.apply(&changes(vec![tcp("0.0.0.0:81")], Vec::new()));
        assert_eq!(before.ports.len(), 1);
        assert_eq!(table.published().ports.len(), 2);
    }

    #[test]
    fn udp_ports_that_mean_nothing_to_others_do_not_count_unless_a_rule_names_them() {
        let udp = |port: u16| reported(Protocol::Udp, &format!("0.0.0.0:{port}"));
        let all = || {
            let ports = [
                53, 68, 323, 546, 5353, 5355, 32767, 32768, 50000, 60999, 61000,
            ];
            list(ports.map(udp).to_vec())
        };
        let mut table = PortTable::new(PortInterest::default());
        table.replace(&all());
        let kept = [53, 32767, 61000].map(|port| format!("Udp 0.0.0.0:{port}"));
        assert_eq!(shown(&table), kept);

        let mut table = PortTable::new(PortInterest {
            udp_ranges: vec![5353..=5353, 49_999..=50_001],
            system_udp: false,
        });
        table.replace(&all());
        let kept = [53, 5353, 32767, 50000, 61000].map(|port| format!("Udp 0.0.0.0:{port}"));
        assert_eq!(shown(&table), kept);
        table.replace(&list(vec![tcp("127.0.0.1:50000")]));
        assert_eq!(shown(&table), ["Tcp 127.0.0.1:50000"], "TCP always counts");
    }

    #[test]
    fn a_guest_is_known_by_its_first_4096_ports() {
        let mut table = PortTable::new(PortInterest::default());
        let many: Vec<_> = (1..=5000)
            .map(|port| tcp(&format!("127.0.0.1:{port}")))
            .collect();
        table.replace(&list(many.clone()));
        assert_eq!(table.published().ports.len(), MAX_PORTS);
        assert_eq!(table.left_out, 5000 - MAX_PORTS);
        let (one, other) = (many[0], tcp("127.0.0.2:1"));
        assert!(!table.apply(&changes(vec![other, one], Vec::new())));
        assert!(table.apply(&changes(vec![other], vec![one])));
        assert_eq!(table.published().ports.len(), MAX_PORTS);
        table.replace(&list(vec![one]));
        assert_eq!((table.published().ports.len(), table.left_out), (1, 0));
    }
}
