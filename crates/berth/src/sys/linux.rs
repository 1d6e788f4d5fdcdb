//! Linux: `/proc` and `/etc`.

use std::fs;

/// Memory of the machine in bytes; 0 when unknown.
pub(crate) fn physical_memory() -> u64 {
    let info = rustix::system::sysinfo();
    // The width of `totalram` differs by architecture.
    #[allow(
        clippy::useless_conversion,
        reason = "32-bit systems have a smaller type"
    )]
    let pages = u64::from(info.totalram);
    pages.saturating_mul(u64::from(info.mem_unit))
}

/// Version of the system; decides nothing on Linux.
pub(crate) fn os_version() -> String {
    String::new()
}

/// An id that stays with the machine, or nothing.
pub(crate) fn machine_id() -> Option<String> {
    ["/etc/machine-id", "/var/lib/dbus/machine-id"]
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .map(|id| id.trim().to_owned())
        .find(|id| !id.is_empty())
}
