//! Sweeping and removing instance directories.

use std::io;
use std::path::PathBuf;

use crate::dir::InstanceDir;

/// Endings of what belongs to a life, not to the instance.
const OF_A_LIFE: [&str; 3] = [".pid", ".sock", ".tmp"];

/// An instance cannot be removed, or not in full.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeleteError {
    /// The user protected it.
    #[error("instance is protected; allow it with `limactl unprotect` (removes {})", .0.display())]
    Protected(PathBuf),
    /// A file operation failed.
    #[error("cannot {verb} {}", .path.display())]
    Io {
        /// What was being done.
        verb: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Removes what a killed agent or VM left: every `*.pid`, `*.sock` and `*.tmp`. Goes on after a failure, and returns all.
///
/// Only for an instance of which nothing runs.
#[must_use]
pub fn sweep(dir: &InstanceDir) -> Vec<DeleteError> {
    let mut errors = Vec::new();
    let error = |verb, path: &std::path::Path| {
        let path = path.to_owned();
        move |source| DeleteError::Io { verb, path, source }
    };
    let entries = match std::fs::read_dir(dir.path()) {
        Ok(entries) => entries,
        Err(why) if why.kind() == io::ErrorKind::NotFound => return errors,
        Err(why) => return vec![error("list", dir.path())(why)],
    };
    for entry in entries {
        let entry = match entry {
            Ok(entry) => entry,
            Err(why) => {
                errors.push(error("list", dir.path())(why));
                continue;
            }
        };
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_dir = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_dir || !OF_A_LIFE.iter().any(|ending| name.ends_with(ending)) {
            continue;
        }
        match std::fs::remove_file(entry.path()) {
            Err(why) if why.kind() != io::ErrorKind::NotFound => {
                errors.push(error("remove", &entry.path())(why));
            }
            _ => {}
        }
    }
    errors
}

/// Whether the user protected the instance from being deleted.
#[must_use]
pub fn is_protected(dir: &InstanceDir) -> bool {
    dir.protected().symlink_metadata().is_ok()
}

/// Removes the directory with everything in it; one that is gone already is fine. Links are removed, not followed.
///
/// Only for an instance of which nothing runs.
pub fn remove(dir: &InstanceDir) -> Result<(), DeleteError> {
    if is_protected(dir) {
        return Err(DeleteError::Protected(dir.protected()));
    }
    match std::fs::remove_dir_all(dir.path()) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => Err(DeleteError::Io {
            verb: "remove",
            path: dir.path().to_owned(),
            source: why,
        }),
        _ => Ok(()),
    }
}
