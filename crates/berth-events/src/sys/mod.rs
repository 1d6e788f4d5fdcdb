//! What differs by operating system: writing without waiting, and waiting for a file to change.

#[cfg(unix)]
mod unix;
#[cfg(unix)]
pub(crate) use unix::{FileId, has_room};

#[cfg(windows)]
mod windows;
#[cfg(windows)]
pub(crate) use windows::{FileId, has_room};

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
pub(crate) use linux::{Changes, write_without_waiting};

#[cfg(not(target_os = "linux"))]
mod polling;
#[cfg(not(target_os = "linux"))]
pub(crate) use polling::{Changes, write_without_waiting};
