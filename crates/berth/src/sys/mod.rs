//! What depends on the operating system: who the user is, what the machine is, and replacing this process.

#[cfg(not(any(unix, windows)))]
compile_error!("berth runs on Unix and Windows");

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;
#[cfg(all(unix, not(any(target_os = "linux", target_os = "macos"))))]
mod other_unix;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(target_os = "linux")]
pub(crate) use linux::{machine_id, os_version, physical_memory};
#[cfg(target_os = "macos")]
pub(crate) use macos::{machine_id, os_version, physical_memory};
#[cfg(all(unix, not(any(target_os = "linux", target_os = "macos"))))]
pub(crate) use other_unix::{machine_id, os_version, physical_memory};
#[cfg(unix)]
pub(crate) use unix::*;
#[cfg(windows)]
pub(crate) use windows::*;

/// The account that runs this process, as the system knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Account {
    /// Login name.
    pub(crate) name: String,
    /// Full name, or empty.
    pub(crate) comment: String,
    /// Home directory.
    pub(crate) home: std::path::PathBuf,
}
