//! Changes of the kernel's table of mounts.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::sys::when_urgent;

/// Watches `/proc/self/mountinfo`: the kernel marks it as urgent whenever a mount comes or goes.
#[derive(Debug)]
pub(super) struct TableWatch(AsyncFd<OwnedFd>);

impl TableWatch {
    /// Begins: changes from now on are seen.
    pub(super) fn new(table: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(table, flags, Mode::empty())?;
        Ok(Self(when_urgent(fd)?))
    }

    /// Waits for a change. One between two calls is not missed.
    pub(super) async fn changed(&self) -> io::Result<()> {
        let mut ready = self.0.ready(Interest::PRIORITY).await?;
        ready.clear_ready();
        Ok(())
    }
}
