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
