//! Ports of the guest: what listens there, what the host wants to know of it, and sockets that the guest holds for the host.

use std::fmt;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::ops::RangeInclusive;

/// Most sockets of one guest that a host knows at the same time.
pub const MAX_PORTS: usize = 4096;
/// Most sockets in one message; more come in several.
pub const MAX_PORTS_PER_UPDATE: usize = 1024;
/// Most ranges of UDP ports that a host may name.
pub const MAX_UDP_RANGES: usize = 1024;
/// Longest path of a unix socket in a Linux guest, in bytes.
pub const MAX_SOCKET_PATH: usize = 107;

/// What carries bytes to a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// A listening socket.
    Tcp,
    /// A bound socket.
    Udp,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// A socket in the guest that takes connections or datagrams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GuestSocket {
    transport: Transport,
    address: SocketAddr,
}

impl GuestSocket {
    /// A socket at `address`; `None` if its port is 0, which is none.
    ///
    /// One socket has one form: IPv4-mapped addresses become IPv4, the flow label is dropped, and so is the scope of an address
    /// that is not link-local.
    #[must_use]
    pub fn new(transport: Transport, address: SocketAddr) -> Option<Self> {
        let port = address.port();
        let address = match (address.ip().to_canonical(), address) {
            (IpAddr::V6(ip), SocketAddr::V6(given)) if ip.is_unicast_link_local() => {
                SocketAddrV6::new(ip, port, 0, given.scope_id()).into()
            }
            (ip, _) => SocketAddr::new(ip, port),
        };
        (port != 0).then_some(Self { transport, address })
    }

    /// TCP or UDP.
    #[must_use]
    pub fn transport(&self) -> Transport {
        self.transport
    }

    /// Where it is bound; the port is not 0.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl fmt::Display for GuestSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.transport, self.address)
    }
}

/// How the guest's sockets have changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PortsUpdate {
    /// `added` is all there is: it replaces what was known.
    pub all: bool,
    /// The next update belongs to this one. The host's end puts them together: readers of its events always see `false`.
    pub more: bool,
    /// Sockets that are new.
    pub added: Vec<GuestSocket>,
    /// Sockets that are gone.
    pub removed: Vec<GuestSocket>,
    /// Sockets that exist beyond the [`MAX_PORTS`] that are told.
    pub left_out: u32,
}

/// What the host wants to know of the guest's ports.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PortInterest {
    /// UDP ports that count although the system gave them out for short use (`ip_local_port_range`), at most
    /// [`MAX_UDP_RANGES`].
    pub udp_ranges: Vec<RangeInclusive<u16>>,
    /// UDP sockets of the system itself count too (DHCP client, mDNS, LLMNR).
    pub system_udp: bool,
}

/// A unix socket on which the guest listens for the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReverseListener {
    /// Chosen by the host ([`crate::host::LinkHandle::take_reverse`]); the streams of its connections name it.
    pub id: u32,
    /// Absolute path in the guest, at most [`MAX_SOCKET_PATH`] bytes.
    pub path: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_socket_has_one_form() {
        for (given, kept) in [
            ("127.0.0.1:80", "127.0.0.1:80"),
            ("[::ffff:10.0.0.1]:80", "10.0.0.1:80"),
            ("[::]:80", "[::]:80"),
            ("[2001:db8::1%7]:80", "[2001:db8::1]:80"),
            ("[fe80::1%7]:80", "[fe80::1%7]:80"),
        ] {
            let socket = GuestSocket::new(Transport::Tcp, given.parse().unwrap()).unwrap();
            assert_eq!(socket.to_string(), format!("tcp {kept}"));
        }
        let with_flow = SocketAddrV6::new("fe80::1".parse().unwrap(), 1, 99, 2).into();
        let socket = GuestSocket::new(Transport::Udp, with_flow).unwrap();
        assert_eq!(socket.address(), "[fe80::1%2]:1".parse().unwrap());
    }

    #[test]
    fn port_0_is_no_port() {
        let address = "127.0.0.1:0".parse().unwrap();
        assert_eq!(GuestSocket::new(Transport::Udp, address), None);
    }
}
