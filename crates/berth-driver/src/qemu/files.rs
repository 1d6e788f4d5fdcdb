//! Files of an instance that belong to one life of its VM.

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

/// Sockets that QEMU and swtpm listen on.
pub(super) fn sockets(dir: &InstanceDir) -> Vec<PathBuf> {
    vec![
        dir.qmp_sock(),
        dir.qmp_berth_sock(),
        dir.ga_link_sock(),
        dir.serial_sock(),
        dir.serialp_sock(),
        dir.serialv_sock(),
        dir.swtpm_sock(),
    ]
}

/// The socket of a share's virtiofsd.
pub(super) fn virtiofsd_socket(dir: &InstanceDir, index: usize) -> PathBuf {
    dir.path().join(format!("virtiofsd-{index}.sock"))
}

/// What virtiofsd leaves: its sockets, and files beside them (`.pid`, which it locks, and ours with its messages).
fn of_virtiofsd(dir: &InstanceDir) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir.path())
        .into_iter()
        .flatten()
        .flatten();
    entries
        .filter(|entry| {
            entry
                .file_name()
                .to_string_lossy()
                .starts_with("virtiofsd-")
        })
        .map(|entry| entry.path())
        .collect()
}

/// Removes what an earlier life left: sockets, console logs, VNC files. Only under the instance's lock.
pub(super) fn clear_before_start(dir: &InstanceDir) -> Result<(), DriverError> {
    let logs = [dir.serial_log(), dir.serialp_log(), dir.serialv_log()];
    let left = of_virtiofsd(dir).into_iter();
    remove_all(left.chain(sockets(dir)).chain(logs).chain(ended(dir)))
}

/// Removes what a VM that is gone leaves, except its logs.
pub(super) fn clear_after_end(dir: &InstanceDir) -> Result<(), DriverError> {
    let is_no_log = |path: &PathBuf| path.extension().is_none_or(|extension| extension != "log");
    let left = of_virtiofsd(dir).into_iter().filter(is_no_log);
    remove_all(left.chain(sockets(dir)).chain(ended(dir)))
}

fn ended(dir: &InstanceDir) -> [PathBuf; 3] {
    [dir.vm_pid("qemu"), dir.vnc_display(), dir.vnc_password()]
}

/// Goes on after a failure, and reports the first.
fn remove_all(paths: impl IntoIterator<Item = PathBuf>) -> Result<(), DriverError> {
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
