//! Other Unixes: only what they have in common.

/// Memory of the machine in bytes; 0 when unknown.
pub(crate) fn physical_memory() -> u64 {
    0
}

/// Version of the system; decides nothing here.
pub(crate) fn os_version() -> String {
    String::new()
}

/// An id that stays with the machine, or nothing.
pub(crate) fn machine_id() -> Option<String> {
    None
}
