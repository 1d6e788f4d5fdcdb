//! Files of one life of such a VM.

use std::path::PathBuf;

use berth_instance::dir::InstanceDir;

use crate::error::DriverError;
use crate::files::remove_all;

/// Leads to sshd's vsock port. Lima's name.
pub(super) fn ssh_sock(dir: &InstanceDir) -> PathBuf {
    dir.path().join("ssh-vsock.sock")
}

/// Rung by the guest agent.
pub(super) fn bell_sock(dir: &InstanceDir) -> PathBuf {
    dir.path().join("ga-bell.sock")
}

/// The program's HTTP service.
pub(super) fn rest_sock(dir: &InstanceDir) -> PathBuf {
    dir.path().join("vm.sock")
}

/// Every socket.
pub(super) fn sockets(dir: &InstanceDir) -> [PathBuf; 4] {
    [dir.ga_sock(), ssh_sock(dir), bell_sock(dir), rest_sock(dir)]
}

/// Removes what an earlier life left. A socket that is still there would keep the program from making it, which vfkit only
/// warns of. Only under the instance's lock.
pub(super) fn clear_before_start(dir: &InstanceDir, driver: &str) -> Result<(), DriverError> {
    let others = [dir.serialv_log(), dir.vm_pid(driver)];
    remove_all(sockets(dir).into_iter().chain(others))
}

/// Removes what a VM that is gone leaves, except its logs.
pub(super) fn clear_after_end(dir: &InstanceDir, driver: &str) -> Result<(), DriverError> {
    remove_all(sockets(dir).into_iter().chain([dir.vm_pid(driver)]))
}
