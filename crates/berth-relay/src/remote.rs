//! The stream to the other end.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};

/// The stream to the other end.
///
/// Shutting it down is a half-close; dropping it before both directions are shut down resets it.
pub trait RemoteStream: AsyncRead + AsyncWrite + Unpin {
    /// The stream itself, if it lends its buffers.
    fn lending(&mut self) -> Option<&mut (dyn Lending + Send)>;
}

/// A stream that lends its own buffers, so that bytes are not copied between them and others: what came is read where it lies
/// ([`AsyncBufRead`]), and what is to leave is put where it leaves from.
pub trait Lending: AsyncBufRead + AsyncWrite + Unpin {
    /// Sends what `source` puts into a buffer of the stream: how many bytes, 0 at the end of `source`.
    ///
    /// `source` is asked only when the stream takes bytes, and while it has none, no buffer is held. An error may be either's.
    fn poll_send_from(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut Source<'_>,
    ) -> Poll<io::Result<usize>>;

    /// Waits until the stream has failed, also while nobody reads what it still holds.
    fn poll_failed(&mut self, cx: &mut Context<'_>) -> Poll<io::Error>;
}

/// Fills a part of a buffer and says how much of it: 0 at its end.
pub type Source<'a> = dyn FnMut(&mut Context<'_>, &mut [u8]) -> Poll<io::Result<usize>> + Send + 'a;

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
