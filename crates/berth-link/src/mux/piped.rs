//! A frame whose payload is in a pipe, on its way into the carrier.

use std::io;
use std::task::{Context, Poll};

use berth_relay::{Pipe, PollSocket};
use bytes::{Buf, BytesMut};

use crate::frame::{FrameHeader, FrameKind};

/// One DATA frame. Its header is put into a pipe with the payload, so that both reach the carrier together: a header by itself
/// would wake whoever reads the carrier for eight bytes.
///
/// It leaves in this order: what is in memory, what is framed, and the rest.
#[derive(Debug)]
pub(super) struct PipedFrame {
    /// A header for which there was no pipe, or everything, because the carrier takes nothing from pipes.
    copied: BytesMut,
    /// Header and payload.
    framed: Option<Pipe>,
    /// Payload for which there was no room in `framed`.
    rest: Pipe,
}

impl PipedFrame {
    /// A frame with all that is in a pipe, at most [`MAX_DATA`](crate::frame::MAX_DATA) bytes.
    pub(super) fn of(stream: u32, mut payload: Pipe) -> Self {
        let header = FrameHeader {
            kind: FrameKind::Data,
            length: payload.held(),
            stream,
        };
        let header = header.encode();
        let mut copied = BytesMut::new();
        let framed = Pipe::take().ok().and_then(|mut framed| {
            framed.put(&header).then(|| {
                framed.take_from(&mut payload);
                framed
            })
        });
        if framed.is_none() {
            copied.extend_from_slice(&header);
        }
        Self {
            copied,
            framed,
            rest: payload,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.copied.is_empty() && self.piped() == 0
    }

    /// Bytes in pipes.
    pub(super) fn piped(&self) -> usize {
        self.framed.as_ref().map_or(0, Pipe::held) + self.rest.held()
    }

    /// Bytes in memory.
    pub(super) fn copied(&self) -> &[u8] {
        &self.copied
    }

    /// Takes bytes off that left from memory; how many of `count` were not its own.
    pub(super) fn advance(&mut self, count: usize) -> usize {
        let own = count.min(self.copied.len());
        self.copied.advance(own);
        count - own
    }

    /// Writes bytes from a pipe, once; how many. [`io::ErrorKind::InvalidInput`] says that the carrier takes nothing from there.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        carrier: &dyn PollSocket,
    ) -> Poll<io::Result<usize>> {
        let framed = self.framed.as_mut().filter(|framed| framed.held() > 0);
        framed.unwrap_or(&mut self.rest).poll_empty(cx, carrier)
    }

    /// Moves what is in pipes to memory, so that it can leave from there.
    pub(super) fn copy_out(&mut self) -> io::Result<()> {
        for pipe in self.framed.iter_mut().chain([&mut self.rest]) {
            let begin = self.copied.len();
            self.copied.resize(begin + pipe.held(), 0);
            if let Err(why) = pipe.read_exact(&mut self.copied[begin..]) {
                self.copied.truncate(begin);
                return Err(why);
            }
        }
        Ok(())
    }

    /// All of it, from memory.
    pub(super) fn into_copied(mut self) -> io::Result<BytesMut> {
        self.copy_out()?;
        Ok(self.copied)
    }

    /// Keeps its pipes for the next.
    pub(super) fn give_back(self) {
        for pipe in self.framed.into_iter().chain([self.rest]) {
            pipe.give_back();
        }
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncReadExt;
    use tokio::net::UnixStream;

    use super::*;

    /// Each piece has a place of its own in the pipe, of which there are 64.
    async fn pipe_with(pieces: usize, length: usize) -> Pipe {
        let (near, far) = UnixStream::pair().unwrap();
        let mut pipe = Pipe::take().unwrap();
        for _ in 0..pieces {
            far.try_write(&vec![7; length]).unwrap();
        }
        let filled = poll_fn(|cx| pipe.poll_fill(cx, &near, usize::MAX)).await;
        assert_eq!(filled.unwrap(), pieces * length);
        pipe
    }

    fn bytes(length: usize) -> Vec<u8> {
        let [.., a, b, c] = length.to_be_bytes();
        let mut bytes = vec![2, a, b, c, 0, 0, 0, 3];
        bytes.resize(bytes.len() + length, 7);
        bytes
    }

    #[tokio::test]
    async fn header_and_payload_leave_together() {
        let mut frame = PipedFrame::of(3, pipe_with(3, 5000).await);
        let (near, far) = UnixStream::pair().unwrap();
        let written = poll_fn(|cx| frame.poll_write(cx, &near)).await.unwrap();
        let whole = bytes(3 * 5000);
        assert_eq!((written, frame.is_empty()), (whole.len(), true));
        let mut came = vec![0; whole.len()];
        far.readable().await.unwrap();
        assert_eq!(far.try_read(&mut came).unwrap(), whole.len());
        assert_eq!(came, whole);
    }

    #[tokio::test]
    async fn a_payload_that_leaves_no_room_for_its_header_follows_it() {
        let full = pipe_with(64, 100).await;
        let mut frame = PipedFrame::of(3, full);
        assert_eq!(frame.rest.held(), 100);
        let (near, mut far) = UnixStream::pair().unwrap();
        while !frame.is_empty() {
            poll_fn(|cx| frame.poll_write(cx, &near)).await.unwrap();
        }
        let whole = bytes(6400);
        let mut came = vec![0; whole.len()];
        far.read_exact(&mut came).await.unwrap();
        assert_eq!(came, whole);
    }

    #[tokio::test]
    async fn what_is_in_pipes_can_leave_from_memory() {
        let full = pipe_with(64, 100).await;
        let copied = PipedFrame::of(3, full).into_copied().unwrap();
        assert_eq!(copied, bytes(6400));
    }
}
