//! Frames whose payloads are in pipes, on their way into the carrier.

use std::io;
use std::task::{Context, Poll, ready};

use berth_relay::{Pipe, Registered};
use bytes::{Buf, BufMut, BytesMut};

use crate::frame::{FrameHeader, FrameKind, HEADER_LEN, MAX_PAYLOAD};

/// Frames that leave together. More would wake whoever reads the carrier less often, and hold up urgent frames longer.
const TOGETHER: usize = 2;

/// A few DATA frames of one stream. Their headers are put into a pipe with the payloads, so that they reach the carrier together.
///
/// They leave in this order: what is in memory, what is framed, and the tail.
#[derive(Debug)]
pub(super) struct PipedFrames {
    /// A header for which there was no room in a pipe, or everything, because the carrier takes nothing from pipes.
    copied: BytesMut,
    /// Headers and payloads.
    framed: Option<Pipe>,
    /// Payloads.
    rest: Pipe,
    /// Bytes of `rest` that belong to the last of the frames: there was no room for them in `framed`.
    tail: usize,
}

impl PipedFrames {
    /// As many frames of `payloads` as leave together.
    pub(super) fn of(stream: u32, payloads: Pipe) -> Self {
        let mut frames = Self {
            copied: BytesMut::new(),
            framed: Pipe::take().ok(),
            rest: payloads,
            tail: 0,
        };
        for _ in 0..TOGETHER {
            if frames.tail == 0 && frames.rest.held() > 0 {
                frames.add(stream);
            }
        }
        frames
    }

    /// Adds one, if there is room for its header.
    fn add(&mut self, stream: u32) {
        let length = self.rest.held().min(MAX_PAYLOAD);
        let header = FrameHeader {
            kind: FrameKind::Data,
            length,
            stream,
        };
        let header = header.encode();
        if let Some(framed) = &mut self.framed
            && framed.put(&header)
        {
            self.tail = length - framed.take_from(&mut self.rest, length);
        } else if self.is_empty() {
            self.copied.reserve(HEADER_LEN);
            self.copied.put_slice(&header);
            self.tail = length;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.copied.is_empty() && self.piped() == 0
    }

    /// Bytes in pipes that belong to the frames.
    pub(super) fn piped(&self) -> usize {
        self.framed.as_ref().map_or(0, Pipe::held) + self.tail
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
        carrier: &dyn Registered,
    ) -> Poll<io::Result<usize>> {
        if let Some(framed) = self.framed.as_mut().filter(|framed| framed.held() > 0) {
            return framed.poll_empty(cx, carrier, usize::MAX);
        }
        let moved = ready!(self.rest.poll_empty(cx, carrier, self.tail))?;
        self.tail -= moved;
        Poll::Ready(Ok(moved))
    }

    /// Moves what is in pipes to memory, so that it can leave from there.
    pub(super) fn copy_out(&mut self) -> io::Result<()> {
        if let Some(framed) = &mut self.framed {
            let length = framed.held();
            append(&mut self.copied, framed, length)?;
        }
        append(&mut self.copied, &mut self.rest, self.tail)?;
        self.tail = 0;
        Ok(())
    }

    /// All of it, from memory.
    pub(super) fn into_copied(mut self) -> io::Result<BytesMut> {
        self.copy_out()?;
        Ok(self.copied)
    }

    /// The frames have left: the payloads that have not.
    pub(super) fn into_rest(self) -> Option<Pipe> {
        if let Some(framed) = self.framed {
            framed.give_back();
        }
        if self.rest.held() > 0 {
            return Some(self.rest);
        }
        self.rest.give_back();
        None
    }
}

/// Moves `length` bytes, that are there, from a pipe to the end of a buffer.
fn append(buffer: &mut BytesMut, pipe: &mut Pipe, length: usize) -> io::Result<()> {
    let begin = buffer.len();
    buffer.resize(begin + length, 0);
    let read = pipe.read_exact(&mut buffer[begin..]);
    if read.is_err() {
        buffer.truncate(begin);
    }
    read
}
