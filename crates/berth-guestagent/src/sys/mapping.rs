//! Memory that is shared with the kernel.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::ptr::NonNull;

/// Pages of a descriptor; unmapped when dropped.
#[derive(Debug)]
pub(super) struct Mapping {
    begin: NonNull<u8>,
    length: usize,
}

// SAFETY: the memory belongs to the mapping alone, and no thread is tied to it.
unsafe impl Send for Mapping {}

impl Mapping {
    /// Maps `length` bytes of `fd`, from `offset` on, to read and perhaps to write.
    pub(super) fn new(
        fd: &OwnedFd,
        length: usize,
        offset: usize,
        writable: bool,
    ) -> io::Result<Self> {
        let access = libc::PROT_READ | if writable { libc::PROT_WRITE } else { 0 };
        let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
        // SAFETY: the kernel chooses where, so nothing that is mapped already is touched.
        let begin = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                length,
                access,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                offset,
            )
        };
        if begin == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let begin = NonNull::new(begin.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { begin, length })
    }

    /// The value at an offset.
    ///
    /// # Panics
    ///
    /// Panics when it does not lie in the mapping, aligned.
    ///
    /// # Safety
    ///
    /// Every bit pattern is a `T`, and a `T` may change while there are references to it (an atomic).
    pub(super) unsafe fn at<T>(&self, offset: usize) -> &T {
        assert!(
            offset.is_multiple_of(align_of::<T>())
                && offset
                    .checked_add(size_of::<T>())
                    .is_some_and(|end| end <= self.length),
            "{offset} of {} bytes",
            self.length
        );
        // SAFETY: the offset lies in the mapping.
        let place = unsafe { self.begin.add(offset) };
        // SAFETY: the mapping begins at a page, so the place is aligned as the offset is; it lives as long as `self`; the
        // rest is promised by the caller.
        unsafe { place.cast().as_ref() }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by `new`, and no reference into it outlives `self`.
        unsafe { libc::munmap(self.begin.as_ptr().cast(), self.length) };
    }
}
