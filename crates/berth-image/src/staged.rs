//! Files that appear under their name only when they are whole.

use std::fs::File;
use std::path::{Path, PathBuf};

use crate::error::ImageError;
use crate::sys;

/// A file being written beside its destination, as `DESTINATION.tmp`. Dropped without [`Staged::commit`], it is gone.
///
/// The name is fixed, so that what a killed process left behind is overwritten by the next attempt; callers hold the lock of
/// the directory (of the instance, of the cache entry).
#[derive(Debug)]
pub struct Staged {
    destination: PathBuf,
    temporary: PathBuf,
    committed: bool,
}

impl Staged {
    /// Names the temporary file and removes a stale one. Makes none yet: `qemu-img` makes its own.
    pub fn new(destination: &Path) -> Result<Self, ImageError> {
        let mut name = destination.as_os_str().to_owned();
        name.push(".tmp");
        let temporary = PathBuf::from(name);
        match std::fs::remove_file(&temporary) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(ImageError::io("remove", &temporary)(error)),
        }
        Ok(Self {
            destination: destination.to_owned(),
            temporary,
            committed: false,
        })
    }

    /// Creates the temporary file, empty, for reading and writing.
    pub fn create(&self) -> Result<File, ImageError> {
        File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&self.temporary)
            .map_err(ImageError::io("create", &self.temporary))
    }

    /// Where the content goes until [`Staged::commit`].
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.temporary
    }

    /// Writes the content to the medium and gives it its name.
    pub fn commit(mut self) -> Result<(), ImageError> {
        let file = File::open(&self.temporary).map_err(ImageError::io("open", &self.temporary))?;
        sys::sync(&file).map_err(ImageError::io("write", &self.temporary))?;
        drop(file);
        std::fs::rename(&self.temporary, &self.destination)
            .map_err(ImageError::io("rename a new file to", &self.destination))?;
        self.committed = true;
        if let Some(directory) = self.destination.parent() {
            sys::sync_directory(directory).map_err(ImageError::io("write", directory))?;
        }
        Ok(())
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.committed {
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}

/// Writes a small file whole: temporary, synced, renamed.
pub fn write_small(destination: &Path, content: &[u8]) -> Result<(), ImageError> {
    use std::io::Write as _;
    let staged = Staged::new(destination)?;
    let mut file = staged.create()?;
    file.write_all(content)
        .map_err(ImageError::io("write", staged.path()))?;
    drop(file);
    staged.commit()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_appears_and_nothing_stays_without_commit() {
        let dir = tempfile::tempdir().unwrap();
        let destination = dir.path().join("disk");
        std::fs::write(dir.path().join("disk.tmp"), "left by a killed process").unwrap();
        let staged = Staged::new(&destination).unwrap();
        staged.create().unwrap();
        drop(staged);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn commit_replaces_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let destination = dir.path().join("a,b c");
        std::fs::write(&destination, "old").unwrap();
        write_small(&destination, b"new").unwrap();
        assert_eq!(std::fs::read(&destination).unwrap(), b"new");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
