//! The names of things that are forwarded: sockets of the guest, places on the host.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use berth_config::model::HostIp;

/// Transport protocol of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "the protocols' own names")]
pub enum Transport {
    Tcp,
    Udp,
}

/// A socket that listens in the guest (TCP) or is bound without a peer (UDP).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GuestPort {
    /// Transport protocol.
    pub transport: Transport,
    /// Its address, as the guest reports it.
    pub address: SocketAddr,
}

/// What is known of the guest's sockets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GuestPorts {
    /// Whether anything is: false until the first report of this boot of the guest. What was forwarded stays until then.
    pub known: bool,
    /// All of them.
    pub ports: Arc<BTreeSet<GuestPort>>,
}

/// What a forwarded connection is connected to in the guest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum GuestTarget {
    /// A TCP port.
    Tcp(SocketAddr),
    /// A UDP port.
    Udp(SocketAddr),
    /// A unix socket.
    Unix {
        /// Absolute path.
        path: String,
        /// Whether it is connected to with the rights of the guest's root, not with those of the instance's user.
        as_root: bool,
    },
}

/// Where a forward listens on the host.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostAddr {
    /// A TCP or UDP port of one address, or of all addresses: `0.0.0.0` and `::` both mean both families.
    Port(SocketAddr),
    /// A TCP or UDP port of `127.0.0.1` and `::1` together.
    Localhost(u16),
    /// A unix socket.
    Socket(PathBuf),
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

impl fmt::Display for GuestTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) | Self::Udp(address) => address.fmt(f),
            Self::Unix { path, .. } => path.fmt(f),
        }
    }
}

impl fmt::Display for HostAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Port(address) => address.fmt(f),
            Self::Localhost(port) => write!(f, "localhost:{port}"),
            Self::Socket(path) => path.display().fmt(f),
        }
    }
}

impl GuestTarget {
    /// The target that a reported port is.
    #[must_use]
    pub fn port(transport: Transport, address: SocketAddr) -> Self {
        match transport {
            Transport::Tcp => Self::Tcp(address),
            Transport::Udp => Self::Udp(address),
        }
    }

    /// The word for it in events: `tcp`, `udp` or `unix`.
    #[must_use]
    pub fn protocol(&self) -> &'static str {
        match self {
            Self::Tcp(_) => "tcp",
            Self::Udp(_) => "udp",
            Self::Unix { .. } => "unix",
        }
    }
}

impl HostAddr {
    pub(crate) fn new(ip: HostIp, port: u16) -> Self {
        match ip {
            HostIp::Address(ip) => Self::Port(SocketAddr::new(ip, port)),
            HostIp::Localhost => Self::Localhost(port),
        }
    }

    /// The same place under its one name: both wildcards are the same listener, and an IPv4 address may be written as IPv6.
    pub(crate) fn canonical(&self) -> Self {
        match self {
            Self::Port(address) if address.ip().to_canonical().is_unspecified() => {
                Self::Port(SocketAddr::new(UNSPECIFIED, address.port()))
            }
            Self::Port(address) => {
                let mut address = *address;
                address.set_ip(address.ip().to_canonical());
                Self::Port(address)
            }
            other => other.clone(),
        }
    }
}

const UNSPECIFIED: IpAddr = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);
