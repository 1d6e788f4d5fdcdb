//! Names by which the guest finds its shared directories and disks. The guest computes nothing: cidata carries the same names
//! (`berth-cidata`, `devices.rs`; a test here holds the two together).

use std::path::Path;

use berth_image::digest::sha256_hex;

/// Longest serial number of a virtio block device.
const SERIAL_MAX: usize = 20;

/// Device tag of a mount: `lima-` and 16 hex digits of the SHA-256 of `LOCATION:MOUNTPOINT`, as Lima names it.
#[must_use]
pub fn mount_tag(location: &Path, mount_point: &str) -> String {
    let hash = sha256_hex(format!("{}:{mount_point}", location.display()).as_bytes());
    format!("lima-{}", &hash[..16])
}

/// Serial number of an additional disk: its name, or, where that has more than the 20 bytes of a virtio serial number, its
/// first 10 characters and 10 hex digits of its SHA-256.
#[must_use]
pub fn disk_serial(name: &str) -> String {
    if name.len() <= SERIAL_MAX {
        return name.to_owned();
    }
    let hash = sha256_hex(name.as_bytes());
    let head = name.get(..SERIAL_MAX / 2).unwrap_or_default();
    format!("{head}{}", &hash[..SERIAL_MAX / 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_is_told_the_same_names() {
        for name in [
            "data",
            "exactly-20-bytes-big",
            "longer-than-a-serial-number-may-be",
        ] {
            assert_eq!(disk_serial(name), berth_cidata::devices::disk_serial(name));
            assert!(disk_serial(name).len() <= SERIAL_MAX);
        }
        let location = Path::new("/home/me/a, b");
        assert_eq!(
            mount_tag(location, "/mnt/x"),
            berth_cidata::devices::mount_tag(location, "/mnt/x")
        );
    }
}
