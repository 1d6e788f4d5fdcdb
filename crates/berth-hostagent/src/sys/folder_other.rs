//! A directory by its path, where directories cannot be held open. Checked by type, and by hand.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::{Entry, FolderError};

/// The directory.
#[derive(Debug)]
pub(crate) struct Folder(PathBuf);

impl Folder {
    /// Goes to an absolute path, and makes the directories that are missing if `make`.
    pub(crate) fn open(path: &Path, make: bool, _guests: &[PathBuf]) -> Result<Self, FolderError> {
        if make {
            fs::create_dir_all(path).map_err(|why| FolderError::io(path, why))?;
        }
        fs::read_dir(path).map_err(|why| FolderError::io(path, why))?;
        Ok(Self(path.to_owned()))
    }

    /// Creates a file that does not exist yet, for writing.
    pub(crate) fn create(&self, name: &OsStr, _mode: u32) -> io::Result<File> {
        File::create_new(self.0.join(name))
    }

    /// What a name stands for.
    pub(crate) fn look(&self, name: &OsStr) -> io::Result<Entry> {
        match fs::symlink_metadata(self.0.join(name)) {
            Ok(found) if found.is_file() => Ok(Entry::File { mode: 0o600 }),
            Ok(_) => Ok(Entry::Other),
            Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(Entry::Nothing),
            Err(why) => Err(why),
        }
    }

    /// Gives a file another name; what had it is replaced.
    pub(crate) fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        fs::rename(self.0.join(from), self.0.join(to))
    }

    /// Removes a name, unless it is a directory's.
    pub(crate) fn remove(&self, name: &OsStr) -> io::Result<()> {
        fs::remove_file(self.0.join(name))
    }

    /// Nobody asks the file system: a full one refuses.
    #[allow(
        clippy::unnecessary_wraps,
        clippy::unused_self,
        reason = "elsewhere it is asked"
    )]
    pub(crate) fn room(&self) -> io::Result<u64> {
        Ok(u64::MAX)
    }
}
