//! A stream that lends its buffers, as those of the link do.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use berth_relay::RemoteStream;
use berth_relay::remote::{Lending, LendingError, Source, Target};
use tokio::io::{AsyncBufRead, AsyncRead, AsyncWrite, ReadBuf};

use super::Stream;

/// Bytes that it lends at most.
const LENT: usize = 4096;

pub(crate) struct Lender {
    stream: Stream,
    came: Vec<u8>,
    leaving: Vec<u8>,
}

impl Lender {
    pub(crate) fn new(stream: Stream) -> Self {
        Self {
            stream,
            came: Vec::new(),
            leaving: Vec::new(),
        }
    }

    fn poll_leave(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.leaving.is_empty() {
            let stream = Pin::new(&mut self.stream);
            let left = ready!(stream.poll_write(cx, &self.leaving))?;
            self.leaving.drain(..left);
        }
        Poll::Ready(Ok(()))
    }
}

impl RemoteStream for Lender {
    fn lending(&mut self) -> Option<&mut (dyn Lending + Send)> {
        Some(self)
    }
}

impl Lending for Lender {
    fn poll_send_from(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut dyn Source,
    ) -> Poll<Result<usize, LendingError>> {
        ready!(self.poll_leave(cx)).map_err(LendingError::Stream)?;
        let mut lent = [0; LENT];
        let count = ready!(source.poll_read(cx, &mut lent)).map_err(LendingError::Local)?;
        self.leaving = lent[..count].to_vec();
        let _goes_on_when_asked_again = self.poll_leave(cx).map_err(LendingError::Stream)?;
        Poll::Ready(Ok(count))
    }

    fn poll_give_to(
        &mut self,
        cx: &mut Context<'_>,
        target: &mut dyn Target,
    ) -> Poll<Result<usize, LendingError>> {
        let filled = ready!(Pin::new(&mut *self).poll_fill_buf(cx));
        let bytes = filled.map_err(LendingError::Stream)?;
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let Poll::Ready(given) = target.poll_write(cx, bytes) else {
            return self
                .poll_failed(cx)
                .map(|why| Err(LendingError::Stream(why)));
        };
        let given = given.map_err(LendingError::Local)?;
        Pin::new(self).consume(given);
        Poll::Ready(Ok(given))
    }

    fn poll_failed(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        match self.stream.check(cx) {
            Ok(()) => Poll::Pending,
            Err(why) => Poll::Ready(why),
        }
    }
}

impl AsyncBufRead for Lender {
    fn poll_fill_buf(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<&[u8]>> {
        let this = self.get_mut();
        if this.came.is_empty() {
            let mut room = [0; LENT];
            let mut room = ReadBuf::new(&mut room);
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut room))?;
            this.came = room.filled().to_vec();
        }
        Poll::Ready(Ok(&this.came))
    }

    fn consume(mut self: Pin<&mut Self>, count: usize) {
        self.came.drain(..count);
    }
}

/// Unused, but asked for by the bound.
impl AsyncRead for Lender {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        room: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let bytes = ready!(self.as_mut().poll_fill_buf(cx))?;
        let count = bytes.len().min(room.remaining());
        room.put_slice(&bytes[..count]);
        self.consume(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Lender {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_leave(cx))?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_leave(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_leave(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
