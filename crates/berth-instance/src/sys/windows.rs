//! Windows. Type-checked in CI, run by hand.

use std::fs::{File, OpenOptions};
use std::io;
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;

/// Modes do not exist here.
pub(crate) fn open_mode(options: &mut OpenOptions, _mode: u32) -> &mut OpenOptions {
    options
}

/// Makes a directory, private by what it inherits from the user's profile; one that exists is an error.
pub(crate) fn create_private_dir(path: &Path) -> io::Result<()> {
    std::fs::create_dir(path)
}

/// Not needed: NTFS journals names.
#[allow(clippy::unnecessary_wraps, reason = "fails on the other systems")]
pub(crate) fn sync_directory(_path: &Path) -> io::Result<()> {
    Ok(())
}

/// Whether the name still leads to this open file: a locked file cannot be removed here.
pub(crate) fn same_file(_file: &File, path: &Path) -> io::Result<bool> {
    path.try_exists()
}

/// Directories cannot be locked; a file inside stands for it.
pub(crate) fn lock_directory(path: &Path) -> io::Result<File> {
    let file = File::create(path.join(".lock"))?;
    file.lock()?;
    Ok(file)
}

/// Makes a symbolic link; one that exists is an error.
pub(crate) fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::windows::fs::symlink_dir(target, link)
}

/// What [`connect`] gives.
pub(crate) type Stream = TcpStream;

/// The standard library has no unix sockets here. Until there is a client, instances are judged by their locks and pids.
pub(crate) fn connect(_path: &Path, _patience: Duration) -> io::Result<Stream> {
    Err(io::Error::new(
        io::ErrorKind::Unsupported,
        "no unix sockets on this system",
    ))
}
