//! `inotify(7)` and `pwritev2(2)`.
#![allow(
    unsafe_code,
    reason = "tokio's safe registration of descriptors is deprecated"
)]

use std::fs::File;
use std::io::{self, IoSlice, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::{Errno, ReadWriteFlags, pwritev2};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Says that a file was written to, or that names of its directory changed.
#[derive(Debug)]
pub(crate) struct Changes {
    inotify: AsyncFd<OwnedFd>,
    /// Watch of the file that is open now.
    file: Option<i32>,
}

impl Changes {
    /// Watches the names in a directory. Not what is written to its files: the disk of a VM may be one of them.
    pub(crate) fn of_directory(directory: &Path) -> io::Result<Self> {
        let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let names = WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR;
        inotify::add_watch(&fd, directory, names)?;
        // SAFETY: the descriptor is owned, so it is open, and it stays the same until the `AsyncFd` is dropped.
        let inotify = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?;
        Ok(Self {
            inotify,
            file: None,
        })
    }

    /// Watches what is written to an open file, in place of an earlier one.
    pub(crate) fn also_of(&mut self, file: &File) -> io::Result<()> {
        let inotify = self.inotify.get_ref();
        if let Some(earlier) = self.file.take() {
            // Gone already when the file was deleted.
            let _ = inotify::remove_watch(inotify, earlier);
        }
        // By descriptor, not by name: the name may lead to another file by now.
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        self.file = Some(inotify::add_watch(inotify, path, WatchFlags::MODIFY)?);
        Ok(())
    }

    /// Waits for a change since the last call.
    pub(crate) async fn next(&mut self) -> io::Result<()> {
        let mut ready = self.inotify.readable().await?;
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(self.inotify.get_ref(), &mut buffer);
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

/// Writes as much as there is room for in a pipe or socket. A regular file takes everything there is space for.
pub(crate) fn write_without_waiting(file: &mut File, bytes: &[u8]) -> io::Result<usize> {
    if file.metadata()?.is_file() {
        return file.write(bytes);
    }
    // At the current position, as write(2) does.
    let here = u64::MAX;
    match pwritev2(&*file, &[IoSlice::new(bytes)], here, ReadWriteFlags::NOWAIT) {
        // Terminals and other devices do not know the flag.
        Err(Errno::OPNOTSUPP) => file.write(bytes),
        other => Ok(other?),
    }
}
