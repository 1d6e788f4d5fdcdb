//! One stream, as its user holds it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use berth_relay::remote::{Lending, LendingError, Source, Target};
use berth_relay::{Pipe, PollSocket, RemoteStream};
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};

use super::Shared;
use super::chunk::Chunk;
use super::receive::Piece;
use crate::frame::{MAX_DATA, MAX_PAYLOAD, ResetCode};

/// Bytes in one read from which on the next ones go through a pipe.
const MUCH: usize = MAX_PAYLOAD / 2;

/// Bytes in a pipe below which the next ones are copied: little is sent sooner that way.
const LITTLE: usize = MAX_PAYLOAD / 4;

/// One stream of a session.
///
/// Shutting it down is FIN: the other direction lives on, and the reader reads its end only after the peer's FIN. A reset or
/// the end of the session is an error of reads and writes, never an end of file. Dropping the stream before both directions
/// are shut down resets it.
///
/// Bytes cross without a copy of ours by [`Lending`], and by [`AsyncBufRead`], which shows the buffer that came from the carrier.
#[derive(Debug)]
pub struct LinkStream {
    id: u32,
    shared: Shared,
    reading: Option<Reading>,
    /// The writer has much to say: what comes next is sent through a pipe, if it can be.
    is_bulk: bool,
    /// The other end of the reader takes pipes, and the session knows.
    offered_pipes: bool,
}

/// What the reader has before it.
#[derive(Debug)]
struct Reading {
    piece: Piece,
    /// Bytes that it held at first.
    length: usize,
}

impl LinkStream {
    pub(super) fn new(id: u32, shared: Shared) -> Self {
        Self {
            id,
            shared,
            reading: None,
            is_bulk: false,
            offered_pipes: false,
        }
    }

    /// Has the next bytes before it, or nothing at the end.
    fn poll_reading(&mut self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        if self.reading.is_none() {
            let next = ready!(self.shared.table().poll_piece(self.id, cx))?;
            self.reading = next.map(|piece| Reading {
                length: piece.len(),
                piece,
            });
        }
        Poll::Ready(Ok(()))
    }

    /// Copies what is in a pipe, for a reader who does not take pipes.
    fn copy_out(&mut self) -> io::Result<()> {
        if let Some(reading) = &mut self.reading
            && let Piece::Piped(pipe) = &mut reading.piece
        {
            let mut bytes = vec![0; pipe.held()];
            pipe.read_exact(&mut bytes)?;
            reading.piece = Piece::Copied(Chunk::copy_of(&bytes, 0));
        }
        Ok(())
    }

    /// Gives back what has been read to its end.
    fn settle(&mut self) {
        if let Some(reading) = self.reading.take_if(|reading| reading.piece.len() == 0) {
            let mut table = self.shared.table();
            table.note_read(self.id, reading.piece, reading.length);
        }
    }

    fn poll_lend_pipe(&mut self, cx: &Context<'_>) -> Poll<io::Result<Option<(Pipe, u32)>>> {
        self.shared.table().poll_lend_pipe(self.id, cx)
    }

    fn poll_send_piped(
        &mut self,
        cx: &mut Context<'_>,
        socket: &dyn PollSocket,
        (mut pipe, credit): (Pipe, u32),
    ) -> Poll<Result<usize, LendingError>> {
        let most = usize::try_from(credit).unwrap_or(usize::MAX).min(MAX_DATA);
        let filled = pipe.poll_fill(cx, socket, most);
        let given_back = self.shared.table().give_back_pipe(self.id, (pipe, credit));
        let count = ready!(filled).map_err(LendingError::Local)?;
        given_back.map_err(LendingError::Stream)?;
        self.is_bulk = count >= LITTLE;
        Poll::Ready(Ok(count))
    }

    fn poll_send_copied(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut dyn Source,
    ) -> Poll<Result<usize, LendingError>> {
        let lent = ready!(self.shared.table().poll_lend(self.id, cx));
        let (mut chunk, credit) = lent.map_err(LendingError::Stream)?;
        let most = usize::try_from(credit).unwrap_or(usize::MAX);
        let read = source.poll_read(cx, chunk.space(most));
        if let Poll::Ready(Ok(count)) = read {
            chunk.extend(count);
            self.is_bulk = count >= MUCH;
        }
        let given_back = self.shared.table().give_back(self.id, (chunk, credit));
        let count = ready!(read).map_err(LendingError::Local)?;
        given_back.map_err(LendingError::Stream)?;
        Poll::Ready(Ok(count))
    }

    /// Gives the stream up and tells the other end why.
    pub fn reset(self, code: ResetCode) {
        self.shared.table().abandon(self.id, code);
    }
}

impl RemoteStream for LinkStream {
    fn lending(&mut self) -> Option<&mut (dyn Lending + Send)> {
        Some(self)
    }
}

impl Lending for LinkStream {
    fn poll_send_from(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut dyn Source,
    ) -> Poll<Result<usize, LendingError>> {
        if self.is_bulk
            && let Some(socket) = source.socket()
            && let Some(lent) = ready!(self.poll_lend_pipe(cx)).map_err(LendingError::Stream)?
        {
            return self.poll_send_piped(cx, socket, lent);
        }
        self.poll_send_copied(cx, source)
    }

    fn poll_give_to(
        &mut self,
        cx: &mut Context<'_>,
        target: &mut dyn Target,
    ) -> Poll<Result<usize, LendingError>> {
        if !self.offered_pipes && target.socket().is_some() {
            self.offered_pipes = true;
            self.shared.table().offer_pipes(self.id);
        }
        ready!(self.poll_reading(cx)).map_err(LendingError::Stream)?;
        let Some(reading) = &mut self.reading else {
            return Poll::Ready(Ok(0));
        };
        let given = match (&mut reading.piece, target.socket()) {
            (Piece::Piped(pipe), Some(socket)) => pipe.poll_empty(cx, socket),
            (Piece::Piped(_), None) => {
                self.copy_out().map_err(LendingError::Stream)?;
                return self.poll_give_to(cx, target);
            }
            (Piece::Copied(chunk), _) => {
                let given = target.poll_write(cx, chunk.filled());
                if let Poll::Ready(Ok(count)) = given {
                    chunk.advance(count);
                }
                given
            }
        };
        match given {
            Poll::Ready(Ok(0)) => {
                Poll::Ready(Err(LendingError::Local(io::ErrorKind::WriteZero.into())))
            }
            Poll::Ready(given) => {
                self.settle();
                Poll::Ready(given.map_err(LendingError::Local))
            }
            // A target that takes nothing must not keep a stream alive that is gone.
            Poll::Pending => self
                .poll_failed(cx)
                .map(|why| Err(LendingError::Stream(why))),
        }
    }

    fn poll_failed(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.shared.table().poll_failed(self.id, cx)
    }
}

impl Drop for LinkStream {
    fn drop(&mut self) {
        let mut table = self.shared.table();
        if let Some(reading) = self.reading.take() {
            table.recycle(reading.piece);
        }
        table.abandon(self.id, ResetCode::Cancelled);
    }
}

impl AsyncBufRead for LinkStream {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        ready!(this.poll_reading(cx))?;
        this.copy_out()?;
        Poll::Ready(Ok(match &this.reading {
            Some(Reading {
                piece: Piece::Copied(chunk),
                ..
            }) => chunk.filled(),
            _ => &[],
        }))
    }

    fn consume(mut self: Pin<&mut Self>, count: usize) {
        if let Some(reading) = &mut self.reading
            && let Piece::Copied(chunk) = &mut reading.piece
        {
            chunk.advance(count);
        }
        self.settle();
    }
}

impl AsyncRead for LinkStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let bytes = ready!(self.as_mut().poll_fill_buf(cx))?;
        let count = bytes.len().min(buf.remaining());
        buf.put_slice(&bytes[..count]);
        self.consume(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for LinkStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.shared.table().poll_write(self.id, cx, bytes)
    }

    /// Does nothing: what was written leaves by itself, as fast as the carrier takes it.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.shared.table().shut_down(self.id))
    }
}
