//! Which sockets a place on the host needs, on which system. A value, so that tests can be any host.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use berth_config::platform::HostOs;

use crate::address::HostAddr;

/// Ports below need a privilege on most systems.
pub(crate) const PRIVILEGED: u16 = 1024;

/// A socket to bind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Planned {
    pub(crate) address: SocketAddr,
    /// An IPv6 socket that takes IPv4 too. On a host without IPv6 the IPv4 wildcard stands for it.
    pub(crate) is_dual: bool,
    /// Whether peers that are not on this host are turned away.
    pub(crate) only_loopback: bool,
    /// Whether it is left out on a host that has no such address: half of `localhost` on a host without IPv6.
    pub(crate) may_be_missing: bool,
}

impl Planned {
    fn at(ip: impl Into<IpAddr>, port: u16) -> Self {
        Self {
            address: SocketAddr::new(ip.into(), port),
            is_dual: false,
            only_loopback: false,
            may_be_missing: false,
        }
    }

    /// Like Lima's (Go's) listeners, `0.0.0.0` and `::` take both families.
    fn everywhere(port: u16) -> Self {
        Self {
            is_dual: true,
            ..Self::at(Ipv6Addr::UNSPECIFIED, port)
        }
    }
}

/// The sockets for a port; all of them or none. `None`: it is no port.
pub(crate) fn sockets(host: &HostAddr, os: HostOs) -> Option<Vec<Planned>> {
    // macOS lets everybody bind privileged ports, but only on the wildcard address.
    let pseudo_loopback = |port| os == HostOs::Darwin && port < PRIVILEGED;
    Some(match host {
        HostAddr::Socket(_) => return None,
        HostAddr::Port(address) if address.ip().is_unspecified() => {
            vec![Planned::everywhere(address.port())]
        }
        HostAddr::Port(address)
            if address.ip() == IpAddr::V4(Ipv4Addr::LOCALHOST)
                && pseudo_loopback(address.port()) =>
        {
            vec![Planned {
                only_loopback: true,
                ..Planned::everywhere(address.port())
            }]
        }
        HostAddr::Port(address) => vec![Planned {
            address: *address,
            ..Planned::at(address.ip(), address.port())
        }],
        HostAddr::Localhost(port) if pseudo_loopback(*port) => vec![Planned {
            only_loopback: true,
            ..Planned::everywhere(*port)
        }],
        HostAddr::Localhost(port) => vec![
            Planned::at(Ipv4Addr::LOCALHOST, *port),
            Planned {
                may_be_missing: true,
                ..Planned::at(Ipv6Addr::LOCALHOST, *port)
            },
        ],
    })
}

/// Whether a peer is on this host.
pub(crate) fn is_loopback(peer: &SocketAddr) -> bool {
    peer.ip().to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(host: &HostAddr, os: HostOs) -> String {
        let Some(sockets) = sockets(host, os) else {
            return "none".to_owned();
        };
        let short = sockets.iter().map(|socket| {
            let flag = |set, text| if set { text } else { "" };
            format!(
                "{}{}{}{}",
                socket.address,
                flag(socket.is_dual, " dual"),
                flag(socket.only_loopback, " loopback"),
                flag(socket.may_be_missing, " if any"),
            )
        });
        short.collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn each_system_binds_in_its_way() {
        let port = |text: &str| HostAddr::Port(text.parse().unwrap());
        let localhost = "127.0.0.1:8080, [::1]:8080 if any";
        for (host, linux, macos) in [
            (port("127.0.0.1:8080"), "127.0.0.1:8080", "127.0.0.1:8080"),
            (
                port("127.0.0.1:80"),
                "127.0.0.1:80",
                "[::]:80 dual loopback",
            ),
            (port("127.0.0.2:80"), "127.0.0.2:80", "127.0.0.2:80"),
            (port("[::1]:80"), "[::1]:80", "[::1]:80"),
            (port("0.0.0.0:80"), "[::]:80 dual", "[::]:80 dual"),
            (port("[::]:8080"), "[::]:8080 dual", "[::]:8080 dual"),
            (HostAddr::Localhost(8080), localhost, localhost),
            (
                HostAddr::Localhost(80),
                "127.0.0.1:80, [::1]:80 if any",
                "[::]:80 dual loopback",
            ),
            (HostAddr::Socket("/s".into()), "none", "none"),
        ] {
            assert_eq!(plan(&host, HostOs::Linux), linux, "{host}");
            assert_eq!(plan(&host, HostOs::Windows), linux, "{host}");
            assert_eq!(plan(&host, HostOs::Darwin), macos, "{host}");
        }
    }

    #[test]
    fn an_ipv4_peer_of_a_dual_socket_is_known_by_its_ipv4_address() {
        for (peer, is_local) in [
            ("127.0.0.1:1", true),
            ("127.9.9.9:1", true),
            ("[::1]:1", true),
            ("[::ffff:127.0.0.1]:1", true),
            ("[::ffff:192.168.5.2]:1", false),
            ("192.168.5.2:1", false),
            ("[fe80::1]:1", false),
        ] {
            assert_eq!(is_loopback(&peer.parse().unwrap()), is_local, "{peer}");
        }
    }
}
