//! How shared directories and disks are named on their way from the driver to the guest.

use std::path::Path;

use berth_config::model::{Mount, MountType};

use crate::digest::sha256_hex;

/// Device tag of a mount, the same for driver and guest: `lima-` and 16 hex digits of the SHA-256 of `LOCATION:MOUNTPOINT`.
#[must_use]
pub fn mount_tag(location: &Path, mount_point: &str) -> String {
    let hash = sha256_hex(&format!("{}:{mount_point}", location.display()));
    format!("lima-{}", &hash[..16])
}

/// Longest serial number of a virtio block device.
const SERIAL_MAX: usize = 20;

/// Serial number of an additional disk, the same for driver and guest: the disk's name, shortened by a hash where the device
/// has no room for it.
#[must_use]
pub fn disk_serial(name: &str) -> String {
    if name.len() <= SERIAL_MAX {
        return name.to_owned();
    }
    let hash = sha256_hex(name);
    let head = name.get(..SERIAL_MAX / 2).unwrap_or_default();
    format!("{head}{}", &hash[..SERIAL_MAX / 2])
}

/// File system type and options of a mount that the guest makes by itself, of a device or of a drive of WSL's host; `None` where the host sets it up later.
pub(crate) fn device_mount(mount: &Mount, mount_type: MountType) -> Option<(&'static str, String)> {
    let access = if mount.writable { "rw" } else { "ro" };
    match mount_type {
        MountType::NineP => {
            let p9 = &mount.nine_p;
            Some((
                "9p",
                format!(
                    "{access},trans=virtio,version={},msize={},cache={}",
                    p9.protocol_version,
                    p9.msize.bytes(),
                    p9.cache
                ),
            ))
        }
        MountType::Virtiofs => Some(("virtiofs", access.to_owned())),
        MountType::Wsl2 => Some(("drvfs", access.to_owned())),
        MountType::ReverseSshfs => None,
    }
}

/// The word for a mount type in lima.yaml and in the guest.
pub(crate) fn mount_type_word(mount_type: MountType) -> &'static str {
    match mount_type {
        MountType::ReverseSshfs => "reverse-sshfs",
        MountType::NineP => "9p",
        MountType::Virtiofs => "virtiofs",
        MountType::Wsl2 => "wsl2",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tag_is_the_hash_that_lima_uses() {
        // printf '/home/me:/home/me' | sha256sum | cut -c1-16
        assert_eq!(
            mount_tag(Path::new("/home/me"), "/home/me"),
            "lima-8f4723a31b057c95"
        );
    }

    #[test]
    fn serial_fits_the_device() {
        assert_eq!(disk_serial("data"), "data");
        let long = disk_serial("a-disk-with-a-long-name-1");
        assert_eq!(long.len(), SERIAL_MAX);
        assert!(long.starts_with("a-disk-wit"));
        assert_ne!(long, disk_serial("a-disk-with-a-long-name-2"));
    }
}
