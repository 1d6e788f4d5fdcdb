//! One stream, as its user holds it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use berth_relay::RemoteStream;
use berth_relay::remote::{Lending, Source};
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};

use super::Shared;
use super::chunk::Chunk;
use crate::frame::ResetCode;

/// One stream of a session.
///
/// Shutting it down is FIN: the other direction lives on, and the reader reads its end only after the peer's FIN. A reset or
/// the end of the session is an error of reads and writes, never an end of file. Dropping the stream before both directions
/// are shut down resets it.
///
/// Bytes cross without a copy by [`AsyncBufRead`], which shows the buffer that came from the carrier, and by
/// [`Lending::poll_send_from`].
#[derive(Debug)]
pub struct LinkStream {
    id: u32,
    shared: Shared,
    reading: Option<Reading>,
}

/// What the reader has before it.
#[derive(Debug)]
struct Reading {
    chunk: Chunk,
    /// Bytes that it held at first.
    length: usize,
}

impl LinkStream {
    pub(super) fn new(id: u32, shared: Shared) -> Self {
        Self {
            id,
            shared,
            reading: None,
        }
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
        source: &mut Source<'_>,
    ) -> Poll<io::Result<usize>> {
        let (mut chunk, credit) = ready!(self.shared.table().poll_lend(self.id, cx))?;
        let most = usize::try_from(credit).unwrap_or(usize::MAX);
        let read = source(cx, chunk.space(most));
        if let Poll::Ready(Ok(count)) = read {
            chunk.extend(count);
        }
        let given_back = self.shared.table().give_back(self.id, (chunk, credit));
        let count = ready!(read)?;
        given_back?;
        Poll::Ready(Ok(count))
    }

    fn poll_failed(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        self.shared.table().poll_failed(self.id, cx)
    }
}

impl Drop for LinkStream {
    fn drop(&mut self) {
        let mut table = self.shared.table();
        if let Some(reading) = self.reading.take() {
            table.recycle(reading.chunk.into_buffer());
        }
        table.abandon(self.id, ResetCode::Cancelled);
    }
}

impl AsyncBufRead for LinkStream {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        if this.reading.is_none() {
            let next = ready!(this.shared.table().poll_chunk(this.id, cx))?;
            this.reading = next.map(|chunk| Reading {
                length: chunk.len(),
                chunk,
            });
        }
        let reading = this.reading.as_ref();
        Poll::Ready(Ok(reading.map_or(&[], |reading| reading.chunk.filled())))
    }

    fn consume(mut self: Pin<&mut Self>, count: usize) {
        let Some(mut reading) = self.reading.take() else {
            return;
        };
        reading.chunk.advance(count);
        if reading.chunk.is_empty() {
            let buffer = reading.chunk.into_buffer();
            let mut table = self.shared.table();
            table.note_read(self.id, buffer, reading.length);
        } else {
            self.reading = Some(reading);
        }
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
