//! What carries everything between the two agents.

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};

use crate::local::poll_socket::PollSocket;

/// A byte stream between host agent and guest agent.
pub trait Carrier: AsyncRead + AsyncWrite + Send + Unpin {
    /// The socket that it is, if it is nothing more than that: a pipe can be emptied into it.
    fn socket(&self) -> Option<&dyn PollSocket> {
        None
    }
}

/// Room in a carrier's socket, in bytes. Linux lets anybody ask for this much, and makes twice as much of it.
const ROOM: usize = 208 * 1024;

/// Has a unix socket take a whole frame, and some of the next, before its peer has read any: who writes sleeps longer, and less
/// often. Other carriers know better how much is on its way, and stay as they are.
pub fn make_room(carrier: &(impl Carrier + ?Sized)) {
    let Some(socket) = carrier.socket().map(PollSocket::raw) else {
        return;
    };
    let is_unix = socket.local_addr().is_ok_and(|address| address.is_unix());
    let is_small = socket
        .send_buffer_size()
        .is_ok_and(|length| length < 2 * ROOM);
    if is_unix && is_small {
        // It works with less, too.
        let _ = socket.set_send_buffer_size(ROOM);
    }
}

#[cfg(unix)]
impl Carrier for tokio::net::UnixStream {
    fn socket(&self) -> Option<&dyn PollSocket> {
        Some(self)
    }
}

#[cfg(windows)]
impl Carrier for tokio::net::windows::named_pipe::NamedPipeClient {}

impl Carrier for tokio::net::TcpStream {
    fn socket(&self) -> Option<&dyn PollSocket> {
        Some(self)
    }
}

/// Within a process; for tests.
impl Carrier for DuplexStream {}

impl<C: Carrier + ?Sized> Carrier for Box<C> {
    fn socket(&self) -> Option<&dyn PollSocket> {
        (**self).socket()
    }
}

impl<C: Carrier + ?Sized> Carrier for &mut C {
    fn socket(&self) -> Option<&dyn PollSocket> {
        (**self).socket()
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;

    fn room(carrier: &impl Carrier) -> usize {
        carrier.socket().unwrap().raw().send_buffer_size().unwrap()
    }

    #[tokio::test]
    async fn a_unix_socket_gets_room_and_never_less_than_it_had() {
        let (near, _far) = tokio::net::UnixStream::pair().unwrap();
        let before = room(&near);
        make_room(&near);
        let after = room(&near);
        assert!(after >= ROOM.max(before), "{before} {after}");
        make_room(&near);
        assert_eq!(room(&near), after);
    }

    #[tokio::test]
    async fn what_is_no_unix_socket_stays_as_it_is() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let near = tokio::net::TcpStream::connect(address).await.unwrap();
        // The system itself changes it while data flows; none does.
        let before = room(&near);
        make_room(&near);
        assert_eq!(room(&near), before);
        make_room(&tokio::io::duplex(1).0);
    }
}
