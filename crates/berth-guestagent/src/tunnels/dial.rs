//! Connecting to where the host wants to go.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use tokio::net::{TcpSocket, TcpStream, UdpSocket, UnixStream};
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::House;
use super::error::TunnelError;
use super::rights::Rights;

/// How long a connect may take.
const LIMIT: Duration = Duration::from_secs(10);

/// The first pause before a socket whose queue is full is tried again, and the longest. The kernel tells nobody when a place is free,
/// except to a thread that waits for it.
const PAUSES: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(200));

/// Connects to `ip:port`. Names are the host's affair.
pub(super) async fn tcp(text: &str) -> Result<TcpStream, TunnelError> {
    let address = parse(text)?;
    let connecting = async {
        match connected_tcp(reachable(address)).await {
            Err(why) if has_no_ipv6(address, &why) => connected_tcp(instead(address)).await,
            connected => connected,
        }
    };
    let connected = timeout(LIMIT, connecting).await;
    let connected = connected.map_err(|_| timed_out(text))?;
    connected.map_err(|why| TunnelError::io("connect to", text)(why))
}

async fn connected_tcp(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = match address {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    if address.ip().is_loopback() {
        // About speed only.
        let _ = berth_relay::send_unpaced(&socket);
    }
    socket.connect(address).await
}

/// Connects a socket for datagrams to `ip:port`, and tells the address.
pub(super) async fn udp(text: &str) -> Result<(UdpSocket, SocketAddr), TunnelError> {
    let address = parse(text)?;
    let socket = match connected_udp(reachable(address)).await {
        Err(why) if has_no_ipv6(address, &why) => connected_udp(instead(address)).await,
        connected => connected,
    };
    let socket = socket.map_err(|why| TunnelError::io("send to", text)(why))?;
    Ok((socket, address))
}

async fn connected_udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = if address.is_ipv4() {
        Ipv4Addr::UNSPECIFIED.into()
    } else {
        Ipv6Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(address).await?;
    Ok(socket)
}

fn parse(address: &str) -> Result<SocketAddr, TunnelError> {
    let parsed = address.parse().ok();
    parsed
        .filter(|address: &SocketAddr| address.port() != 0)
        .ok_or_else(|| TunnelError::Address(address.to_owned()))
}

/// Where somebody who listens on all addresses is reached.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

/// Whether an address of all families failed because there is no IPv6 here.
fn has_no_ipv6(address: SocketAddr, why: &io::Error) -> bool {
    let is_absent = matches!(
        Errno::from_io_error(why),
        Some(Errno::ADDRNOTAVAIL | Errno::AFNOSUPPORT | Errno::NETUNREACH)
    );
    is_absent && address.ip() == Ipv6Addr::UNSPECIFIED
}

fn instead(address: SocketAddr) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, address.port()).into()
}

/// Connects to a unix socket with somebody's rights.
pub(super) async fn unix(
    house: &House,
    rights: Rights,
    path: &str,
) -> Result<UnixStream, TunnelError> {
    check_path(path)?;
    let deadline = Instant::now() + LIMIT;
    let (mut pause, longest) = PAUSES;
    let failed = |source| TunnelError::io("connect to", path)(source);
    loop {
        let target = path.to_owned();
        let connecting = house
            .workers
            .run(house.user.clone(), rights, move || connected_unix(&target));
        let connected = timeout_at(deadline, connecting)
            .await
            .map_err(|_| timed_out(path))??;
        match connected {
            Ok(socket) => {
                let socket = std::os::unix::net::UnixStream::from(socket);
                return UnixStream::from_std(socket).map_err(failed);
            }
            Err(why) if why.kind() != io::ErrorKind::WouldBlock => return Err(failed(why)),
            Err(_) if Instant::now() >= deadline => return Err(timed_out(path)),
            Err(_) => sleep_until(deadline.min(Instant::now() + pause)).await,
        }
        pause = longest.min(pause * 2);
    }
}

/// Connects at once, or fails with `WouldBlock` because the listener's queue is full.
pub(super) fn connected_unix(path: &str) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket)
}

/// The host's paths are as long as the kernel takes them, and begin at the root.
pub(super) fn check_path(path: &str) -> Result<(), TunnelError> {
    let fits = path.starts_with('/') && path.len() < 108 && !path.contains('\0');
    if fits {
        Ok(())
    } else {
        Err(TunnelError::Path(path.to_owned()))
    }
}

fn timed_out(what: &str) -> TunnelError {
    TunnelError::TimedOut {
        verb: "connect to",
        what: what.to_owned(),
        limit: LIMIT,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ip_addresses_with_ports_are_dialled() {
        for text in [
            "localhost:80",
            "127.0.0.1",
            "127.0.0.1:0",
            "",
            ":80",
            "[::1]",
            "/run/x",
        ] {
            let error = parse(text).unwrap_err();
            assert!(matches!(error, TunnelError::Address(_)), "{text}: {error}");
        }
        assert!(parse("[fe80::1%2]:80").is_ok());
    }

    #[test]
    fn those_who_listen_on_all_addresses_are_reached_by_loopback() {
        for (told, dialled) in [
            ("0.0.0.0:80", "127.0.0.1:80"),
            ("[::]:80", "[::1]:80"),
            ("10.0.0.1:80", "10.0.0.1:80"),
            ("[2001:db8::1]:80", "[2001:db8::1]:80"),
        ] {
            assert_eq!(reachable(parse(told).unwrap()), dialled.parse().unwrap());
        }
    }

    #[test]
    fn without_ipv6_only_all_addresses_fall_back() {
        let absent = io::Error::from(Errno::ADDRNOTAVAIL);
        let refused = io::Error::from(Errno::CONNREFUSED);
        let of = |text: &str| parse(text).unwrap();
        assert!(has_no_ipv6(of("[::]:80"), &absent));
        assert_eq!(instead(of("[::]:80")), of("127.0.0.1:80"));
        assert!(!has_no_ipv6(of("[::]:80"), &refused));
        assert!(!has_no_ipv6(of("[::1]:80"), &absent));
        assert!(!has_no_ipv6(of("0.0.0.0:80"), &absent));
    }

    #[test]
    fn only_absolute_paths_that_fit_are_dialled() {
        for path in [
            "",
            "run/x",
            "@abstract",
            "\0abstract",
            "/a\0b",
            &"/".repeat(108),
        ] {
            assert!(check_path(path).is_err(), "{path:?}");
        }
        assert!(check_path(&"/".repeat(107)).is_ok());
    }
}
