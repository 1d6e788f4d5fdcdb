//! What differs by operating system.

use std::io;
use std::path::{Path, PathBuf};

#[cfg(target_os = "linux")]
mod text;
#[cfg(target_os = "linux")]
pub(crate) use text::let_go_of_code;

/// Elsewhere nothing is let go of.
#[cfg(not(target_os = "linux"))]
#[allow(clippy::unnecessary_wraps, reason = "it fails on Linux")]
pub(crate) fn let_go_of_code() -> std::io::Result<()> {
    Ok(())
}

#[cfg(unix)]
mod unix;
#[cfg(unix)]
pub(crate) use unix::{LocalListener, Signals, connect_local};

#[cfg(windows)]
mod windows;
#[cfg(windows)]
pub(crate) use windows::{LocalListener, Signals, connect_local};

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
pub(crate) use linux::ClockWatch;

#[cfg(not(target_os = "linux"))]
mod elsewhere;
#[cfg(not(target_os = "linux"))]
pub(crate) use elsewhere::ClockWatch;

#[cfg(unix)]
mod folder_unix;
#[cfg(unix)]
pub(crate) use folder_unix::Folder;

#[cfg(not(unix))]
mod folder_other;
#[cfg(not(unix))]
pub(crate) use folder_other::Folder;

/// What a name of a [`Folder`] stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Entry {
    /// It is free.
    Nothing,
    /// A regular file, with its permissions.
    File { mode: u32 },
    /// A directory, a link, or something else.
    Other,
}

/// Why a [`Folder`] cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FolderError {
    /// The system refuses.
    #[error("cannot open the directory {}", .path.display())]
    Io { path: PathBuf, source: io::Error },
    /// What the guest may have made is not followed.
    #[error(
        "{} leads elsewhere, and the guest could have made it do so: name the directory itself",
        .0.display()
    )]
    Link(PathBuf),
}

impl FolderError {
    fn io(path: &Path, why: impl Into<io::Error>) -> Self {
        Self::Io {
            path: path.to_owned(),
            source: why.into(),
        }
    }

    /// Whether there is no such directory.
    pub(crate) fn is_missing(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }
}
