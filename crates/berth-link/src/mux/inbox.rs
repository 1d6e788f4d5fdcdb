//! Bytes read from the carrier and not yet taken.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use super::chunk::{Buffer, Chunk};
use crate::hello::{Greeting, Scanner};

/// Space while little is read.
const SMALL: usize = 4096;

/// Unread bytes that are moved to the front of the buffer for the sake of a longer read.
const CHEAP_MOVE: usize = 1024;

/// The one receive buffer of a carrier, from the first greeting to the last frame.
///
/// It begins small. Once a read fills it, or a frame does not fit, it is as long as the longest frame.
pub struct Inbox {
    buffer: Buffer,
    start: usize,
    end: usize,
    /// The last read might have been longer.
    was_filled: bool,
}

impl fmt::Debug for Inbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Inbox({} bytes unread)", self.end - self.start)
    }
}

impl Default for Inbox {
    fn default() -> Self {
        Self {
            buffer: Buffer::small(SMALL),
            start: 0,
            end: 0,
            was_filled: false,
        }
    }
}

impl Inbox {
    /// What was read and not taken.
    #[must_use]
    pub fn unread(&self) -> &[u8] {
        &self.buffer.bytes()[self.start..self.end]
    }

    /// Takes `count` bytes, at most all of them, off the front.
    pub fn take(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
        if self.start == self.end {
            (self.start, self.end) = (self.buffer.origin(), self.buffer.origin());
        }
    }

    /// Takes `count` unread bytes, and their buffer with them; `fresh` takes its place.
    pub(super) fn take_with_buffer(&mut self, count: usize, fresh: Buffer) -> Chunk {
        let start = self.start;
        let end = start + count;
        self.start = end;
        Chunk::within(self.move_into(fresh), start, end)
    }

    /// Moves what is unread to another buffer; returns the one before.
    fn move_into(&mut self, mut other: Buffer) -> Buffer {
        let unread = self.unread();
        let (start, length) = (other.origin(), unread.len());
        other.bytes_mut()[start..][..length].copy_from_slice(unread);
        (self.start, self.end) = (start, start + length);
        std::mem::replace(&mut self.buffer, other)
    }

    /// Takes bytes off the front up to the end of the next greeting, or all of them.
    pub fn next_greeting(&mut self, scanner: &mut Scanner) -> Option<Greeting> {
        let mut unread = self.unread();
        let before = unread.len();
        let greeting = scanner.scan(&mut unread);
        let taken = before - unread.len();
        self.take(taken);
        greeting
    }

    /// Reads once. `Ok(0)` is the end of the carrier.
    pub async fn fill<S: AsyncRead + Unpin>(&mut self, io: &mut S) -> io::Result<usize> {
        std::future::poll_fn(|cx| self.poll_fill(cx, io, 0, usize::MAX)).await
    }

    /// Reads once, at most `most` bytes, with room for at least `wanted` unread bytes in all.
    pub(super) fn poll_fill<S: AsyncRead + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut S,
        wanted: usize,
        most: usize,
    ) -> Poll<io::Result<usize>> {
        self.make_room(wanted);
        let space = &mut self.buffer.bytes_mut()[self.end..];
        let most = most.min(space.len());
        let mut space = ReadBuf::new(&mut space[..most]);
        debug_assert!(space.capacity() > 0);
        ready!(Pin::new(io).poll_read(cx, &mut space))?;
        let count = space.filled().len();
        self.was_filled = space.remaining() == 0;
        self.end += count;
        Poll::Ready(Ok(count))
    }

    fn make_room(&mut self, wanted: usize) {
        let unread = self.end - self.start;
        let wanted = wanted.max(unread + 1);
        let origin = self.buffer.origin();
        let length = self.buffer.bytes().len();
        if self.is_small() && (self.was_filled || wanted > length) {
            self.move_into(Buffer::big());
        } else if self.start > origin && (unread <= CHEAP_MOVE || self.start + wanted > length) {
            let unread = self.start..self.end;
            self.end = origin + unread.len();
            self.start = origin;
            self.buffer.bytes_mut().copy_within(unread, origin);
        }
    }

    fn is_small(&self) -> bool {
        self.buffer.bytes().len() == SMALL
    }

    /// Gives memory back, because there are no flows.
    pub(super) fn settle(&mut self) {
        if !self.is_small() && self.start == self.end {
            *self = Self::default();
        }
    }
}
