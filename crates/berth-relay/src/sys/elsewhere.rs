//! Systems where answers leave from the address that the system chooses, and bytes between two sockets are copied.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;

use tokio::net::UdpSocket;

use super::Destination;
use crate::join::{RelayError, Socket, copy};
use crate::local::LocalSocket;
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
