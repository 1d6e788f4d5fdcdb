//! One question to a server.
#![allow(
    unsafe_code,
    reason = "tokio's safe registration of descriptors is deprecated"
)]

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, connect, recv, send, socket_with,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::wire::SAFE_UDP;

/// A socket that a question was sent from, at a port that the kernel chose at random.
#[derive(Debug)]
pub(crate) struct Asking(AsyncFd<OwnedFd>);

impl Asking {
    /// Sends a question to a server. A socket without a port takes one when it is connected, and a new one has room for a
    /// datagram: so nothing has to be waited for, and the runtime need not hear of it before it is on its way.
    #[allow(clippy::unused_async, reason = "elsewhere it waits")]
    pub(crate) async fn send(server: SocketAddr, question: &[u8]) -> io::Result<Self> {
        let family = match server {
            SocketAddr::V4(_) => AddressFamily::INET,
            SocketAddr::V6(_) => AddressFamily::INET6,
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(family, SocketType::DGRAM, flags, None)?;
        connect(&socket, &server)?;
        send(&socket, question, SendFlags::empty())?;
        // SAFETY: the descriptor is owned, so it is open, and it stays the same until the `AsyncFd` is dropped.
        let socket = unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?;
        Ok(Self(socket))
    }

    /// Waits for a datagram of the server: its bytes, one more than [`SAFE_UDP`] at most.
    pub(crate) async fn receive(&self) -> io::Result<Vec<u8>> {
        loop {
            let mut ready = self.0.readable().await?;
            let received = ready.try_io(|socket| {
                // Here, and not in the future, which would be as large while it waits.
                let mut buffer = [0; SAFE_UDP + 1];
                let (length, _) = recv(socket, &mut buffer[..], RecvFlags::empty())?;
                Ok(buffer[..length].to_vec())
            });
            if let Ok(received) = received {
                return received;
            }
        }
    }
}
