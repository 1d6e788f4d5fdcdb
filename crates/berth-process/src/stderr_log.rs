//! The file that a child writes its stderr to, by itself: it goes on when the agent is gone.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use crate::escape::escape_untrusted_lines;
use crate::sys;

/// How much of the end is shown in errors.
const TAIL_BYTES: u64 = 4 * 1024;

/// A stderr file that takes a limited space.
///
/// The child appends; when the file takes more space than its limit, the older part is dropped. Where the file system can, that
/// leaves a gap of zero bytes at the beginning, which is closed when the child has ended; elsewhere the file is rewritten, and what
/// the child writes at that very moment may be lost. Without an agent nothing is dropped.
#[derive(Debug, Clone)]
pub struct StderrLog {
    path: PathBuf,
    max_bytes: u64,
}

impl StderrLog {
    /// Makes the file, or empties it, and opens it for the child.
    pub(crate) fn create(path: PathBuf, max_bytes: u64) -> io::Result<(Self, File)> {
        let mut options = OpenOptions::new();
        // Appending, so that what the child writes after a cut lands at the new end.
        let file = sys::open_mode(options.create(true).append(true), 0o644).open(&path)?;
        file.set_len(0)?;
        Ok((Self { path, max_bytes }, file))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The last lines (at most 4 KiB), escaped. Empty when there are none or the file cannot be read.
    #[must_use]
    pub fn tail(&self) -> String {
        let read = File::open(&self.path).and_then(|mut file| last_bytes(&mut file, TAIL_BYTES));
        let bytes = read.unwrap_or_default();
        escape_untrusted_lines(bytes.trim_ascii_end())
    }

    /// Drops the older part when the file takes more space than its limit. Half of the limit stays.
    pub(crate) fn cut(&self) -> io::Result<()> {
        let Some(file) = self.open()? else {
            return Ok(());
        };
        let metadata = file.metadata()?;
        if sys::space_taken(&metadata) <= self.max_bytes {
            return Ok(());
        }
        match sys::drop_beginning(&file, metadata.len().saturating_sub(self.max_bytes / 2)) {
            Err(why) if why.kind() == io::ErrorKind::Unsupported => self.rewrite(file),
            other => other,
        }
    }

    /// Rewrites a file that is longer than its limit, when nobody writes to it any more.
    pub(crate) fn close_gap(&self) -> io::Result<()> {
        match self.open()? {
            Some(file) if file.metadata()?.len() > self.max_bytes => self.rewrite(file),
            _ => Ok(()),
        }
    }

    fn rewrite(&self, mut file: File) -> io::Result<()> {
        let mut kept = b"[older lines dropped]\n".to_vec();
        kept.extend(last_bytes(&mut file, self.max_bytes / 2)?);
        file.set_len(0)?;
        file.write_all(&kept)
    }

    /// Opens the file as the child did; `None` when somebody removed it.
    fn open(&self) -> io::Result<Option<File>> {
        match OpenOptions::new().read(true).append(true).open(&self.path) {
            Ok(file) => Ok(Some(file)),
            Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(why) => Err(why),
        }
    }

    /// Cuts whenever necessary, for ever.
    pub(crate) async fn keep_small(&self) {
        if let Err(why) = self.cut_on_growth().await {
            tracing::warn!(path = %self.path.display(), error = %why, "cannot limit the size of a stderr log");
        }
        std::future::pending::<()>().await;
    }

    async fn cut_on_growth(&self) -> io::Result<()> {
        let mut growth = sys::Growth::watch(&self.path)?;
        loop {
            self.cut()?;
            growth.next().await?;
        }
    }
}

/// At most `limit` bytes of the end, from the beginning of a line where there is one.
fn last_bytes(file: &mut File, limit: u64) -> io::Result<Vec<u8>> {
    let skipped = file.metadata()?.len().saturating_sub(limit);
    file.seek(SeekFrom::Start(skipped))?;
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes)?;
    let gap = bytes.iter().take_while(|&&b| b == 0).count();
    bytes.drain(..gap);
    if (skipped > 0 || gap > 0)
        && let Some(end) = bytes.iter().position(|&b| b == b'\n')
        && end + 1 < bytes.len()
    {
        bytes.drain(..=end);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(max_bytes: u64) -> (tempfile::TempDir, StderrLog, File) {
        let dir = tempfile::tempdir().unwrap();
        let (log, file) = StderrLog::create(dir.path().join("vm.stderr.log"), max_bytes).unwrap();
        (dir, log, file)
    }

    #[test]
    fn an_earlier_life_is_forgotten() {
        let (_dir, log, mut file) = log(100);
        file.write_all(b"old\n").unwrap();
        let (log, _) = StderrLog::create(log.path().to_owned(), 100).unwrap();
        assert_eq!(log.tail(), "");
    }

    #[test]
    fn the_tail_is_short_whole_lines_and_escaped() {
        let (_dir, log, mut file) = log(1 << 20);
        file.write_all(&b"x".repeat(10_000)).unwrap();
        file.write_all(b"\nqemu: \x1b[31mno such disk\nthe end\n\n")
            .unwrap();
        assert_eq!(log.tail(), "qemu: \\u{1b}[31mno such disk\nthe end");
    }

    #[test]
    fn one_endless_line_still_has_a_tail() {
        let (_dir, log, mut file) = log(1 << 20);
        file.write_all(&b"y".repeat(10_000)).unwrap();
        assert_eq!(log.tail(), "y".repeat(4096));
    }

    #[test]
    fn a_cut_keeps_the_end_and_the_writer_goes_on_behind_it() {
        const LIMIT: u64 = 64 * 1024;
        let (_dir, log, mut file) = log(LIMIT);
        for i in 0..10_000 {
            writeln!(file, "line {i:04}").unwrap();
        }
        log.cut().unwrap();
        assert!(sys::space_taken(&file.metadata().unwrap()) <= LIMIT);
        assert!(log.tail().ends_with("\nline 9999"), "{}", log.tail());
        writeln!(file, "after").unwrap();
        log.close_gap().unwrap();
        let text = std::fs::read_to_string(log.path()).unwrap();
        assert!(text.starts_with("[older lines dropped]\nline "), "{text:?}");
        assert!(text.ends_with("line 9999\nafter\n"), "{text:?}");
        assert!(text.len() as u64 <= LIMIT / 2 + 22, "{}", text.len());
    }

    #[test]
    fn where_no_gap_can_be_made_the_file_is_rewritten() {
        let (_dir, log, mut file) = log(100);
        for i in 0..30 {
            writeln!(file, "line {i:02}").unwrap();
        }
        log.rewrite(log.open().unwrap().unwrap()).unwrap();
        writeln!(file, "after").unwrap();
        let text = std::fs::read_to_string(log.path()).unwrap();
        assert!(
            text.starts_with("[older lines dropped]\nline 2"),
            "{text:?}"
        );
        assert!(text.ends_with("line 29\nafter\n"), "{text:?}");
    }

    #[test]
    fn a_tail_does_not_show_the_gap() {
        let (_dir, log, mut file) = log(1 << 20);
        file.write_all(&[0; 100]).unwrap();
        file.write_all(b"rest of a line\nwhole\n").unwrap();
        assert_eq!(log.tail(), "whole");
    }

    #[test]
    fn a_removed_file_is_no_error() {
        let (_dir, log, _file) = log(1);
        std::fs::remove_file(log.path()).unwrap();
        log.cut().unwrap();
        log.close_gap().unwrap();
        assert_eq!(log.tail(), "");
    }
}
