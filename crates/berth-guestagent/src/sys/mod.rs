//! System calls that the compiler cannot check, and registering a descriptor with the runtime.
#![allow(unsafe_code, reason = "the only place of this crate")]

pub(crate) mod bpf;
pub(crate) mod clock;
mod mapping;
pub(crate) mod perf;
pub(crate) mod ring;

use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Has the runtime wake whoever waits for `fd` to become readable.
pub(crate) fn when_readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is moved into the AsyncFd, which lets go of it before it closes it; an OwnedFd keeps its
    // descriptor open, and always gives the same one.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}

/// Has the runtime wake whoever waits for something urgent about `fd`.
pub(crate) fn when_urgent(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: as in `when_readable`.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::PRIORITY) }?)
}

/// Has the kernel kill the program when the thread that starts it is gone: not one moment must it run without us.
pub(crate) fn die_with_parent(command: &mut tokio::process::Command) {
    let ask = || {
        rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
        Ok(())
    };
    // SAFETY: between fork and exec only system calls may be made; this makes one, and nothing else.
    unsafe { command.pre_exec(ask) };
}

/// Takes over a descriptor that a system call has just returned.
fn owned(fd: libc::c_int) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Gives the calling thread a network namespace of its own.
#[cfg(test)]
pub(crate) fn leave_the_network() -> io::Result<()> {
    // SAFETY: only unsharing the table of descriptors is a hazard.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET)? };
    Ok(())
}
