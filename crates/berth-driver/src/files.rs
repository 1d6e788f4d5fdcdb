//! Files of an instance that every driver knows.

use std::io::ErrorKind;
use std::path::PathBuf;

use berth_image::disk::DiskFiles;
use berth_image::select::ImageFiles;
use berth_instance::dir::InstanceDir;

use crate::error::DriverError;

/// What [`berth_image::disk`] needs of an instance.
#[must_use]
pub fn disk_files(dir: &InstanceDir) -> DiskFiles {
    DiskFiles {
        image: dir.image(),
        disk: dir.disk(),
        iso: dir.iso(),
        base_disk: dir.base_disk(),
        diff_disk: dir.diff_disk(),
    }
}

/// What [`berth_image::select`] needs of an instance.
#[must_use]
pub fn image_files(dir: &InstanceDir) -> ImageFiles {
    ImageFiles {
        image: dir.image(),
        kernel: dir.kernel(),
        kernel_cmdline: dir.kernel_cmdline(),
        initrd: dir.initrd(),
    }
}

/// Removes files, whether or not they are there. Goes on after a failure, and reports the first.
pub(crate) fn remove_all(paths: impl IntoIterator<Item = PathBuf>) -> Result<(), DriverError> {
    let mut first = Ok(());
    for path in paths {
        match std::fs::remove_file(&path) {
            Err(source) if source.kind() != ErrorKind::NotFound => {
                let error = DriverError::Io {
                    verb: "remove",
                    path,
                    source,
                };
                first = first.and(Err(error));
            }
            _ => {}
        }
    }
    first
}
