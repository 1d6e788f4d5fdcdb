//! What depends on the operating system: how a path is held beneath a directory, and what is done to what it names.
//!
//! | file | for |
//! |---|---|
//! | `linux.rs` | `openat2`, and objects that are held by a descriptor without being opened (`O_PATH`) |
//! | `elsewhere.rs` | other unix systems: objects that are a directory and a name in it |
//! | `streams.rs` | descriptors and tokio |
//! | `walk.rs` | name by name without following: where the kernel has no `openat2`, and for absolute symlinks |

#[cfg(not(target_os = "linux"))]
mod elsewhere;
#[cfg(target_os = "linux")]
mod linux;
pub(crate) mod streams;
pub(crate) mod walk;

#[cfg(not(target_os = "linux"))]
pub(crate) use elsewhere::{
    Kernel, Listing, Object, SEARCH, attributes, flush_before_close, identity, is_local,
    permissions, read_cached,
};
#[cfg(target_os = "linux")]
pub(crate) use linux::{
    Kernel, Listing, Object, SEARCH, attributes, flush_before_close, identity, is_local,
    permissions, read_cached,
};

use std::sync::Arc;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};

/// Whether symlinks are followed at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Links {
    /// Those that stay beneath.
    Follow,
    /// None.
    Refuse,
}

/// What a path means whose last name is a symlink.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Last {
    /// What it leads to.
    Target,
    /// The link.
    Itself,
}

/// How far an attempt goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effort {
    /// Only what is in the kernel's caches: nothing that could wait for a disk.
    Cached,
    /// As far as it takes.
    Full,
}

/// A directory beneath the shared one, or that one.
#[derive(Debug, Clone)]
pub(crate) enum Directory {
    Top(Arc<OwnedFd>),
    Beneath(Arc<OwnedFd>),
}

impl AsFd for Directory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Top(fd) | Self::Beneath(fd) => fd.as_fd(),
        }
    }
}
