//! The log of one step: everything its programs print, on the guest's disk, and the end of it for the host.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use berth_link::event::MAX_TAIL;

use crate::files::{Attributes, FileError, ensure_directory, failed};
use crate::guest::Guest;

/// Where the logs of a boot lie; those of an earlier boot are overwritten step by step. For root only: scripts may print
/// secrets.
pub(crate) const LOG_DIRECTORY: &str = "/var/log/lima-guestagent";

/// A file that is made when the first program of the step runs.
#[derive(Debug)]
pub(crate) struct StepLog {
    path: PathBuf,
    started: std::cell::Cell<bool>,
}

impl StepLog {
    /// The log of the step of this name.
    pub(crate) fn new(guest: &Guest, step: &str) -> Self {
        let file = format!("{}.log", step.replace('/', "-"));
        Self {
            path: guest.path(LOG_DIRECTORY).join(file),
            started: false.into(),
        }
    }

    /// Opens it for a program to append to.
    pub(crate) fn open(&self) -> Result<File, FileError> {
        if let Some(directory) = self.path.parent() {
            ensure_directory(directory, Attributes::root(0o700))?;
        }
        let first = !self.started.replace(true);
        let mut options = OpenOptions::new();
        let options = options.create(true).mode(0o600);
        // Appending, so that what a script left running in the background writes does not overwrite others' lines.
        if first {
            let emptied = options.write(true).truncate(true).open(&self.path);
            emptied.map_err(failed("create", &self.path))?;
        }
        let log = OpenOptions::new().append(true).open(&self.path);
        log.map_err(failed("write", &self.path))
    }

    /// The last lines, as far as a report takes them, and `last` after them.
    pub(crate) fn tail(&self, last: &str) -> String {
        let room = MAX_TAIL.saturating_sub(last.len() + 1);
        let printed = if self.started.get() {
            end_of(&self.path, room).unwrap_or_default()
        } else {
            String::new()
        };
        let lines = [printed.trim_end(), last];
        let lines: Vec<&str> = lines.into_iter().filter(|line| !line.is_empty()).collect();
        lines.join("\n")
    }
}

/// The end of a file, in whole lines where it has lines.
fn end_of(path: &Path, room: usize) -> io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    let skipped = length.saturating_sub(room as u64);
    file.seek(SeekFrom::Start(skipped))?;
    let mut bytes = Vec::new();
    file.take(room as u64).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let whole = match text.split_once('\n') {
        Some((_cut, whole)) if skipped > 0 && !whole.is_empty() => whole,
        _ => &text,
    };
    Ok(last_bytes(whole, room).to_owned())
}

/// The end of a text: replacing broken characters can have made it longer than the file.
fn last_bytes(text: &str, room: usize) -> &str {
    let mut from = text.len().saturating_sub(room);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    &text[from..]
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::boot::testing::Scene;

    #[test]
    fn the_tail_is_capped_and_ends_with_the_reason() {
        let scene = Scene::new();
        let log = StepLog::new(&scene.guest, "provision.system/00000003");
        assert_eq!(log.tail("why"), "why");
        let mut file = log.open().unwrap();
        for line in 0..10_000 {
            writeln!(file, "line {line}").unwrap();
        }
        let tail = log.tail("sh exited with code 1");
        assert!(tail.len() <= MAX_TAIL);
        assert!(tail.starts_with("line "), "{}", &tail[..20]);
        assert!(tail.ends_with("line 9999\nsh exited with code 1"));
    }

    #[test]
    fn bytes_that_are_no_text_do_not_outgrow_the_cap() {
        let scene = Scene::new();
        let log = StepLog::new(&scene.guest, "x");
        log.open()
            .unwrap()
            .write_all(&[0xff; 3 * MAX_TAIL])
            .unwrap();
        let tail = log.tail("end");
        assert!(tail.len() <= MAX_TAIL, "{}", tail.len());
        assert!(tail.ends_with("\u{fffd}\nend"));
    }

    #[test]
    fn the_log_of_an_earlier_boot_is_overwritten() {
        let scene = Scene::new();
        StepLog::new(&scene.guest, "x")
            .open()
            .unwrap()
            .write_all(b"old\n")
            .unwrap();
        let log = StepLog::new(&scene.guest, "x");
        assert_eq!(log.tail(""), "", "not this boot's");
        log.open().unwrap().write_all(b"one\n").unwrap();
        log.open().unwrap().write_all(b"two\n").unwrap();
        assert_eq!(log.tail(""), "one\ntwo");
    }
}
