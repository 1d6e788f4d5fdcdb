//! Ports from the wire and back.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use super::{at_most, field};
use crate::event::{GuestSocket, MAX_PORTS_PER_UPDATE, PortsUpdate, Transport};
use crate::message::{self as wire, MessageError};

impl TryFrom<wire::Ports> for PortsUpdate {
    type Error = MessageError;

    fn try_from(ports: wire::Ports) -> Result<Self, MessageError> {
        let count = ports.added.len() + ports.removed.len();
        at_most("ports", count, MAX_PORTS_PER_UPDATE)?;
        Ok(Self {
            all: ports.all,
            more: ports.more,
            added: known_sockets(ports.added)?,
            removed: known_sockets(ports.removed)?,
            left_out: ports.left_out,
        })
    }
}

/// The sockets, without those of transports that a later version may know.
fn known_sockets(sockets: Vec<wire::Socket>) -> Result<Vec<GuestSocket>, MessageError> {
    let mut known = Vec::with_capacity(sockets.len());
    for socket in sockets {
        let transport = match socket.transport() {
            wire::Transport::Unknown => continue,
            wire::Transport::Tcp => Transport::Tcp,
            wire::Transport::Udp => Transport::Udp,
        };
        let port = u16::try_from(socket.port)
            .map_err(|_| field("ports.port", format!("is {}", socket.port)))?;
        let address = match ip(&socket.ip)? {
            IpAddr::V4(ip) => (ip, port).into(),
            IpAddr::V6(ip) => SocketAddrV6::new(ip, port, 0, socket.scope).into(),
        };
        let socket = GuestSocket::new(transport, address);
        known.push(socket.ok_or_else(|| field("ports.port", "is 0"))?);
    }
    Ok(known)
}

fn ip(bytes: &[u8]) -> Result<IpAddr, MessageError> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Ok(v4.into());
    }
    let v6 = <[u8; 16]>::try_from(bytes);
    v6.map(Into::into)
        .map_err(|_| field("ports.ip", format!("has {} bytes", bytes.len())))
}

impl From<PortsUpdate> for wire::Ports {
    fn from(update: PortsUpdate) -> Self {
        Self {
            all: update.all,
            more: update.more,
            added: update.added.into_iter().map(Into::into).collect(),
            removed: update.removed.into_iter().map(Into::into).collect(),
            left_out: update.left_out,
        }
    }
}

impl From<GuestSocket> for wire::Socket {
    fn from(socket: GuestSocket) -> Self {
        let transport = match socket.transport() {
            Transport::Tcp => wire::Transport::Tcp,
            Transport::Udp => wire::Transport::Udp,
        };
        let (ip, scope) = match socket.address() {
            SocketAddr::V4(address) => (address.ip().octets().to_vec(), 0),
            SocketAddr::V6(address) => (address.ip().octets().to_vec(), address.scope_id()),
        };
        Self {
            transport: transport.into(),
            ip,
            port: socket.address().port().into(),
            scope,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(ip: &[u8], port: u32) -> wire::Socket {
        wire::Socket {
            transport: wire::Transport::Tcp.into(),
            ip: ip.to_vec(),
            port,
            scope: 0,
        }
    }

    fn added(sockets: Vec<wire::Socket>) -> Result<Vec<GuestSocket>, String> {
        let ports = wire::Ports {
            added: sockets,
            ..wire::Ports::default()
        };
        PortsUpdate::try_from(ports)
            .map(|update| update.added)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn every_malformed_socket_is_named() {
        for (bad, why) in [
            (
                socket(&[], 80),
                "field ports.ip of a control message has 0 bytes",
            ),
            (
                socket(&[0; 5], 80),
                "field ports.ip of a control message has 5 bytes",
            ),
            (
                socket(&[0; 17], 80),
                "field ports.ip of a control message has 17 bytes",
            ),
            (
                socket(&[0; 4], 0),
                "field ports.port of a control message is 0",
            ),
            (
                socket(&[0; 4], 65536),
                "field ports.port of a control message is 65536",
            ),
            (
                socket(&[0; 4], u32::MAX),
                "field ports.port of a control message is 4294967295",
            ),
        ] {
            assert_eq!(added(vec![socket(&[0; 4], 1), bad]), Err(why.to_owned()));
        }
    }

    #[test]
    fn too_many_sockets_in_one_message_are_refused_both_lists_counted() {
        let one = |list: usize| vec![socket(&[0; 4], 1); list];
        let ports = |add, remove| wire::Ports {
            added: one(add),
            removed: one(remove),
            ..wire::Ports::default()
        };
        assert!(PortsUpdate::try_from(ports(1000, 24)).is_ok());
        let error = PortsUpdate::try_from(ports(1000, 25)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "list ports of a control message has 1025 entries, more than 1024"
        );
    }

    #[test]
    fn a_transport_of_a_later_version_is_ignored() {
        let mut sctp = socket(&[0; 4], 1);
        sctp.transport = 3;
        assert_eq!(
            added(vec![sctp.clone(), socket(&[0; 4], 2), sctp])
                .unwrap()
                .len(),
            1
        );
    }

    #[test]
    fn a_mapped_address_is_the_address_it_maps() {
        let mapped = "::ffff:10.1.2.3".parse::<std::net::Ipv6Addr>().unwrap();
        let taken = added(vec![socket(&mapped.octets(), 22)]).unwrap();
        assert_eq!(taken[0].to_string(), "tcp 10.1.2.3:22");
    }

    #[test]
    fn updates_survive_the_wire_and_the_longest_fits_into_a_message() {
        let socket = |n: u16| {
            let address = format!("[fe80::{n}%4294967295]:{}", n + 40000);
            GuestSocket::new(Transport::Udp, address.parse().unwrap()).unwrap()
        };
        let update = PortsUpdate {
            all: true,
            more: true,
            added: (0..1000).map(socket).collect(),
            removed: (1000..1024).map(socket).collect(),
            left_out: u32::MAX,
        };
        let sent = wire::Ports::from(update.clone());
        assert!(prost::Message::encoded_len(&sent) < wire::MAX_MESSAGE - 16);
        assert_eq!(PortsUpdate::try_from(sent), Ok(update));
    }
}
