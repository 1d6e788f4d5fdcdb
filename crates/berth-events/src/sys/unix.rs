//! poll(2) and inode numbers.

use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Whether a write would be taken now, after waiting for it at most this long. Errors count as yes: the write will tell.
pub(crate) fn has_room(file: &File, patience: Duration) -> bool {
    let mut fds = [PollFd::new(file, PollFlags::OUT)];
    let patience = Timespec::try_from(patience).ok();
    !matches!(poll(&mut fds, patience.as_ref()), Ok(0))
}

/// Which file a name leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileId(u64, u64);

impl FileId {
    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self(metadata.dev(), metadata.ino())
    }
}
