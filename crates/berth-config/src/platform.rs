//! What resolution must know of the host. A value, so that tests can be any host.

use std::path::PathBuf;

use crate::model::Arch;
use crate::size::Size;

/// Host operating system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the systems' own names")]
pub enum HostOs {
    Linux,
    Darwin,
    Windows,
    /// Any other Unix.
    Other,
}

/// The host as configuration, drivers and tests see it. Libraries never ask the machine themselves.
#[derive(Debug, Clone)]
pub struct HostPlatform {
    /// Operating system.
    pub os: HostOs,
    /// CPU architecture.
    pub arch: Arch,
    /// Version of the system, e.g. macOS `13.2`; empty where it decides nothing.
    pub os_version: String,
    /// Logical CPUs.
    pub cpus: u32,
    /// Physical memory.
    pub memory: Size,
    /// The user's home directory.
    pub home: PathBuf,
    /// Login name.
    pub user: String,
    /// Full name, or empty.
    pub user_comment: String,
    /// Numeric user id; 0 when the agent runs as root (the guest user is then `lima`, uid 1000).
    pub uid: u32,
    /// Stable machine id (`/etc/machine-id`, `IOPlatformUUID`, else the host name).
    pub machine_id: String,
    /// IANA time zone name, or empty when unknown.
    pub timezone: String,
    /// Directory for temporary files (`/tmp`).
    pub temp_dir: PathBuf,
}

impl HostPlatform {
    /// Longest path of a unix socket, with its terminating zero byte (`sizeof sun_path`).
    #[must_use]
    pub fn unix_path_max(&self) -> usize {
        match self.os {
            HostOs::Linux | HostOs::Windows => 108,
            HostOs::Darwin | HostOs::Other => 104,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A Linux host with eight CPUs and 16 GiB.
    pub(crate) fn linux() -> HostPlatform {
        HostPlatform {
            os: HostOs::Linux,
            arch: Arch::X8664,
            os_version: String::new(),
            cpus: 8,
            memory: Size::from_bytes(16 << 30),
            home: PathBuf::from("/home/jane"),
            user: "jane".to_owned(),
            user_comment: "Jane Doe".to_owned(),
            uid: 501,
            machine_id: "0123456789abcdef".to_owned(),
            timezone: "Europe/Berlin".to_owned(),
            temp_dir: PathBuf::from("/var/tmp"),
        }
    }
}
