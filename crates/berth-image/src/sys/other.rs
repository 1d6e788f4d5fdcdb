//! Everything else: no clones, no knowledge of holes; correct, if slower.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;

/// `false`: blocks are not shared here.
#[allow(
    clippy::unnecessary_wraps,
    reason = "the signature of the Linux version"
)]
pub(crate) fn clone_file(_from: &File, _to: &File) -> io::Result<bool> {
    Ok(false)
}

/// Everything from `offset` on counts as data.
#[allow(
    clippy::unnecessary_wraps,
    reason = "the signature of the Linux version"
)]
pub(crate) fn next_data(_file: &File, offset: u64, len: u64) -> io::Result<Option<Range<u64>>> {
    Ok((offset < len).then_some(offset..len))
}

/// Writes a file's content to the medium. Windows refuses that for a file opened for reading; its rename is ordered anyway.
pub(crate) fn sync(file: &File) -> io::Result<()> {
    if cfg!(windows) {
        Ok(())
    } else {
        file.sync_all()
    }
}

/// Writes a directory's entries to the medium, where directories can be opened.
pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    if cfg!(windows) {
        Ok(())
    } else {
        File::open(path)?.sync_all()
    }
}

/// The file to lock for a cache entry: the directory itself, on Windows a file beside it, as Lima does.
pub(crate) fn open_entry_lock(entry: &Path) -> io::Result<File> {
    if cfg!(windows) {
        let mut name = entry.as_os_str().to_owned();
        name.push(".lock");
        File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(name)
    } else {
        File::open(entry)
    }
}

/// Makes a directory for its owner, with its parents.
pub(crate) fn create_private_dir(path: &Path) -> io::Result<()> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::DirBuilderExt as _;
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
    }
    #[cfg(not(unix))]
    {
        std::fs::create_dir_all(path)
    }
}

/// Makes a symbolic link `link` that says `target`.
pub(crate) fn symlink(target: &str, link: &Path) -> io::Result<()> {
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink(target, link)
    }
    #[cfg(not(unix))]
    {
        std::os::windows::fs::symlink_file(target, link)
    }
}
