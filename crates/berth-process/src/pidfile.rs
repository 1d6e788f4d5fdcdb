//! Pid files, as Lima writes and reads them: a decimal number and a line feed, mode 0644.
//!
//! They carry what Lima's CLI expects and prove nothing: who is alive is decided by locks and by
//! [`ProcessIdentity`](crate::identity::ProcessIdentity).

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use crate::escape::escape_untrusted;
use crate::sys;

/// More than any pid needs.
const MAX_BYTES: u64 = 64;

/// A pid file cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PidFileError {
    /// A file operation failed.
    #[error("cannot {verb} the pid file {}", .path.display())]
    Io {
        /// What was being done.
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The content is no pid.
    #[error("the pid file {} holds {content:?}, which is no process id; remove it if nothing runs", .path.display())]
    Garbage {
        /// The file.
        path: PathBuf,
        /// Its content, escaped and cut.
        content: String,
    },
}

fn io_error(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PidFileError {
    move |source| PidFileError::Io {
        verb,
        path: path.to_owned(),
        source,
    }
}

/// Writes a pid. A reader sees the old content or the new one, never an empty file.
pub fn write(path: &Path, pid: u32) -> Result<(), PidFileError> {
    // The ending is one that a forced stop sweeps up.
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{}.tmp", std::process::id()));
    let temporary = PathBuf::from(temporary);
    let written = create(&temporary)
        .and_then(|mut file| file.write_all(format!("{pid}\n").as_bytes()))
        .and_then(|()| std::fs::rename(&temporary, path));
    if written.is_err() {
        // Best effort: what made the writing fail may also forbid this.
        let _ = std::fs::remove_file(&temporary);
    }
    written.map_err(io_error("write", path))
}

fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    sys::open_mode(options.write(true).create(true).truncate(true), 0o644).open(path)
}

/// Reads a pid; `None` when there is no file.
pub fn read(path: &Path) -> Result<Option<u32>, PidFileError> {
    let mut content = Vec::new();
    let result = File::open(path).and_then(|file| file.take(MAX_BYTES).read_to_end(&mut content));
    match result {
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(io_error("read", path))?,
    };
    let pid = std::str::from_utf8(&content)
        .ok()
        .and_then(|text| text.trim().parse().ok());
    match pid {
        Some(pid) if pid > 0 => Ok(Some(pid)),
        _ => Err(PidFileError::Garbage {
            path: path.to_owned(),
            content: escape_untrusted(&content),
        }),
    }
}

/// Removes a pid file if it names this pid, and returns whether it did. Another's file stays.
pub fn remove_if_names(path: &Path, pid: u32) -> Result<bool, PidFileError> {
    if read(path)? != Some(pid) {
        return Ok(false);
    }
    match std::fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(why) => Err(io_error("remove", path)(why)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_is_a_number_and_a_line_feed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ha.pid");
        write(&path, 4711).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "4711\n");
        write(&path, 12).unwrap();
        assert_eq!(read(&path).unwrap(), Some(12));
        assert_eq!(
            std::fs::read_dir(dir.path()).unwrap().count(),
            1,
            "temporary files left"
        );
    }

    #[test]
    fn others_write_pids_without_a_line_feed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qemu.pid");
        std::fs::write(&path, " 33 ").unwrap();
        assert_eq!(read(&path).unwrap(), Some(33));
    }

    #[test]
    fn a_missing_file_is_no_pid() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(&dir.path().join("ha.pid")).unwrap(), None);
    }

    #[test]
    fn garbage_is_named_with_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ha.pid");
        let long = vec![b'7'; 1 << 20];
        for garbage in [
            &b""[..],
            b"\n",
            b"0",
            b"-5",
            b"12 13",
            b"99999999999",
            b"\xff\x1b[2J",
            &long,
        ] {
            std::fs::write(&path, garbage).unwrap();
            let why = read(&path).unwrap_err();
            assert!(matches!(why, PidFileError::Garbage { .. }), "{garbage:?}");
            let text = why.to_string();
            assert!(
                text.contains("ha.pid") && !text.contains('\x1b') && text.len() < 400,
                "{text}"
            );
        }
    }

    #[test]
    fn only_our_own_file_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ha.pid");
        write(&path, 1).unwrap();
        assert!(!remove_if_names(&path, 2).unwrap());
        assert!(path.exists());
        assert!(remove_if_names(&path, 1).unwrap());
        assert!(!remove_if_names(&path, 1).unwrap());
    }

    #[test]
    fn a_directory_that_cannot_be_written_is_named() {
        let why = write(Path::new("/proc/no/such/ha.pid"), 1).unwrap_err();
        assert!(why.to_string().contains("/proc/no/such/ha.pid"), "{why}");
    }
}
