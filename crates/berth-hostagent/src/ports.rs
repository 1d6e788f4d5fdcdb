//! Ports of the host that an instance keeps from start to start.

use std::hash::{Hash as _, Hasher as _};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::path::Path;

use berth_dns::Sockets;
use berth_driver::driver::SshPort;

use crate::error::AgentError;

/// Port of the instance `default` when it was created before Lima 2.0.0.
const LEGACY_DEFAULT_PORT: u16 = 60022;

/// Which SSH port to ask the driver for.
///
/// `configured` is `ssh.localPort`, `last` the port of the previous start, `legacy_default` whether the instance is `default` and
/// was created before 2.0.0.
pub(crate) fn ssh_port(
    configured: Option<u16>,
    last: Option<u16>,
    legacy_default: bool,
) -> SshPort {
    match (configured, legacy_default, last) {
        (Some(port), _, _) => SshPort::Configured(port),
        (None, true, _) => SshPort::Configured(LEGACY_DEFAULT_PORT),
        (None, false, Some(port)) => SshPort::Preferred(port),
        (None, false, None) => SshPort::Any,
    }
}

/// Ports for sshd in guests: below those that systems hand out for connections.
const GUEST_PORTS: std::ops::Range<u16> = 20_000..30_000;

/// Chooses the port at which sshd in the guest is to listen, where guests share a network with each other, and maybe with the host.
///
/// The one that is configured, or that of the last start, while it is free here, or one that follows from the instance's directory.
pub(crate) fn in_guest(port: SshPort, dir: &Path) -> SshPort {
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok();
    let last = match port {
        SshPort::Configured(_) => return port,
        SshPort::Preferred(port) => Some(port),
        SshPort::Any => None,
    };
    let mut hash = std::hash::DefaultHasher::new();
    dir.hash(&mut hash);
    let first = usize::try_from(hash.finish() % 10_000).unwrap_or_default();
    let ring = GUEST_PORTS.cycle().skip(first).take(GUEST_PORTS.len());
    let mut candidates = last.into_iter().chain(ring);
    SshPort::Configured(candidates.find(is_free).unwrap_or(GUEST_PORTS.start))
}

/// Refuses a configured port that is taken, before anything is built. The driver's own attempt decides; this one is only early.
pub(crate) fn check_configured(port: SshPort) -> Result<(), AgentError> {
    let SshPort::Configured(port) = port else {
        return Ok(());
    };
    let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
    TcpListener::bind(address)
        .map(drop)
        .map_err(|source| AgentError::Port {
            address: address.into(),
            key: "ssh.localPort",
            source,
        })
}

/// Binds the two sockets of the host resolver to 127.0.0.1, at the ports of the last start where they are free, else at any.
pub(crate) fn bind_names(last_udp: Option<u16>, last_tcp: Option<u16>) -> io::Result<Sockets> {
    let at = |port| SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
    let udp = last_udp
        .and_then(|port| UdpSocket::bind(at(port)).ok())
        .map_or_else(|| UdpSocket::bind(at(0)), Ok)?;
    let tcp = last_tcp
        .and_then(|port| TcpListener::bind(at(port)).ok())
        .map_or_else(|| TcpListener::bind(at(0)), Ok)?;
    Ok(Sockets { udp, tcp })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configured_port_wins_then_the_legacy_one_then_the_last() {
        assert_eq!(
            ssh_port(Some(2222), Some(4000), true),
            SshPort::Configured(2222)
        );
        assert_eq!(ssh_port(None, Some(4000), true), SshPort::Configured(60022));
        assert_eq!(ssh_port(None, Some(4000), false), SshPort::Preferred(4000));
        assert_eq!(ssh_port(None, None, false), SshPort::Any);
    }

    #[test]
    fn a_taken_configured_port_is_refused_by_name() {
        let holder = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = holder.local_addr().unwrap().port();
        let refused = check_configured(SshPort::Configured(port))
            .unwrap_err()
            .to_string();
        assert!(refused.contains(&format!("127.0.0.1:{port}")), "{refused}");
        assert!(refused.contains("ssh.localPort"), "{refused}");
    }

    #[test]
    fn guests_that_share_a_network_get_ports_of_their_own() {
        let at = |port, dir: &str| match in_guest(port, Path::new(dir)) {
            SshPort::Configured(port) => port,
            other => panic!("{other:?}"),
        };
        assert_eq!(at(SshPort::Configured(4022), "/h/a"), 4022);
        let one = at(SshPort::Any, "/h/a");
        assert!(GUEST_PORTS.contains(&one));
        assert_ne!(at(SshPort::Any, "/h/b"), one);
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, one));
        if taken.is_ok() {
            let other = at(SshPort::Preferred(one), "/h/a");
            assert_ne!(other, one, "one that runs has it");
            assert!(GUEST_PORTS.contains(&other));
        }
        drop(taken);
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let last = free.local_addr().unwrap().port();
        drop(free);
        assert_eq!(at(SshPort::Preferred(last), "/h/a"), last);
    }

    #[test]
    fn the_resolver_keeps_its_ports_while_they_are_free() {
        let first = bind_names(None, None).unwrap();
        let (udp, tcp) = first.ports();
        drop(first);
        let second = bind_names(Some(udp), Some(tcp)).unwrap();
        assert_eq!(second.ports(), (udp, tcp));
        let third = bind_names(Some(udp), Some(tcp)).unwrap();
        assert_ne!(
            third.ports().0,
            udp,
            "a taken port is not an error, only another port"
        );
    }
}
