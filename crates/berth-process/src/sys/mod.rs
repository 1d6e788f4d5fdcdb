//! What differs by operating system, behind one set of names:
//!
//! - `look_at(pid)`, `boot_id()`: who a process is;
//! - `Handle`: a process that can be waited for and signalled without mistaking another for it;
//! - `Growth`: the event that a file was written to; `space_taken`, `drop_beginning`: keeping it small;
//! - `set_up(command, …)`: sessions, groups and inherited descriptors of a child;
//! - `raise_open_files()`.

#[cfg(unix)]
mod unix;

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
pub(crate) use linux::{Growth, boot_id, drop_beginning, look_at};

#[cfg(all(unix, not(target_os = "linux")))]
mod macos;
#[cfg(all(unix, not(target_os = "linux")))]
pub(crate) use macos::{Growth, boot_id, drop_beginning, look_at};

#[cfg(unix)]
pub(crate) use unix::{Handle, InheritedFd, open_mode, raise_open_files, set_up, space_taken};

#[cfg(windows)]
mod windows;
#[cfg(windows)]
pub(crate) use windows::{
    Growth, Handle, InheritedFd, boot_id, drop_beginning, look_at, open_mode, raise_open_files,
    set_up, space_taken,
};

/// A process as the system shows it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seen {
    /// Start time, in a unit of the system's.
    pub(crate) start_time: u64,
    /// Whether it runs still, as opposed to having ended without being waited for.
    pub(crate) running: bool,
}
