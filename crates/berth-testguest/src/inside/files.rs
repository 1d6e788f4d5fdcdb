//! The files that a guest is put together from, opened before our mounts hide their paths.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, Result};
use rustix::fs::{Mode, OFlags};

use super::Boot;

/// Descriptors of what lies on the host.
#[derive(Debug)]
pub(super) struct Sources {
    /// Root file system.
    pub(super) rootfs: OwnedFd,
    /// Directory with `upper` and `work`.
    pub(super) state: Option<OwnedFd>,
    /// The cidata volume.
    pub(super) cidata: Option<File>,
    /// Directory of unix sockets in the place of vsock.
    pub(super) vsock: Option<OwnedFd>,
}

impl Sources {
    /// Opens them.
    pub(super) fn open(boot: &Boot) -> Result<Self> {
        let cidata = boot.cidata.as_deref().map(|path| {
            File::open(path).with_context(|| format!("open the cidata volume {}", path.display()))
        });
        Ok(Self {
            rootfs: open_directory(&boot.rootfs)?,
            state: boot.state.as_deref().map(open_directory).transpose()?,
            cidata: cidata.transpose()?,
            vsock: boot.vsock.as_deref().map(open_directory).transpose()?,
        })
    }
}

fn open_directory(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
        .with_context(|| format!("open the directory {}", path.display()))
}

/// A path to a descriptor that holds no comma or colon, which mount options could not carry.
pub(super) fn path_of(descriptor: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", descriptor.as_raw_fd())
}
