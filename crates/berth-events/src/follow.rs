//! Following a file that another process appends to, line by line.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use crate::sys::{Changes, FileId};

/// Longest line that is delivered whole. The agent's own lines are far below.
pub const MAX_LINE: usize = 256 * 1024;

/// The file cannot be followed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} {}", .path.display())]
pub struct FollowError {
    verb: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// One line, without its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Its bytes, at most [`MAX_LINE`].
    pub bytes: Vec<u8>,
    /// Whether it was longer, and its rest is lost.
    pub cut: bool,
}

/// A reader that waits at the end of a file for more.
///
/// The file may be missing, truncated, deleted and made anew meanwhile; a new file is read from its beginning. Only whole
/// lines are delivered: what a file holds behind its last line feed is delivered when the line feed comes, or never.
#[derive(Debug)]
pub struct Follower {
    path: PathBuf,
    changes: Changes,
    open: Option<OpenFile>,
    lines: Lines,
}

#[derive(Debug)]
struct OpenFile {
    file: File,
    id: FileId,
    position: u64,
}

impl Follower {
    /// Follows from the beginning. The directory must exist, the file need not. Needs a tokio runtime.
    pub fn from_start(path: impl Into<PathBuf>) -> Result<Self, FollowError> {
        let path = path.into();
        let directory = path.parent().unwrap_or(Path::new("."));
        let changes = Changes::of_directory(directory).map_err(|source| FollowError {
            verb: "watch the directory of",
            path: path.clone(),
            source,
        })?;
        Ok(Self {
            path,
            changes,
            open: None,
            lines: Lines::default(),
        })
    }

    /// Follows from the present end: what the file holds now is not delivered.
    pub fn from_end(path: impl Into<PathBuf>) -> Result<Self, FollowError> {
        let mut follower = Self::from_start(path)?;
        follower
            .open_if_there()
            .map_err(|why| follower.error("open", why))?;
        if let Some(open) = &mut follower.open {
            let end = open.file.seek(SeekFrom::End(0));
            open.position = end.map_err(|source| FollowError {
                verb: "read",
                path: follower.path.clone(),
                source,
            })?;
        }
        Ok(follower)
    }

    /// Waits for the next line. Cancelling it loses nothing.
    pub async fn next(&mut self) -> Result<Line, FollowError> {
        loop {
            if let Some(line) = self.try_next()? {
                return Ok(line);
            }
            self.changes
                .next()
                .await
                .map_err(|why| self.error("wait for changes of", why))?;
        }
    }

    /// The next line that is there already.
    pub fn try_next(&mut self) -> Result<Option<Line>, FollowError> {
        loop {
            if let Some(line) = self.lines.take() {
                return Ok(Some(line));
            }
            let more = match &mut self.open {
                None => self
                    .open_if_there()
                    .map_err(|why| self.error("open", why))?,
                Some(open) => {
                    let read = open
                        .read_into(&mut self.lines)
                        .map_err(|why| self.error("read", why))?;
                    read || self
                        .turn_to_new_file()
                        .map_err(|why| self.error("look at", why))?
                }
            };
            if !more {
                return Ok(None);
            }
        }
    }

    fn error(&self, verb: &'static str, source: io::Error) -> FollowError {
        FollowError {
            verb,
            path: self.path.clone(),
            source,
        }
    }

    fn open_if_there(&mut self) -> io::Result<bool> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(why) => return Err(why),
        };
        // Watched before it is read: what is written in between is noticed.
        self.changes.also_of(&file)?;
        let id = FileId::of(&file.metadata()?);
        self.open = Some(OpenFile {
            file,
            id,
            position: 0,
        });
        self.lines = Lines::default();
        Ok(true)
    }

    /// At the end of the file: whether there is a new one by that name, or it begins anew.
    fn turn_to_new_file(&mut self) -> io::Result<bool> {
        let Some(open) = &mut self.open else {
            return Ok(false);
        };
        if open.file.metadata()?.len() < open.position {
            open.position = open.file.seek(SeekFrom::Start(0))?;
            self.lines = Lines::default();
            return Ok(true);
        }
        match std::fs::metadata(&self.path) {
            Ok(now) if FileId::of(&now) != open.id => self.open_if_there(),
            Ok(_) => Ok(false),
            // Deleted: the old one may still be written to until a new one appears.
            Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(why) => Err(why),
        }
    }
}

impl OpenFile {
    /// Reads once; false at the end.
    fn read_into(&mut self, lines: &mut Lines) -> io::Result<bool> {
        let mut buffer = [0; 16 * 1024];
        let read = loop {
            match self.file.read(&mut buffer) {
                Err(why) if why.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        self.position += read as u64;
        lines.add(&buffer[..read]);
        Ok(read > 0)
    }
}

/// Bytes, cut into lines. Holds at most one read and one line.
#[derive(Debug, Default)]
struct Lines {
    bytes: Vec<u8>,
    /// Where the search for a line feed goes on.
    searched: usize,
    /// The rest of a line that was too long is being dropped.
    dropping: bool,
}

impl Lines {
    fn add(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    fn take(&mut self) -> Option<Line> {
        loop {
            let end = self.bytes[self.searched..].iter().position(|&b| b == b'\n');
            let Some(end) = end.map(|found| found + self.searched) else {
                self.searched = self.bytes.len();
                return self.take_beginning_of_long_line();
            };
            let mut bytes: Vec<u8> = self.bytes.drain(..=end).collect();
            self.searched = 0;
            if std::mem::take(&mut self.dropping) {
                continue;
            }
            bytes.pop();
            let cut = bytes.len() > MAX_LINE;
            bytes.truncate(MAX_LINE);
            return Some(Line { bytes, cut });
        }
    }

    fn take_beginning_of_long_line(&mut self) -> Option<Line> {
        if self.dropping {
            self.bytes.clear();
            self.searched = 0;
            return None;
        }
        if self.bytes.len() <= MAX_LINE {
            return None;
        }
        self.dropping = true;
        self.searched = 0;
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.truncate(MAX_LINE);
        Some(Line { bytes, cut: true })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_come_whole_however_they_arrive() {
        let text = b"one\n\ntwo\r\nthree";
        for size in 1..=text.len() {
            let mut lines = Lines::default();
            let mut seen = Vec::new();
            for piece in text.chunks(size) {
                lines.add(piece);
                seen.extend(std::iter::from_fn(|| lines.take()).map(|line| line.bytes));
            }
            assert_eq!(seen, [&b"one"[..], b"", b"two\r"], "pieces of {size}");
        }
    }

    #[test]
    fn an_endless_line_takes_no_endless_memory() {
        let mut lines = Lines::default();
        let mut seen = Vec::new();
        for _ in 0..100 {
            lines.add(&[b'x'; 16 * 1024]);
            seen.extend(std::iter::from_fn(|| lines.take()));
            assert!(lines.bytes.len() <= MAX_LINE);
        }
        lines.add(b"rest\nnext\n");
        seen.extend(std::iter::from_fn(|| lines.take()));
        assert_eq!(seen.len(), 2);
        assert!(seen[0].cut && seen[0].bytes.len() == MAX_LINE);
        assert_eq!(
            seen[1],
            Line {
                bytes: b"next".to_vec(),
                cut: false
            }
        );
    }

    #[test]
    fn a_line_of_the_limit_is_whole() {
        let mut lines = Lines::default();
        lines.add(&vec![b'x'; MAX_LINE]);
        assert_eq!(lines.take(), None);
        lines.add(b"\n");
        assert!(!lines.take().unwrap().cut);
    }
}
