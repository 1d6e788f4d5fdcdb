//! The buffers at both ends of what is measured.

use std::ops::{Deref, DerefMut};

/// Size of a buffer.
const LENGTH: usize = 256 << 10;

/// Alignment that [`PLACE`] counts from.
const PAGE: usize = 4096;

/// Where a buffer begins in its page.
const PLACE: usize = PAGE / 2;

/// Memory that costs what memory costs, whatever is measured with it.
///
/// It is half a page away from where pages begin. Common processors copy fifteen times slower when the target lies 1 to 31
/// bytes behind the source, modulo the page size (`rep movsb` on Zen 3 and 4). The kernel's buffers mostly begin with a page,
/// and an allocator's long ones 16 bytes behind one: there a reader takes longer than all that is between it and the sender, by
/// how much depends on how the bytes happen to be cut, and the forwarders are not what is compared.
///
/// And it was written to: of memory that is only read, all pages are one page of zeros, which no program sends.
#[derive(Debug)]
pub(super) struct Block {
    bytes: Box<[u8]>,
    start: usize,
}

impl Block {
    pub(super) fn new() -> Self {
        let bytes = vec![7; LENGTH + 2 * PAGE].into_boxed_slice();
        // Anywhere would do, if the address could not be told.
        let page = bytes.as_ptr().align_offset(PAGE).min(PAGE);
        Self {
            bytes,
            start: (page + PLACE) % PAGE,
        }
    }
}

impl Deref for Block {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.start..][..LENGTH]
    }
}

impl DerefMut for Block {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..][..LENGTH]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_lie_in_their_place() {
        for odd in 0..64 {
            let mut block = Block::new();
            assert_eq!(block.len(), LENGTH);
            assert_eq!(block.as_ptr().addr() % PAGE, PLACE);
            block[LENGTH - 1] = 1;
            // The next one lies elsewhere.
            std::mem::forget(vec![0_u8; 1000 + 77 * odd]);
        }
    }
}
