//! Everything but Linux.

use std::io;
use std::path::Path;
use std::time::Duration;

use crate::qemu::accel::Hardware;

/// Assumed to work; QEMU's own list of accelerators and its first words decide.
pub(crate) fn acceleration() -> Hardware {
    Hardware::Usable
}

/// Tells when files may have appeared in a directory. Here nothing tells, so it is often.
#[derive(Debug)]
pub(crate) struct DirectoryWatch;

impl DirectoryWatch {
    /// Begins to watch.
    #[allow(
        clippy::unnecessary_wraps,
        reason = "the signature of the Linux version"
    )]
    pub(crate) fn new(_directory: &Path) -> io::Result<Self> {
        Ok(Self)
    }

    /// Waits until it is worth looking again.
    pub(crate) async fn changed(&mut self) -> io::Result<()> {
        tokio::time::sleep(Duration::from_millis(10)).await;
        Ok(())
    }
}
