//! Buffers for payloads. Big ones are used over and over.

use std::fmt;

use crate::frame::{FrameHeader, FrameKind, HEADER_LEN, MAX_PAYLOAD};

/// Alignment that [`PAYLOAD_PLACE`] counts from.
const PAGE: usize = 4096;

/// Where payloads begin in their page.
///
/// Common processors copy fifteen times slower when the target lies 1 to 31 bytes behind the source, modulo the page size
/// (`rep movsb` on Zen 3 and 4). The kernel's buffers begin with a page, or with a header and then the payload; and so do
/// most buffers of user space. Half a page away from all of them is safe.
const PAYLOAD_PLACE: usize = PAGE / 2;

/// Length of a big buffer: the longest frame, a FIN behind it, and what it takes to put the payload into its place.
const BIG: usize = PAGE + HEADER_LEN + MAX_PAYLOAD + HEADER_LEN;

/// Big buffers that are kept while there are flows.
const KEPT: usize = 16;

/// Big buffers that are kept while there are none.
const KEPT_IDLE: usize = 2;

/// Space for bytes; a big one has room for the longest frame from [`Buffer::origin`] on.
pub(super) struct Buffer {
    bytes: Box<[u8]>,
    origin: usize,
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} bytes)", self.bytes.len())
    }
}

impl Buffer {
    pub(super) fn small(length: usize) -> Self {
        Self {
            bytes: vec![0; length].into_boxed_slice(),
            origin: 0,
        }
    }

    pub(super) fn big() -> Self {
        let bytes = vec![0; BIG].into_boxed_slice();
        // Anywhere would do, if the address could not be told.
        let page = bytes.as_ptr().align_offset(PAGE).min(PAGE);
        let payload = (page + PAYLOAD_PLACE) % PAGE;
        let header_fits = if payload < HEADER_LEN { PAGE } else { 0 };
        Self {
            bytes,
            origin: payload + header_fits - HEADER_LEN,
        }
    }

    fn is_big(&self) -> bool {
        self.bytes.len() == BIG
    }

    /// Where a frame begins.
    pub(super) fn origin(&self) -> usize {
        self.origin
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

/// Bytes in a buffer of their own: taken off the front, added at the end.
pub(super) struct Chunk {
    buffer: Buffer,
    start: usize,
    end: usize,
}

impl Chunk {
    /// A copy of `payload`, with room for more up to `capacity`.
    pub(super) fn copy_of(payload: &[u8], capacity: usize) -> Self {
        let mut bytes = Vec::with_capacity(capacity.max(payload.len()));
        bytes.extend_from_slice(payload);
        bytes.resize(bytes.capacity(), 0);
        let buffer = Buffer {
            bytes: bytes.into_boxed_slice(),
            origin: 0,
        };
        Self::within(buffer, 0, payload.len())
    }

    /// The bytes from `start` to `end` of a buffer.
    pub(super) fn within(buffer: Buffer, start: usize, end: usize) -> Self {
        Self { buffer, start, end }
    }

    pub(super) fn filled(&self) -> &[u8] {
        &self.buffer.bytes[self.start..self.end]
    }

    pub(super) fn len(&self) -> usize {
        self.end - self.start
    }

    pub(super) fn capacity(&self) -> usize {
        self.buffer.bytes.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Takes `count` bytes, at most all of them, off the front.
    pub(super) fn advance(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
    }

    /// Appends as much as there is room for; how much that was.
    pub(super) fn append(&mut self, bytes: &[u8]) -> usize {
        let space = &mut self.buffer.bytes[self.end..];
        let count = bytes.len().min(space.len());
        space[..count].copy_from_slice(&bytes[..count]);
        self.end += count;
        count
    }

    /// The whole buffer, for other bytes.
    pub(super) fn into_buffer(self) -> Buffer {
        self.buffer
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Chunk({} of {} bytes)", self.len(), self.capacity())
    }
}

/// The payload of one DATA frame on its way out, with room in front for the header and behind for a FIN.
#[derive(Debug)]
pub(super) struct Outgoing(Chunk);

impl Outgoing {
    pub(super) fn new(buffer: Buffer) -> Self {
        debug_assert!(buffer.is_big());
        let payload = buffer.origin + HEADER_LEN;
        Self(Chunk::within(buffer, payload, payload))
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn room(&self) -> usize {
        MAX_PAYLOAD - self.0.len()
    }

    /// Appends as much as there is room for; how much that was.
    pub(super) fn append(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.room());
        self.0.append(&bytes[..count])
    }

    /// Space for up to `most` bytes more.
    pub(super) fn space(&mut self, most: usize) -> &mut [u8] {
        let count = most.min(self.room());
        &mut self.0.buffer.bytes[self.0.end..][..count]
    }

    /// Counts `count` bytes that were written into [`Outgoing::space`].
    pub(super) fn extend(&mut self, count: usize) {
        self.0.end += count.min(self.room());
    }

    /// The payload so far.
    pub(super) fn payload(&self) -> &[u8] {
        self.0.filled()
    }

    /// The frame, and a FIN behind it if that is the stream's end.
    pub(super) fn into_frame(mut self, stream: u32, fin: bool) -> Chunk {
        let header = |kind, length| FrameHeader {
            kind,
            length,
            stream,
        };
        let head = header(FrameKind::Data, self.len()).encode();
        self.0.start -= HEADER_LEN;
        self.0.buffer.bytes[self.0.start..][..HEADER_LEN].copy_from_slice(&head);
        if fin {
            self.0.append(&header(FrameKind::Fin, 0).encode());
        }
        self.0
    }

    pub(super) fn into_buffer(self) -> Buffer {
        self.0.into_buffer()
    }
}

/// Big buffers that nobody uses now.
#[derive(Debug, Default)]
pub(super) struct Pool {
    free: Vec<Buffer>,
    is_closed: bool,
}

impl Pool {
    pub(super) fn take(&mut self) -> Buffer {
        self.free.pop().unwrap_or_else(Buffer::big)
    }

    /// Keeps a buffer for later if it is a big one and there are not many.
    pub(super) fn give(&mut self, buffer: Buffer) {
        if buffer.is_big() && self.free.len() < KEPT && !self.is_closed {
            self.free.push(buffer);
        }
    }

    /// Gives memory back, because there are no flows.
    pub(super) fn settle(&mut self) {
        self.free.truncate(KEPT_IDLE);
        self.free.shrink_to_fit();
    }

    /// Keeps nothing from now on, because the session is over.
    pub(super) fn close(&mut self) {
        self.free = Vec::new();
        self.is_closed = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_in_one_piece_with_its_header_and_its_fin() {
        let mut outgoing = Outgoing::new(Buffer::big());
        assert_eq!(outgoing.append(&vec![7; MAX_PAYLOAD + 5]), MAX_PAYLOAD);
        assert_eq!((outgoing.room(), outgoing.append(b"x")), (0, 0));
        assert!(outgoing.space(9).is_empty());
        let frame = outgoing.into_frame(3, true);
        let (head, rest) = frame.filled().split_at(HEADER_LEN);
        assert_eq!(head, [2, 1, 0, 0, 0, 0, 0, 3]);
        assert_eq!(rest[MAX_PAYLOAD..], [4, 0, 0, 0, 0, 0, 0, 3]);
    }

    #[test]
    fn what_is_written_into_the_space_is_payload() {
        let mut outgoing = Outgoing::new(Buffer::big());
        outgoing.append(b"ab");
        outgoing.space(3).copy_from_slice(b"cde");
        outgoing.extend(2);
        assert_eq!(outgoing.payload(), b"abcd");
        assert_eq!(
            outgoing.into_frame(1, false).filled()[HEADER_LEN..],
            *b"abcd"
        );
    }

    #[test]
    fn payloads_lie_in_their_place_and_the_longest_frame_fits_behind_every_address() {
        for _ in 0..64 {
            let buffer = Buffer::big();
            let payload = buffer.origin() + HEADER_LEN;
            let address = buffer.bytes()[payload..].as_ptr().addr();
            assert_eq!(address % PAGE, PAYLOAD_PLACE);
            assert!(buffer.bytes().len() >= payload + MAX_PAYLOAD + HEADER_LEN);
            // The next one lies elsewhere.
            std::mem::forget(vec![0_u8; 1000 + address % 77]);
        }
    }

    #[test]
    fn only_big_buffers_are_kept_and_few_without_flows() {
        let mut pool = Pool::default();
        pool.give(Buffer::small(64));
        assert!(pool.free.is_empty());
        for _ in 0..2 * KEPT {
            pool.give(Buffer::big());
        }
        assert_eq!(pool.free.len(), KEPT);
        pool.settle();
        assert_eq!(pool.free.len(), KEPT_IDLE);
        pool.close();
        assert!(pool.free.is_empty() && pool.take().is_big());
        pool.give(Buffer::big());
        assert!(pool.free.is_empty());
    }
}
