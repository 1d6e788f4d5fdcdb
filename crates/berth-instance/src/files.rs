//! Writing a file so that nobody ever sees half of it.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sys;

/// Keeps threads of this process apart.
static COUNTER: AtomicU64 = AtomicU64::new(0);

/// Replaces a file: a reader sees the old content or the new one, also after a power cut. A link is replaced, not followed.
///
/// `mode` is what the file gets, less the umask. On failure the old file stands and nothing else is left.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let temporary = temporary_beside(path);
    let result =
        write_new(&temporary, bytes, mode).and_then(|()| std::fs::rename(&temporary, path));
    if result.is_err() {
        // Best effort: what made the writing fail may also forbid this.
        let _ = std::fs::remove_file(&temporary);
    }
    result?;
    match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => sys::sync_directory(directory),
        _ => sys::sync_directory(Path::new(".")),
    }
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    // Left by a process of the same number that was killed; its mode may forbid opening it.
    match std::fs::remove_file(path) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => return Err(why),
        _ => {}
    }
    let mut options = OpenOptions::new();
    let mut file = sys::open_mode(options.write(true).create_new(true), mode).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// A name of our own in the same directory, with the ending that a forced stop sweeps up.
fn temporary_beside(path: &Path) -> PathBuf {
    let mut name = path.file_name().map_or_else(OsString::new, OsString::from);
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    name.push(format!(".{}-{number}.tmp", std::process::id()));
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        // A directory in the way of the rename.
        let path = dir.path().join("berth.json");
        std::fs::create_dir(&path).unwrap();
        assert!(write_atomic(&path, b"new", 0o600).is_err());
        let left: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(left, ["berth.json"]);
    }

    #[test]
    fn a_link_is_replaced_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, target) = (dir.path().join("ssh.config"), dir.path().join("precious"));
        std::fs::write(&target, "precious").unwrap();
        sys::symlink(&target, &path).unwrap();
        write_atomic(&path, b"new", 0o600).unwrap();
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "precious");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
    }

    #[test]
    fn a_missing_directory_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let why = write_atomic(&dir.path().join("no/file"), b"", 0o600).unwrap_err();
        assert_eq!(why.kind(), io::ErrorKind::NotFound);
    }
}
