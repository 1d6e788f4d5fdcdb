//! A socket that clients send to, and from which they are answered.

use std::io;
use std::net::SocketAddr;

use tokio::io::Interest;
use tokio::net::UdpSocket;

use crate::sys::{self, Destination};

/// A socket that clients send to. One that listens on all addresses answers from the address that the client wrote to, where the
/// system can.
#[derive(Debug)]
pub(super) struct Listening {
    socket: UdpSocket,
    tells_destination: bool,
}

/// Where a datagram came from, and where it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Arrival {
    pub(super) length: usize,
    pub(super) from: SocketAddr,
    pub(super) to: Option<Destination>,
}

impl Listening {
    pub(super) async fn new(socket: UdpSocket) -> io::Result<Self> {
        let listens_on_all = socket.local_addr()?.ip().is_unspecified();
        let tells_destination = listens_on_all && sys::tell_destination(&socket)?;
        // Before that, every attempt to send fails.
        socket.writable().await?;
        Ok(Self {
            socket,
            tells_destination,
        })
    }

    pub(super) async fn readable(&self) -> io::Result<()> {
        self.socket.readable().await
    }

    /// Takes the next datagram; the error is `WouldBlock` when there is none.
    pub(super) fn receive(&self, room: &mut [u8]) -> io::Result<Arrival> {
        if self.tells_destination {
            return self
                .socket
                .try_io(Interest::READABLE, || sys::receive(&self.socket, room))
                .map(|(length, from, to)| Arrival { length, from, to });
        }
        let (length, from) = self.socket.try_recv_from(room)?;
        Ok(Arrival {
            length,
            from,
            to: None,
        })
    }

    pub(super) fn send(
        &self,
        datagram: &[u8],
        to: SocketAddr,
        from: Option<Destination>,
    ) -> io::Result<()> {
        let Some(from) = from else {
            return self.socket.try_send_to(datagram, to).map(drop);
        };
        self.socket.try_io(Interest::WRITABLE, || {
            sys::send(&self.socket, datagram, to, from)
        })
    }
}
