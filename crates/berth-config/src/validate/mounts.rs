//! Host directories in the guest.

use std::io::ErrorKind;

use crate::model::{Config, GuestOs};

use super::Findings;

/// Directories that a mount would make unusable.
const RESERVED: [&str; 10] = [
    "/", "/bin", "/dev", "/etc", "/home", "/opt", "/sbin", "/tmp", "/usr", "/var",
];

pub(super) fn check(config: &Config, findings: &mut Findings) {
    for (index, mount) in config.mounts.iter().enumerate() {
        let key = format!("mounts[{index}].location");
        let location = &mount.location;
        match std::fs::metadata(location) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => findings.add(
                key,
                format!(
                    "{} is no directory: only directories can be mounted",
                    location.display()
                ),
            ),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => findings.add(
                key,
                format!("cannot look at {}: {error}", location.display()),
            ),
        }
        if location.to_str() != Some(&mount.mount_point) || mount.mount_point.starts_with('/') {
            check_mount_point(config, index, &mount.mount_point, findings);
        }
    }
}

fn check_mount_point(config: &Config, index: usize, mount_point: &str, findings: &mut Findings) {
    let key = format!("mounts[{index}].mountPoint");
    if config.os != GuestOs::Windows && !mount_point.starts_with('/') {
        findings.add(
            key,
            format!("{mount_point:?} must be an absolute path in the guest"),
        );
        return;
    }
    let trimmed = match mount_point.trim_end_matches('/') {
        "" => "/",
        trimmed => trimmed,
    };
    if RESERVED.contains(&trimmed) {
        findings.add(
            key,
            format!("{mount_point:?} is a directory of the guest's system: choose another one"),
        );
    } else if trimmed == config.user.home.trim_end_matches('/') {
        findings.add(
            key,
            format!(
                "{mount_point:?} is the home directory of the guest's user: choose another one"
            ),
        );
    }
}
