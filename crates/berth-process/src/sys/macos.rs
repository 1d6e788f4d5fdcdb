//! libproc, sysctl and kqueue. Type-checked in CI, run by hand.
#![allow(
    unsafe_code,
    reason = "proc_pidinfo, sysctlbyname and kevent have no safe form"
)]

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::event::Timespec;
use rustix::event::kqueue::{
    Event, EventFilter, EventFlags, ProcessEvents, VnodeEvents, kevent_timespec, kqueue,
};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, WaitIdStatus, kill_process, waitid};
use tokio::io::unix::AsyncFd;

use super::Seen;
use super::unix::when_readable;

/// `OPEN_MAX`: the system refuses a higher soft limit, also when the hard one is infinite.
pub(super) const MOST_OPEN_FILES: Option<u64> = Some(10_240);

/// Asks libproc for the start time, in microseconds since 1970.
pub(crate) fn look_at(pid: u32) -> io::Result<Seen> {
    let pid = i32::try_from(pid).map_err(|_| io::ErrorKind::NotFound)?;
    let mut info = MaybeUninit::<libc::proc_bsdinfo>::zeroed();
    let size = i32::try_from(size_of::<libc::proc_bsdinfo>()).unwrap_or(i32::MAX);
    // SAFETY: the buffer is writable and `size` is its length.
    let filled = unsafe {
        libc::proc_pidinfo(
            pid,
            libc::PROC_PIDTBSDINFO,
            0,
            info.as_mut_ptr().cast(),
            size,
        )
    };
    if filled < size {
        let why = io::Error::last_os_error();
        let gone = why.raw_os_error() == Some(libc::ESRCH);
        return Err(if gone {
            io::ErrorKind::NotFound.into()
        } else {
            why
        });
    }
    // SAFETY: zeroed, then filled in full by the system; every bit pattern is a valid value.
    let info = unsafe { info.assume_init() };
    let start_time = info.pbi_start_tvsec * 1_000_000 + info.pbi_start_tvusec;
    Ok(Seen {
        start_time,
        running: info.pbi_status != libc::SZOMB,
    })
}

/// The kernel's random id of this boot.
pub(crate) fn boot_id() -> io::Result<String> {
    let mut buffer = [0_u8; 64];
    let mut length = buffer.len();
    // SAFETY: the name ends with zero, the buffer is writable and `length` is its length; nothing is set.
    let result = unsafe {
        libc::sysctlbyname(
            c"kern.bootsessionuuid".as_ptr(),
            buffer.as_mut_ptr().cast(),
            &raw mut length,
            std::ptr::null_mut(),
            0,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let text = buffer[..length]
        .split(|&b| b == 0)
        .next()
        .unwrap_or_default();
    Ok(String::from_utf8_lossy(text).into_owned())
}

/// A kqueue that becomes readable when the process ends.
pub(super) fn exit_fd(pid: Pid) -> rustix::io::Result<OwnedFd> {
    let filter = EventFilter::Proc {
        pid,
        flags: ProcessEvents::EXIT,
    };
    subscribe(filter, EventFlags::ADD | EventFlags::ONESHOT)
}

fn subscribe(filter: EventFilter, flags: EventFlags) -> rustix::io::Result<OwnedFd> {
    let queue = kqueue()?;
    let change = Event::new(filter, flags, std::ptr::null_mut());
    let mut none: [Event; 0] = [];
    // SAFETY: the filters used here name a process, or a file that outlives the queue.
    unsafe { kevent_timespec(&queue, &[change], &mut none[..], None) }?;
    Ok(queue)
}

pub(super) fn send(_fd: BorrowedFd<'_>, pid: Pid, signal: Signal) -> rustix::io::Result<()> {
    // Without pidfd: a child's pid is not given away before we reap it, and callers ask nothing of a process after its end.
    kill_process(pid, signal)
}

pub(super) fn wait_id(
    _fd: BorrowedFd<'_>,
    pid: Pid,
    options: WaitIdOptions,
) -> rustix::io::Result<Option<WaitIdStatus>> {
    waitid(WaitId::Pid(pid), options)
}

/// Not done here: the file is rewritten instead.
pub(crate) fn drop_beginning(_file: &File, _bytes: u64) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Says when a file was written to.
#[derive(Debug)]
pub(crate) struct Growth {
    queue: AsyncFd<OwnedFd>,
    _file: File,
}

impl Growth {
    /// Watches an existing file.
    pub(crate) fn watch(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let flags = VnodeEvents::WRITE | VnodeEvents::EXTEND;
        let filter = EventFilter::Vnode {
            vnode: file.as_raw_fd(),
            flags,
        };
        let queue = subscribe(filter, EventFlags::ADD | EventFlags::CLEAR)?;
        Ok(Self {
            queue: when_readable(queue)?,
            _file: file,
        })
    }

    /// Waits until it was written to since the last call.
    pub(crate) async fn next(&mut self) -> io::Result<()> {
        let mut ready = self.queue.readable().await?;
        let mut events = Vec::with_capacity(1);
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let space = rustix::buffer::spare_capacity(&mut events);
        // SAFETY: nothing is subscribed here.
        match unsafe { kevent_timespec(self.queue.get_ref(), &[], space, Some(&at_once)) } {
            Ok(_) | Err(Errno::INTR) => {}
            Err(why) => return Err(why.into()),
        }
        ready.clear_ready();
        Ok(())
    }
}
