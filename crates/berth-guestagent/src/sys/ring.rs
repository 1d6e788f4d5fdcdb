//! A ring buffer that BPF programs write numbers to (the kernel's `Documentation/bpf/ringbuf.rst`).

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering, fence};

use super::mapping::Mapping;

/// Bits of a record's header, in front of its length in bytes.
const BUSY: u32 = 1 << 31;
const DISCARDED: u32 = 1 << 30;

/// Each record begins with this many bytes: its length with the bits above, then an offset that is the kernel's own.
const HEADER: usize = 8;

/// The reader's end. The kernel makes the descriptor readable when a record comes after the reader has read all others.
#[derive(Debug)]
pub(crate) struct RingReader {
    /// How far the reader is, in bytes since the beginning: the first page.
    reader: Mapping,
    /// How far the writers are: the second page. Then the data, mapped twice, so that no record is in two parts.
    rest: Mapping,
    data: usize,
    size: usize,
}

impl RingReader {
    /// Opens the end of a ring of `size` bytes: a power of two, and whole pages.
    pub(crate) fn open(ring: &OwnedFd, size: usize) -> io::Result<Self> {
        let page = rustix::param::page_size();
        Ok(Self {
            reader: Mapping::new(ring, page, 0, true)?,
            rest: Mapping::new(ring, page + 2 * size, page, false)?,
            data: page,
            size,
        })
    }

    /// Takes all records. Tells whether the ring was so full that others may have been lost.
    pub(crate) fn drain(&mut self, mut each: impl FnMut(u64)) -> bool {
        let mut taken = 0;
        while let Some((number, length)) = self.next() {
            number.map(&mut each);
            taken += length;
        }
        // The kernel leaves room for one record more.
        taken + HEADER + size_of::<u64>() >= self.size
    }

    /// Takes one record: its number, unless it holds none, and how much of the ring it filled.
    ///
    /// Loads are relaxed, with fences: of memory that we may not write to, others are not sure to work.
    fn next(&mut self) -> Option<(Option<u64>, usize)> {
        // A writer that does not see how far the reader is wakes nobody: then the reader must see what it wrote.
        fence(Ordering::SeqCst);
        // SAFETY: an atomic may have any value, and may change at any time; the position is an `unsigned long`.
        let reader: &AtomicUsize = unsafe { self.reader.at(0) };
        let at = reader.load(Ordering::Relaxed);
        // SAFETY: as above.
        let writers: &AtomicUsize = unsafe { self.rest.at(0) };
        if writers.load(Ordering::Relaxed) == at {
            return None;
        }
        fence(Ordering::Acquire);
        let record = self.data + at % self.size;
        // SAFETY: an atomic, as above.
        let header: &AtomicU32 = unsafe { self.rest.at(record) };
        let header = header.load(Ordering::Relaxed);
        if header & BUSY != 0 {
            return None;
        }
        fence(Ordering::Acquire);
        let length = (header & !DISCARDED) as usize;
        let holds_number = header & DISCARDED == 0 && length == size_of::<u64>();
        let number = holds_number.then(|| {
            // SAFETY: an atomic, as above.
            let number: &AtomicU64 = unsafe { self.rest.at(record + HEADER) };
            number.load(Ordering::Relaxed)
        });
        let whole = (HEADER + length).next_multiple_of(HEADER);
        reader.store(at.wrapping_add(whole), Ordering::Release);
        Some((number, whole))
    }
}
