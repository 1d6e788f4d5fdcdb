//! macOS: `sysctl` and the hardware's UUID. Type-checked in CI, run by hand.
#![allow(unsafe_code, reason = "sysctlbyname and gethostuuid have no safe form")]

use std::ffi::CStr;
use std::fmt::Write as _;
use std::ptr;

/// Memory of the machine in bytes; 0 when unknown.
pub(crate) fn physical_memory() -> u64 {
    let bytes = sysctl(c"hw.memsize").unwrap_or_default();
    bytes.try_into().map_or(0, u64::from_ne_bytes)
}

/// Version of macOS, e.g. `15.3`, or empty.
pub(crate) fn os_version() -> String {
    let bytes = sysctl(c"kern.osproductversion").unwrap_or_default();
    CStr::from_bytes_until_nul(&bytes)
        .map(|text| text.to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// The hardware's UUID in upper case, which is `IOPlatformUUID`.
pub(crate) fn machine_id() -> Option<String> {
    let mut uuid = [0_u8; 16];
    let at_once = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the buffer has the 16 bytes that gethostuuid writes, and the time limit is a valid timespec.
    let failed = unsafe { libc::gethostuuid(uuid.as_mut_ptr(), &raw const at_once) };
    if failed != 0 {
        return None;
    }
    let mut text = String::new();
    for (index, byte) in uuid.iter().enumerate() {
        if [4, 6, 8, 10].contains(&index) {
            text.push('-');
        }
        let _ = write!(text, "{byte:02X}");
    }
    Some(text)
}

fn sysctl(name: &CStr) -> Option<Vec<u8>> {
    let mut value = vec![0_u8; 256];
    let mut length = value.len();
    // SAFETY: the name ends in a zero byte, the buffer is writable for `length` bytes, and no new value is given.
    let failed = unsafe {
        libc::sysctlbyname(
            name.as_ptr(),
            value.as_mut_ptr().cast(),
            &raw mut length,
            ptr::null_mut(),
            0,
        )
    };
    value.truncate(length);
    (failed == 0).then_some(value)
}
