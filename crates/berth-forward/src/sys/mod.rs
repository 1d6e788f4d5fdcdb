//! What differs by operating system, behind one set of names:
//!
//! - `configure(socket, kind)`: the options that a listening socket wants before it is bound;
//! - `UnixListening`, `connect_unix(path)`: unix sockets of the host; the file is removed by whoever made it, and by nobody else;
//! - `denied_hint(port)`: what a person can do about a privileged port;
//! - `owners_of_ports(ports)`: who has them;
//! - `FreedPorts`: says when a port that somebody had may be free.

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::address::Transport;
use crate::listen::plan::Planned;

#[cfg(unix)]
mod unix;
#[cfg(unix)]
pub(crate) use unix::{NO_SUCH_FAMILY, UnixListening, UnixStream, configure, connect_unix};

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
pub(crate) use linux::{FreedPorts, denied_hint, owners_of_ports};

#[cfg(target_os = "macos")]
mod macos;
#[cfg(target_os = "macos")]
pub(crate) use macos::denied_hint;

#[cfg(windows)]
mod windows;
#[cfg(windows)]
pub(crate) use windows::{
    NO_SUCH_FAMILY, UnixListening, UnixStream, configure, connect_unix, denied_hint,
};

#[cfg(not(target_os = "linux"))]
mod untold;
#[cfg(not(target_os = "linux"))]
pub(crate) use untold::{FreedPorts, owners_of_ports};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// Binds a socket, not blocking; a TCP socket listens then. `None`: the host has no such address, and the plan allows for that.
pub(crate) fn bind(planned: &Planned, transport: Transport) -> io::Result<Option<Socket>> {
    match bind_at(planned, planned.address, transport) {
        Err(why) if planned.is_dual && has_no_ipv6(&why) => {
            let any = std::net::Ipv4Addr::UNSPECIFIED;
            let address = SocketAddr::new(any.into(), planned.address.port());
            bind_at(planned, address, transport).map(Some)
        }
        Err(why)
            if planned.may_be_missing
                && (has_no_ipv6(&why) || why.kind() == io::ErrorKind::AddrNotAvailable) =>
        {
            Ok(None)
        }
        other => other.map(Some),
    }
}

fn bind_at(planned: &Planned, address: SocketAddr, transport: Transport) -> io::Result<Socket> {
    let (kind, protocol) = match transport {
        Transport::Tcp => (Type::STREAM, Protocol::TCP),
        Transport::Udp => (Type::DGRAM, Protocol::UDP),
    };
    let socket = Socket::new(Domain::for_address(address), kind, Some(protocol))?;
    if address.is_ipv6() {
        socket.set_only_v6(!planned.is_dual)?;
    }
    configure(&socket, transport)?;
    socket.set_nonblocking(true)?;
    socket.bind(&SockAddr::from(address))?;
    if transport == Transport::Tcp {
        #[cfg(target_os = "linux")]
        if address.ip().is_loopback() {
            // About speed only.
            let _ = berth_relay::send_unpaced(&socket);
        }
        socket.listen(BACKLOG)?;
    }
    Ok(socket)
}

fn has_no_ipv6(why: &io::Error) -> bool {
    why.raw_os_error() == Some(NO_SUCH_FAMILY)
}
