//! Type-checked in CI, run by hand.
#![allow(unsafe_code, reason = "SO_EXCLUSIVEADDRUSE has no safe form")]

use std::io;
use std::os::windows::io::AsRawSocket as _;
use std::path::Path;

use socket2::Socket;
use windows_sys::Win32::Networking::WinSock::{
    SO_EXCLUSIVEADDRUSE, SOCKET, SOCKET_ERROR, SOL_SOCKET, WSAEAFNOSUPPORT, setsockopt,
};

use crate::address::Transport;

/// The host has no addresses of the family.
pub(crate) const NO_SUCH_FAMILY: i32 = WSAEAFNOSUPPORT;

/// Without exclusive use any program may bind the same address and take its connections.
pub(crate) fn configure(socket: &Socket, _transport: Transport) -> io::Result<()> {
    let on = 1_i32.to_ne_bytes();
    let handle = SOCKET::try_from(socket.as_raw_socket()).map_err(io::Error::other)?;
    // SAFETY: the handle is that of an open socket; the value's address and length belong together.
    let result = unsafe {
        setsockopt(
            handle,
            SOL_SOCKET,
            SO_EXCLUSIVEADDRUSE,
            on.as_ptr(),
            size_of_val(&on) as i32,
        )
    };
    if result == SOCKET_ERROR {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// What a person can do about a port that may not be bound.
pub(crate) fn denied_hint(_port: u16) -> String {
    "the system reserves the port: `netsh interface ipv4 show excludedportrange protocol=tcp` lists what it reserves".to_owned()
}

/// The runtime has no unix sockets here.
fn unsupported<T>() -> io::Result<T> {
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        "unix sockets are not built for Windows hosts",
    ))
}

/// Stands for a connection that cannot be.
pub(crate) type UnixStream = tokio::net::TcpStream;

/// Stands for a listener that cannot be.
#[derive(Debug)]
pub(crate) enum UnixListening {}

impl UnixListening {
    pub(crate) fn bind(_path: &Path, _own: &Path) -> io::Result<Self> {
        unsupported()
    }

    #[allow(clippy::unused_async, reason = "the same signature on every system")]
    pub(crate) async fn accept(&self) -> io::Result<UnixStream> {
        match *self {}
    }

    pub(crate) fn is_in_place(&self) -> bool {
        match *self {}
    }
}

#[allow(clippy::unused_async, reason = "the same signature on every system")]
pub(crate) async fn connect_unix(_path: &Path) -> io::Result<UnixStream> {
    unsupported()
}
