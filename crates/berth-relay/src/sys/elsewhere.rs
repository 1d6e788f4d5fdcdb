//! Systems where answers leave from the address that the system chooses, and bytes between two sockets are copied.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::net::UdpSocket;

use super::Destination;
use crate::join::{RelayError, Socket, copy};
use crate::local::LocalSocket;
use crate::local::poll_socket::PollSocket;
use crate::tally::Tally;

/// Copies bytes between two sockets until both have said that no more follows, or one has failed.
pub(crate) async fn move_between<L: LocalSocket, R: LocalSocket>(
    local: &L,
    remote: &R,
    failed: Pin<&mut impl Future<Output = RelayError>>,
    tally: &Tally,
) -> Result<(), RelayError> {
    let near = Socket::new(local, RelayError::Local);
    let far = Socket::new(remote, RelayError::Remote);
    copy(near, far, failed, tally).await
}

/// A pipe through which bytes move without a copy; never exists here.
#[derive(Debug)]
pub enum Pipe {}

impl Pipe {
    /// There is none.
    pub fn take() -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Keeps it for the next.
    pub fn give_back(self) {
        match self {}
    }

    /// Bytes in it.
    #[must_use]
    pub fn held(&self) -> usize {
        match *self {}
    }

    /// Takes bytes from a socket.
    pub fn poll_fill(
        &mut self,
        _cx: &mut Context<'_>,
        _source: &dyn PollSocket,
        _most: usize,
    ) -> Poll<io::Result<usize>> {
        match *self {}
    }

    /// Gives bytes to a socket.
    pub fn poll_empty(
        &mut self,
        _cx: &mut Context<'_>,
        _target: &dyn PollSocket,
    ) -> Poll<io::Result<usize>> {
        match *self {}
    }

    /// Puts a few bytes in.
    pub fn put(&mut self, _bytes: &[u8]) -> bool {
        match *self {}
    }

    /// Takes bytes from another pipe.
    pub fn take_from(&mut self, _other: &mut Self) {
        match *self {}
    }

    /// Copies its next bytes out.
    pub fn read_exact(&mut self, _room: &mut [u8]) -> io::Result<()> {
        match *self {}
    }
}

/// Does nothing: copying keeps nothing of its own.
pub(crate) fn close_spare() {}

/// Does nothing: these systems' allocators need no telling.
pub(crate) fn give_memory_back() {}

/// Asks the system to tell where datagrams were sent to; it cannot.
pub(crate) fn tell_destination(_socket: &UdpSocket) -> io::Result<bool> {
    Ok(false)
}

pub(crate) fn receive(
    _socket: &UdpSocket,
    _room: &mut [u8],
) -> io::Result<(usize, SocketAddr, Option<Destination>)> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(crate) fn send(
    _socket: &UdpSocket,
    _datagram: &[u8],
    _to: SocketAddr,
    _from: Destination,
) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
