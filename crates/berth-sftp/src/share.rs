//! What is shared, and how much a client may ask for.

use std::path::PathBuf;
use std::time::Duration;

/// A directory of the host and how it is shared. Paths of the client begin at it: `/` is this directory.
#[derive(Debug, Clone)]
pub struct Share {
    /// The directory of the host. It must exist; symlinks on the way to it are the host's own business and are followed.
    pub directory: PathBuf,
    /// Whether the client may change anything.
    pub writable: bool,
    /// Whether the server follows symlinks whose targets are beneath the directory, absolute ones too. Otherwise no symlink is
    /// followed at all, and whatever names one means the link itself. Targets outside are never followed.
    pub follow_symlinks: bool,
    /// Setting both times of something to this many seconds since 1970 succeeds if it is there, and changes nothing, whether the
    /// share is writable or not: the client's kernel then tells its programs of a change.
    pub touch: Option<u32>,
    /// What the thread that runs [`serve`](crate::serve()) may do.
    pub caller: Caller,
    /// How much the client may ask for.
    pub limits: Limits,
}

impl Share {
    /// A directory with the defaults: read-only, no symlinks followed, served from a thread that must not block.
    #[must_use]
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            writable: false,
            follow_symlinks: false,
            touch: None,
            caller: Caller::MustNotBlock,
            limits: Limits::default(),
        }
    }
}

/// What the thread that runs [`serve`](crate::serve()) may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Caller {
    /// It has other work: it answers only what the kernel has in its caches, everything else is left to threads of the share.
    #[default]
    MustNotBlock,
    /// It has nothing else to do: it may wait for disks as long as one request at a time is asked. For programs of their own.
    MayBlock,
}

/// How much a client may ask for.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Open files and directories at a time.
    pub handles: usize,
    /// Requests that are read but not answered yet. More wait in the carrier.
    pub requests: usize,
    /// Bytes of requests and replies in memory, beyond one of each.
    pub memory: usize,
    /// Threads that wait for disks.
    pub threads: usize,
    /// After how long without work a thread ends.
    pub linger: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handles: 2048,
            requests: 128,
            memory: 4 << 20,
            threads: 4,
            linger: Duration::from_secs(10),
        }
    }
}
