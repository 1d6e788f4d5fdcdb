//! One direction of a connection, by copying.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::RelayError;
use crate::buffers::Buffer;
use crate::local::LocalSocket;
use crate::tally::Counter;

/// One direction of a connection.
#[derive(Debug, Default)]
pub(crate) struct Way {
    /// Bytes that the target has not taken yet.
    held: Option<Buffer>,
    unflushed: bool,
    /// The source has said that no more follows.
    at_end: bool,
    /// The target knows.
    over: bool,
}

impl Way {
    /// Moves what can be moved; ready when this direction is over.
    pub(crate) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut impl End,
        target: &mut impl End,
        turn: &mut usize,
        count: &Counter,
    ) -> Poll<Result<(), RelayError>> {
        if self.over {
            return Poll::Ready(Ok(()));
        }
        loop {
            let stuck = self.poll_write_held(cx, target, count)?.is_pending();
            if self.at_end {
                if stuck {
                    return Poll::Pending;
                }
                ready!(target.poll_shut_down(cx))?;
                self.over = true;
                return Poll::Ready(Ok(()));
            }
            if *turn == 0 {
                return Poll::Pending;
            }
            ready!(self.poll_read_more(cx, source, target, turn))?;
        }
    }

    fn poll_write_held(
        &mut self,
        cx: &mut Context<'_>,
        target: &mut impl End,
        count: &Counter,
    ) -> Poll<Result<(), RelayError>> {
        while let Some(held) = &mut self.held {
            let written = ready!(target.poll_write(cx, held.unread()))?;
            count.add(written);
            self.unflushed = true;
            held.advance(written);
            if held.unread().is_empty() {
                self.held = None;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads into the buffer that is held, or into one that is kept only if something came. Reading goes on while the target takes
    /// nothing, as long as there is room: that shows the source's end or failure.
    fn poll_read_more(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut impl End,
        target: &mut impl End,
        turn: &mut usize,
    ) -> Poll<Result<(), RelayError>> {
        let mut buffer = self.held.take().unwrap_or_else(Buffer::take);
        let read = if buffer.room().is_empty() {
            Poll::Pending
        } else {
            source.poll_read(cx, buffer.room())
        };
        if let Poll::Ready(Ok(count)) = read {
            buffer.put(count);
            *turn = turn.saturating_sub(count);
            self.at_end = count == 0;
        }
        if !buffer.unread().is_empty() {
            self.held = Some(buffer);
        }
        if read.is_pending() && self.unflushed {
            self.unflushed = target.poll_flush(cx)?.is_pending();
        }
        read.map_ok(drop)
    }
}

/// Either side of a connection, with its own errors.
pub(crate) trait End {
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        room: &mut [u8],
    ) -> Poll<Result<usize, RelayError>>;

    /// Writes at least one byte.
    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8])
    -> Poll<Result<usize, RelayError>>;

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RelayError>>;

    fn poll_shut_down(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RelayError>>;
}

/// A socket of this machine, on either side.
#[derive(Debug)]
pub(crate) struct Socket<'a, L> {
    pub(crate) socket: &'a L,
    pub(crate) failed: fn(io::Error) -> RelayError,
}

impl<'a, L> Socket<'a, L> {
    /// `failed` says which side it is.
    pub(crate) fn new(socket: &'a L, failed: fn(io::Error) -> RelayError) -> Self {
        Self { socket, failed }
    }
}

impl<L: LocalSocket> End for Socket<'_, L> {
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        room: &mut [u8],
    ) -> Poll<Result<usize, RelayError>> {
        self.socket.poll_read(cx, room).map_err(self.failed)
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize, RelayError>> {
        let written = ready!(self.socket.poll_write(cx, bytes)).and_then(some_of_it);
        Poll::Ready(written.map_err(self.failed))
    }

    fn poll_flush(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), RelayError>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shut_down(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), RelayError>> {
        Poll::Ready(self.socket.shut_down().map_err(self.failed))
    }
}

/// A stream to the other end.
#[derive(Debug)]
pub(super) struct Stream<'a, R>(pub(super) &'a mut R);

impl<R: AsyncRead + AsyncWrite + Unpin> End for Stream<'_, R> {
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        room: &mut [u8],
    ) -> Poll<Result<usize, RelayError>> {
        let mut room = ReadBuf::new(room);
        ready!(Pin::new(&mut *self.0).poll_read(cx, &mut room)).map_err(RelayError::Remote)?;
        Poll::Ready(Ok(room.filled().len()))
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<Result<usize, RelayError>> {
        let written = ready!(Pin::new(&mut *self.0).poll_write(cx, bytes)).and_then(some_of_it);
        Poll::Ready(written.map_err(RelayError::Remote))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RelayError>> {
        let flushed = Pin::new(&mut *self.0).poll_flush(cx);
        flushed.map_err(RelayError::Remote)
    }

    fn poll_shut_down(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), RelayError>> {
        let shut = Pin::new(&mut *self.0).poll_shutdown(cx);
        shut.map_err(RelayError::Remote)
    }
}

/// What takes none of some bytes never will.
pub(super) fn some_of_it(written: usize) -> io::Result<usize> {
    if written == 0 {
        return Err(io::ErrorKind::WriteZero.into());
    }
    Ok(written)
}
