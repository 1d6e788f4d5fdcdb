//! macOS: news of the host's configuration of names, by `notify(3)`.
#![allow(unsafe_code, reason = "notify(3) has no safe wrapper")]

use std::ffi::{CStr, c_char, c_int};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd, ioctl_fionbio};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::host::HostFiles;

unsafe extern "C" {
    // Of `notify.h`, in the system's own library.
    fn notify_register_file_descriptor(
        name: *const c_char,
        fd: *mut c_int,
        flags: c_int,
        token: *mut c_int,
    ) -> u32;
    fn notify_cancel(token: c_int) -> u32;
}

/// Of `notify.h`: the descriptor is one that it has made before.
const NOTIFY_REUSE: c_int = 1;
const NOTIFY_STATUS_OK: u32 = 0;

/// What is told: the system's name servers and search domains are others; so are its interfaces and addresses; its clock was set.
const NEWS: [&CStr; 3] = [
    c"com.apple.system.SystemConfiguration.dns_configuration",
    c"com.apple.system.config.network_change",
    c"com.apple.system.clock_set",
];

/// Says when the host's configuration of names, or its network, may have changed. A change of `/etc/hosts` is not told: the system
/// reads it, and its addresses are not kept for long.
#[derive(Debug)]
pub(crate) struct HostChanges {
    news: AsyncFd<OwnedFd>,
    _subscriptions: Vec<Subscription>,
}

impl HostChanges {
    /// Begins to watch.
    pub(crate) fn watch(_files: &HostFiles) -> io::Result<Self> {
        let mut subscriptions = Vec::new();
        let mut fd = -1;
        for name in NEWS {
            subscriptions.push(Subscription::new(name, &mut fd)?);
        }
        // SAFETY: it is open until the last subscription is cancelled.
        let theirs = unsafe { BorrowedFd::borrow_raw(fd) };
        fcntl_setfd(theirs, fcntl_getfd(theirs)? | FdFlags::CLOEXEC)?;
        ioctl_fionbio(theirs, true)?;
        // One of our own, so that it does not matter who is closed first.
        let ours = theirs.try_clone_to_owned()?;
        // SAFETY: the descriptor is owned, so it is open, and it stays the same until the `AsyncFd` is dropped.
        let news = unsafe { AsyncFd::register_with_interest(ours, Interest::READABLE) }?;
        Ok(Self {
            news,
            _subscriptions: subscriptions,
        })
    }

    /// Waits until something may have changed since the last call.
    pub(crate) async fn next(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.news.readable().await?;
            // Which of them it was, is all the same.
            let read = ready.try_io(|fd| Ok(rustix::io::read(fd, &mut [0; 256])?));
            match read {
                Ok(Ok(0)) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(read) => return read.map(drop),
                Err(_) => {}
            }
        }
    }
}

/// A standing order for news.
#[derive(Debug)]
struct Subscription(c_int);

impl Subscription {
    /// `fd` is where the news come out; -1 before the first.
    fn new(name: &CStr, fd: &mut c_int) -> io::Result<Self> {
        let flags = if *fd < 0 { 0 } else { NOTIFY_REUSE };
        let mut token = 0;
        // SAFETY: the name ends in zero; both numbers are the caller's and ours, and live longer than the call.
        let status =
            unsafe { notify_register_file_descriptor(name.as_ptr(), fd, flags, &raw mut token) };
        if status == NOTIFY_STATUS_OK {
            Ok(Self(token))
        } else {
            let why = format!("notify(3) does not tell of {name:?}: status {status}");
            Err(io::Error::other(why))
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        // SAFETY: the token came with the subscription and is given back once.
        unsafe { notify_cancel(self.0) };
    }
}
