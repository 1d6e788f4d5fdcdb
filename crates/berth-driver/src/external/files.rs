//! Files of an external driver in the instance's directory.

use std::path::PathBuf;

use berth_instance::dir::InstanceDir;

/// Where its server listens.
pub(super) fn socket(dir: &InstanceDir, name: &str) -> PathBuf {
    dir.path().join(format!("{name}.drv.sock"))
}

/// Its server's pid, written by whoever started it.
pub(super) fn server_pid(dir: &InstanceDir, name: &str) -> PathBuf {
    dir.path().join(format!("{name}.drv.pid"))
}
