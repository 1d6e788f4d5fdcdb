//! Pipes that bytes pass through without being copied.

use std::io;
use std::os::fd::OwnedFd;

use rustix::pipe::PipeFlags;

/// How many bytes one pipe holds at most; large, so that bulk moves in few calls.
pub(super) const CAPACITY: usize = 1 << 20;

/// Pipes kept for the next flow: making one costs more than a short connection.
const SPARE: usize = 64;

/// One pipe.
#[derive(Debug)]
pub(super) struct Pipe {
    pub(super) read: OwnedFd,
    pub(super) write: OwnedFd,
}

/// Empty pipes. A flow borrows one only while bytes are on their way, so an idle connection holds two descriptors.
#[derive(Debug, Default)]
pub(super) struct PipePool {
    spare: Vec<Pipe>,
}

impl PipePool {
    /// Takes an empty pipe.
    pub(super) fn take(&mut self) -> io::Result<Pipe> {
        if let Some(pipe) = self.spare.pop() {
            return Ok(pipe);
        }
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // Fails past the limit of an unprivileged user; a small pipe works as well, only slower.
        let _ = rustix::pipe::fcntl_setpipe_size(&write, CAPACITY);
        Ok(Pipe { read, write })
    }

    /// Gives back a pipe that is empty again.
    pub(super) fn give_back(&mut self, pipe: Pipe) {
        if self.spare.len() < SPARE {
            self.spare.push(pipe);
        }
    }
}
