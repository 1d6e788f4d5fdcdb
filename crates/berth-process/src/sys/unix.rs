//! Handles and children of every Unix; how the end of a process becomes readable is the neighbours' (`linux`, `macos`).

use std::fs::{Metadata, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::io::{Errno, FdFlags, fcntl_setfd};
use rustix::process::{Pid, Resource, WaitIdOptions, WaitIdStatus, getrlimit, setrlimit};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::exit::{Exit, Signal};
use crate::spawn::{Grouping, Spec};

#[cfg(target_os = "linux")]
use super::linux::{MOST_OPEN_FILES, exit_fd, send, wait_id};
#[cfg(not(target_os = "linux"))]
use super::macos::{MOST_OPEN_FILES, exit_fd, send, wait_id};

/// What a child may inherit beside its standard streams.
pub(crate) type InheritedFd = OwnedFd;

/// One process, held so that another with its pid is never taken for it.
#[derive(Debug)]
pub(crate) struct Handle {
    pid: Pid,
    /// Readable once the process has ended.
    fd: AsyncFd<OwnedFd>,
}

impl Handle {
    /// Takes hold of a process; an error of kind `NotFound` when there is none. Needs a tokio runtime.
    pub(crate) fn open(pid: u32) -> io::Result<Self> {
        let pid = i32::try_from(pid)
            .ok()
            .and_then(Pid::from_raw)
            .ok_or(io::ErrorKind::NotFound)?;
        let fd = exit_fd(pid).map_err(gone_is_not_found)?;
        Ok(Self {
            pid,
            fd: when_readable(fd)?,
        })
    }

    /// Waits for the end, and reaps the process if it is our child.
    pub(crate) async fn end(&self) -> io::Result<Exit> {
        loop {
            let mut ready = self.fd.readable().await?;
            match self.reap() {
                Ok(Some(exit)) => return Ok(exit),
                Ok(None) => ready.clear_ready(),
                Err(Errno::CHILD) => return Ok(Exit::Unknown),
                Err(why) => return Err(why.into()),
            }
        }
    }

    fn reap(&self) -> rustix::io::Result<Option<Exit>> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        Ok(wait_id(self.fd.get_ref().as_fd(), self.pid, options)?.map(|status| exit_of(&status)))
    }

    /// Sends a signal; a process that is gone needs none.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        let signal = match signal {
            Signal::Interrupt => rustix::process::Signal::INT,
            Signal::Terminate => rustix::process::Signal::TERM,
            Signal::HangUp => rustix::process::Signal::HUP,
            Signal::Kill => rustix::process::Signal::KILL,
        };
        match send(self.fd.get_ref().as_fd(), self.pid, signal) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(why) => Err(why.into()),
        }
    }
}

fn exit_of(status: &WaitIdStatus) -> Exit {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(status), _) => Exit::Status(status),
        (None, Some(number)) => Exit::Signal {
            number,
            core_dumped: status.dumped(),
        },
        (None, None) => Exit::Unknown,
    }
}

/// Hands a descriptor to the runtime, which says when it is readable.
#[allow(unsafe_code, reason = "tokio's safe form is deprecated")]
pub(super) fn when_readable(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned, so it is open, and it stays the same until the `AsyncFd` is dropped.
    Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
}

pub(super) fn gone_is_not_found(why: Errno) -> io::Error {
    if why == Errno::SRCH {
        io::ErrorKind::NotFound.into()
    } else {
        why.into()
    }
}

/// Arranges session, group and inherited descriptors of a child that is about to be started.
#[allow(unsafe_code, reason = "`pre_exec` has no safe form")]
pub(crate) fn set_up(command: &mut Command, grouping: Grouping, inherited: Vec<InheritedFd>) {
    if grouping == Grouping::NewGroup {
        command.process_group(0);
    }
    if grouping != Grouping::NewSession && inherited.is_empty() {
        return;
    }
    let between_fork_and_exec = move || {
        if grouping == Grouping::NewSession {
            rustix::process::setsid()?;
        }
        inherited
            .iter()
            .try_for_each(|fd| stay_open_across_exec(fd.as_fd()))?;
        Ok(())
    };
    // SAFETY: the closure makes system calls that are async-signal-safe (setsid, fcntl) and nothing else: it neither allocates
    // nor takes a lock, and the descriptors it uses are owned by it.
    unsafe { command.pre_exec(between_fork_and_exec) };
}

fn stay_open_across_exec(fd: BorrowedFd<'_>) -> rustix::io::Result<()> {
    fcntl_setfd(fd, FdFlags::empty())
}

impl Spec {
    /// Leaves a descriptor open in the child, with the same number, which the caller puts into the arguments.
    #[must_use]
    pub fn inherit_fd(mut self, fd: OwnedFd) -> Self {
        self.inherited.push(fd);
        self
    }
}

/// The space that a file takes, in bytes; a gap takes none.
pub(crate) fn space_taken(metadata: &Metadata) -> u64 {
    // In units of 512 bytes, whatever the file system's own are.
    metadata.blocks() * 512
}

/// Sets the mode that a file is created with (less the umask).
pub(crate) fn open_mode(options: &mut OpenOptions, mode: u32) -> &mut OpenOptions {
    options.mode(mode)
}

/// Raises the soft limit on open files to the hard one and returns it; `None`: no limit.
pub(crate) fn raise_open_files() -> io::Result<Option<u64>> {
    let mut limit = getrlimit(Resource::Nofile);
    let most = match (limit.maximum, MOST_OPEN_FILES) {
        (Some(maximum), Some(most)) => Some(maximum.min(most)),
        (maximum, most) => maximum.or(most),
    };
    if limit.current != most {
        limit.current = most;
        setrlimit(Resource::Nofile, limit)?;
    }
    Ok(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_on_files_becomes_the_hard_one() {
        let before = getrlimit(Resource::Nofile);
        assert_eq!(raise_open_files().unwrap(), before.maximum);
        assert_eq!(getrlimit(Resource::Nofile).current, before.maximum);
    }
}
