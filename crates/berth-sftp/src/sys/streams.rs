//! What tokio leaves to its caller: watching a descriptor for one thing only, and reading into memory that nobody has zeroed.

use std::io;

use rustix::fd::OwnedFd;
use tokio::io::unix::AsyncFd;
use tokio::io::{Interest, ReadBuf};

/// Hands a descriptor to the runtime, which says when it is ready for what is of interest.
#[allow(unsafe_code, reason = "tokio's safe form is deprecated")]
pub(crate) fn watch(descriptor: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned, so it is open, and it stays the same until the `AsyncFd` is dropped.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor, interest) }?)
}

/// Reads what is there; returns whether that was less than there was room for.
#[allow(
    unsafe_code,
    reason = "zeroing the room of every read would cost more than most reads"
)]
pub(crate) fn read_into(descriptor: &OwnedFd, buffer: &mut ReadBuf<'_>) -> io::Result<bool> {
    // SAFETY: nothing is written to it but what is read, so nothing in it becomes uninitialised.
    let room = unsafe { buffer.unfilled_mut() };
    let (read, rest) = rustix::io::read(descriptor, room)?;
    let (count, is_short) = (read.len(), !rest.is_empty());
    // SAFETY: the system has written as many bytes.
    unsafe { buffer.assume_init(count) };
    buffer.advance(count);
    Ok(is_short)
}
