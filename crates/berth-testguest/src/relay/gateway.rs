//! The two addresses of the user network that lead out of the guest: the gateway is this host's loopback, the name server
//! is this host's.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::lookup::PortCatcher;
use crate::arguments::UserNetwork;
use crate::network::HostNamespace;
use crate::sys;

const DNS_PORT: u16 = 53;

/// A UDP flow that was silent for so long is forgotten.
const IDLE: Duration = Duration::from_secs(60);

/// The gateway's sockets, made and used on a thread that lives in the gateway's network namespace.
#[derive(Debug)]
pub(super) struct Gateway {
    tcp: OwnedFd,
    udp: OwnedFd,
    address: Ipv4Addr,
    dns: Ipv4Addr,
    _catcher: PortCatcher,
}

/// Two connected UDP sockets whose datagrams go to one another.
#[derive(Debug)]
pub(super) struct UdpFlow {
    guest: OwnedFd,
    host: OwnedFd,
    last_used: Instant,
}

impl Gateway {
    /// Listens on the addresses, which exist already.
    pub(super) fn open(network: &UserNetwork, namespace: BorrowedFd<'_>) -> io::Result<Self> {
        let any_port = SocketAddrV4::new(network.gateway, 0);
        let tcp = socket(SocketType::STREAM)?;
        rustix::net::bind(&tcp, &any_port)?;
        rustix::net::listen(&tcp, 1024)?;
        let udp = socket(SocketType::DGRAM)?;
        sys::report_destinations(udp.as_fd())?;
        rustix::net::bind(&udp, &any_port)?;
        let addresses = [network.gateway, network.dns];
        let catcher = PortCatcher::install(namespace, addresses, tcp.as_fd(), udp.as_fd())?;
        Ok(Self {
            tcp,
            udp,
            address: network.gateway,
            dns: network.dns,
            _catcher: catcher,
        })
    }

    /// The socket that accepts the guest's TCP connections.
    pub(super) fn tcp(&self) -> &OwnedFd {
        &self.tcp
    }

    /// The socket that receives the first datagram of each flow.
    pub(super) fn udp(&self) -> &OwnedFd {
        &self.udp
    }

    /// Where a packet for `to` goes on the host; nowhere, if the user network has nobody there.
    fn route(&self, to: SocketAddrV4) -> Option<SocketAddrV4> {
        if *to.ip() == self.address {
            return Some(SocketAddrV4::new(Ipv4Addr::LOCALHOST, to.port()));
        }
        (*to.ip() == self.dns && to.port() == DNS_PORT)
            .then(|| SocketAddrV4::new(name_server(), DNS_PORT))
    }

    /// Starts the connection on the host that an accepted one asks for.
    pub(super) fn dial(&self, accepted: &OwnedFd, host: &HostNamespace) -> io::Result<OwnedFd> {
        let to = SocketAddrV4::try_from(rustix::net::getsockname(accepted)?)?;
        let target = self.route(to).ok_or(io::ErrorKind::ConnectionRefused)?;
        let socket = host.enter(|| socket(SocketType::STREAM))?;
        super::connect(&socket, target)?;
        Ok(socket)
    }

    /// Takes the first datagram of a flow, if there is one, and starts the flow.
    pub(super) fn receive(
        &self,
        buffer: &mut [u8],
        host: &HostNamespace,
    ) -> io::Result<Option<UdpFlow>> {
        let (length, from, to) = match sys::receive_datagram(self.udp.as_fd(), buffer) {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        };
        let target = self.route(to).ok_or(io::ErrorKind::ConnectionRefused)?;
        let guest = socket(SocketType::DGRAM)?;
        sockopt::set_socket_reuseaddr(&guest, true)?;
        rustix::net::bind(&guest, &to)?;
        rustix::net::connect(&guest, &from)?;
        let outside = host.enter(|| socket(SocketType::DGRAM))?;
        rustix::net::connect(&outside, &target)?;
        rustix::io::write(&outside, &buffer[..length])?;
        Ok(Some(UdpFlow {
            guest,
            host: outside,
            last_used: Instant::now(),
        }))
    }
}

impl UdpFlow {
    /// The sockets, to be registered.
    pub(super) fn sockets(&self) -> [&OwnedFd; 2] {
        [&self.guest, &self.host]
    }

    /// Passes on what has arrived, a few datagrams at a time.
    pub(super) fn turn(&mut self, buffer: &mut [u8]) {
        const TURN: usize = 32;
        for (from, to) in [(&self.guest, &self.host), (&self.host, &self.guest)] {
            for _ in 0..TURN {
                // An error here is "nothing more", or a refusal that the sender learns from silence, as with QEMU.
                let Ok(length) = rustix::io::read(from, &mut *buffer) else {
                    break;
                };
                let _ = rustix::io::write(to, &buffer[..length]);
                self.last_used = Instant::now();
            }
        }
    }

    /// Whether it may be forgotten.
    pub(super) fn is_idle(&self, now: Instant) -> bool {
        now.duration_since(self.last_used) > IDLE
    }
}

fn socket(kind: SocketType) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(
        AddressFamily::INET,
        kind,
        flags,
        None,
    )?)
}

/// The first name server of this host, as QEMU takes it; loopback when there is none.
fn name_server() -> Ipv4Addr {
    std::fs::read_to_string("/etc/resolv.conf")
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.strip_prefix("nameserver"))
        .find_map(|address| address.trim().parse().ok())
        .unwrap_or(Ipv4Addr::LOCALHOST)
}
