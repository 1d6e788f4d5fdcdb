//! Files of an instance that belong to one life of its VM.

use std::path::PathBuf;

use berth_instance::dir::InstanceDir;

use crate::error::DriverError;
use crate::files::remove_all;

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
