//! File events: what changes in a shared directory on the host is told to the guest, whose agent touches it there, so that its kernel
//! tells those who watch it.
//!
//! ```text
//! host     inotify, a thread → pending: each path once, bounded → batch → guest
//! guest    sets the file's times → its kernel tells watchers → SFTP → the server knows the time that is meant: nothing changes
//! ```
//!
//! Nothing is lost: what does not fit is looked for again, by the time of its last change. A batch that the guest has not confirmed is
//! told again.

mod feed;
pub(crate) mod pending;

use std::time::SystemTime;

pub use feed::{FileEvents, LinkRaiser, Raiser, Stamp};

/// How much of a directory is seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sight {
    /// It was not looked at yet.
    Dark,
    /// Everything.
    Clear,
    /// Not everything, or nothing: why, for people.
    Partly(String),
}

/// What tells whether a file is another than before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) modified: SystemTime,
    pub(crate) size: u64,
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
}
