//! The stream to the other end.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::local::LocalSocket;
use crate::local::poll_socket::PollSocket;

/// The stream to the other end.
///
/// Shutting it down is a half-close; dropping it before both directions are shut down resets it.
pub trait RemoteStream: AsyncRead + AsyncWrite + Unpin {
    /// The stream itself, if it lends its buffers.
    fn lending(&mut self) -> Option<&mut (dyn Lending + Send)>;
}

/// A stream that lends its own buffers, so that bytes are not copied between them and others: what came is given from where it
/// lies, and what is to leave is put where it leaves from. Or both pass through a [`Pipe`](crate::Pipe), if there are sockets at
/// both ends.
pub trait Lending: AsyncWrite + Unpin {
    /// Sends what `source` has: how many bytes, 0 at its end.
    ///
    /// `source` is asked only when the stream takes bytes, and while it has none, no buffer is held.
    fn poll_send_from(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut dyn Source,
    ) -> Poll<Result<usize, LendingError>>;

    /// Gives what came to `target`: how many bytes, 0 at the end of the stream. Ends, too, when the stream has failed while
    /// `target` takes nothing.
    fn poll_give_to(
        &mut self,
        cx: &mut Context<'_>,
        target: &mut dyn Target,
    ) -> Poll<Result<usize, LendingError>>;

    /// Waits until the stream has failed, also while nobody reads what it still holds.
    fn poll_failed(&mut self, cx: &mut Context<'_>) -> Poll<io::Error>;
}

/// Where bytes to send come from.
pub trait Source {
    /// Fills a part of `room` and says how much of it: 0 at its end.
    fn poll_read(&mut self, cx: &mut Context<'_>, room: &mut [u8]) -> Poll<io::Result<usize>>;

    /// The socket behind it, if the same bytes can be taken from there into a [`Pipe`](crate::Pipe).
    fn socket(&self) -> Option<&dyn PollSocket> {
        None
    }
}

impl<L: LocalSocket> Source for &L {
    fn poll_read(&mut self, cx: &mut Context<'_>, room: &mut [u8]) -> Poll<io::Result<usize>> {
        LocalSocket::poll_read(*self, cx, room)
    }

    fn socket(&self) -> Option<&dyn PollSocket> {
        Some(*self)
    }
}

/// Where bytes that came go.
pub trait Target {
    /// Takes a part of `bytes` and says how much of it: 0 if it never takes any more.
    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>>;

    /// The socket behind it, if the same bytes can be given to it out of a [`Pipe`](crate::Pipe).
    fn socket(&self) -> Option<&dyn PollSocket> {
        None
    }
}

impl<L: LocalSocket> Target for &L {
    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        LocalSocket::poll_write(*self, cx, bytes)
    }

    fn socket(&self) -> Option<&dyn PollSocket> {
        Some(*self)
    }
}

/// Why nothing went from here to there.
#[derive(Debug, thiserror::Error)]
pub enum LendingError {
    /// The source or the target failed.
    #[error("the local side failed")]
    Local(#[source] io::Error),
    /// The stream did.
    #[error("the stream failed")]
    Stream(#[source] io::Error),
}

impl<T: RemoteStream + ?Sized> RemoteStream for Box<T> {
    fn lending(&mut self) -> Option<&mut (dyn Lending + Send)> {
        (**self).lending()
    }
}

/// A stream that lends nothing: its bytes are copied.
#[derive(Debug)]
pub struct Copied<S>(
    /// The stream.
    pub S,
);

impl<S: AsyncRead + AsyncWrite + Unpin> RemoteStream for Copied<S> {
    fn lending(&mut self) -> Option<&mut (dyn Lending + Send)> {
        None
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Copied<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        room: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, room)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Copied<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
