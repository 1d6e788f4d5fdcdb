//! What listens in the guest, put together from the updates of our agent.

use std::collections::BTreeSet;
use std::sync::Arc;

use berth_forward::address::{GuestPort, GuestPorts, Transport};
use berth_link::event::{GuestSocket, PortsUpdate};

/// Takes an update in; says whether anything has changed.
pub(crate) fn apply(known: &mut GuestPorts, update: &PortsUpdate) -> bool {
    if update.left_out > 0 {
        tracing::warn!(
            left_out = update.left_out,
            "the guest has more ports than are looked at"
        );
    }
    let mut ports = if update.all {
        BTreeSet::new()
    } else {
        known.ports.as_ref().clone()
    };
    for socket in &update.removed {
        ports.remove(&port(socket));
    }
    ports.extend(update.added.iter().map(port));
    let changed = !known.known || ports != *known.ports;
    if changed {
        *known = GuestPorts {
            known: true,
            ports: Arc::new(ports),
        };
    }
    changed
}

fn port(socket: &GuestSocket) -> GuestPort {
    GuestPort {
        transport: match socket.transport() {
            berth_link::event::Transport::Tcp => Transport::Tcp,
            berth_link::event::Transport::Udp => Transport::Udp,
        },
        address: socket.address(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(port: u16) -> GuestSocket {
        let address = ([127, 0, 0, 1], port).into();
        GuestSocket::new(berth_link::event::Transport::Tcp, address).unwrap()
    }

    fn numbers(known: &GuestPorts) -> Vec<u16> {
        known.ports.iter().map(|port| port.address.port()).collect()
    }

    #[test]
    fn a_full_report_replaces_and_a_difference_adds() {
        let mut known = GuestPorts::default();
        let all = |ports: &[u16]| PortsUpdate {
            all: true,
            added: ports.iter().map(|port| socket(*port)).collect(),
            ..PortsUpdate::default()
        };
        assert!(apply(&mut known, &all(&[])), "known to be none is news");
        assert!(known.known);
        assert!(apply(&mut known, &all(&[1, 2])));
        assert!(!apply(&mut known, &all(&[2, 1])));
        let difference = PortsUpdate {
            added: vec![socket(3)],
            removed: vec![socket(1), socket(9)],
            ..PortsUpdate::default()
        };
        assert!(apply(&mut known, &difference));
        assert_eq!(numbers(&known), [2, 3]);
        assert!(apply(&mut known, &all(&[7])));
        assert_eq!(numbers(&known), [7]);
    }
}
