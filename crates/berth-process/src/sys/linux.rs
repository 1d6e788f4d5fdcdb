//! `/proc`, pidfd and inotify.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate, inotify};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus, pidfd_open, pidfd_send_signal,
    waitid,
};
use tokio::io::unix::AsyncFd;

use super::Seen;
use super::unix::{gone_is_not_found, when_readable};

/// The system takes any soft limit up to the hard one.
pub(super) const MOST_OPEN_FILES: Option<u64> = None;

/// Reads `/proc/PID/stat` (`proc_pid_stat(5)`): field 3 is the state, field 22 the start time in ticks since boot.
pub(crate) fn look_at(pid: u32) -> io::Result<Seen> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).map_err(|why| {
        // The process may end between the opening and the reading.
        Errno::from_io_error(&why).map_or(why, gone_is_not_found)
    })?;
    parse_stat(&stat).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("/proc/{pid}/stat is not understood"),
        )
    })
}

fn parse_stat(stat: &str) -> Option<Seen> {
    // Field 2 is the program's name in parentheses, and may contain both kinds itself.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?;
    let start_time = fields.nth(22 - 4)?.parse().ok()?;
    Some(Seen {
        start_time,
        running: !matches!(state, "Z" | "X" | "x"),
    })
}

/// The kernel's random id of this boot.
pub(crate) fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?
        .trim()
        .to_owned())
}

pub(super) fn exit_fd(pid: Pid) -> rustix::io::Result<OwnedFd> {
    pidfd_open(pid, PidfdFlags::NONBLOCK)
}

pub(super) fn send(fd: BorrowedFd<'_>, _pid: Pid, signal: Signal) -> rustix::io::Result<()> {
    pidfd_send_signal(fd, signal)
}

pub(super) fn wait_id(
    fd: BorrowedFd<'_>,
    _pid: Pid,
    options: WaitIdOptions,
) -> rustix::io::Result<Option<WaitIdStatus>> {
    match waitid(WaitId::PidFd(fd), options) {
        // What a non-blocking pidfd says instead of nothing.
        Err(Errno::AGAIN) => Ok(None),
        other => other,
    }
}

/// Gives back the space of a file's first bytes; they read as zero then. Safe beside a writer that appends.
pub(crate) fn drop_beginning(file: &File, bytes: u64) -> io::Result<()> {
    let gap = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match fallocate(file, gap, 0, bytes) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Err(io::ErrorKind::Unsupported.into()),
        other => Ok(other?),
    }
}

/// Says when a file was written to.
#[derive(Debug)]
pub(crate) struct Growth(AsyncFd<OwnedFd>);

impl Growth {
    /// Watches an existing file.
    pub(crate) fn watch(path: &Path) -> io::Result<Self> {
        let fd = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC)?;
        inotify::add_watch(&fd, path, inotify::WatchFlags::MODIFY)?;
        Ok(Self(when_readable(fd)?))
    }

    /// Waits until it was written to since the last call.
    pub(crate) async fn next(&mut self) -> io::Result<()> {
        let mut ready = self.0.readable().await?;
        let mut buffer = [MaybeUninit::uninit(); 1024];
        let mut events = inotify::Reader::new(self.0.get_ref(), &mut buffer);
        loop {
            match events.next() {
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    ready.clear_ready();
                    return Ok(());
                }
                Err(why) => return Err(why.into()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_may_be_named_like_a_stat_line() {
        let tail = "1 1 1 0 -1 4194560 1 0 0 0 2 1 0 0 20 0 1 0 4711 2 3";
        let seen = parse_stat(&format!("42 (a) R (Z 1) S {tail}")).unwrap();
        assert_eq!((seen.start_time, seen.running), (4711, true));
        assert!(!parse_stat(&format!("42 (sleep) Z {tail}")).unwrap().running);
    }

    #[test]
    fn cut_lines_are_refused() {
        let whole = "42 (sleep) S 1 1 1 0 -1 4194560 1 0 0 0 2 1 0 0 20 0 1 0 4711";
        assert!(parse_stat(whole).is_some());
        let before_the_last_field = whole.rfind(' ').unwrap();
        for end in 0..=before_the_last_field {
            assert!(parse_stat(&whole[..end]).is_none(), "{:?}", &whole[..end]);
        }
    }
}
