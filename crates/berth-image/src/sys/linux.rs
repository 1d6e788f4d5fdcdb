//! Linux.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;

use rustix::fs::SeekFrom;
use rustix::io::Errno;

/// Makes `to` share the blocks of `from`. `false`: this file system cannot.
pub(crate) fn clone_file(from: &File, to: &File) -> io::Result<bool> {
    match rustix::fs::ioctl_ficlone(to, from) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::XDEV | Errno::INVAL | Errno::NOTTY | Errno::TXTBSY) => {
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

/// The next range at or after `offset` that holds data; `None` when only a hole follows.
pub(crate) fn next_data(file: &File, offset: u64, len: u64) -> io::Result<Option<Range<u64>>> {
    let start = match rustix::fs::seek(file, SeekFrom::Data(offset)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        Err(Errno::INVAL) => return Ok((offset < len).then_some(offset..len)),
        Err(error) => return Err(error.into()),
    };
    let end = rustix::fs::seek(file, SeekFrom::Hole(start))?;
    Ok(Some(start..end))
}

/// Writes a file's content to the medium.
pub(crate) fn sync(file: &File) -> io::Result<()> {
    file.sync_all()
}

/// Writes a directory's entries to the medium.
pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// The file to lock for a cache entry: the directory itself, as Lima does.
pub(crate) fn open_entry_lock(entry: &Path) -> io::Result<File> {
    File::open(entry)
}

/// Makes a directory that only its owner can enter, with its parents.
pub(crate) fn create_private_dir(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
}

/// Makes a symbolic link `link` that says `target`.
pub(crate) fn symlink(target: &str, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}
