use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::path::Path;

use tokio::io::DuplexStream;

/// Whether there is such a file: names decide what can be run.
pub(crate) fn is_executable(path: &Path) -> bool {
    path.is_file()
}

/// Access lists are inherited from the user's profile.
pub(crate) fn others_may_read(_: &Metadata) -> bool {
    false
}

/// Makes a directory and what lies above it.
pub(crate) fn make_private_dir(path: &Path) -> io::Result<()> {
    std::fs::create_dir_all(path)
}

/// Locks a file beside the directory until it is dropped, and waits for whoever holds it. Lima locks the same way.
pub(crate) fn lock_directory(path: &Path) -> io::Result<File> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(name)?;
    file.lock()?;
    Ok(file)
}

/// OpenSSH for Windows has no control sockets.
#[allow(clippy::unused_async, reason = "the same signature on every system")]
pub(crate) async fn remove_stale_socket(_: &Path) -> io::Result<bool> {
    Ok(false)
}

/// There is none: OpenSSH for Windows talks to agents through named pipes.
#[derive(Debug)]
pub(crate) enum Listener {}

impl Listener {
    /// Fails.
    pub(crate) fn bind(_: &Path) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        match *self {}
    }

    /// Waits for a connection.
    #[allow(clippy::unused_async, reason = "the same signature on every system")]
    pub(crate) async fn accept(&self) -> io::Result<DuplexStream> {
        match *self {}
    }
}

/// Fails.
#[allow(clippy::unused_async, reason = "the same signature on every system")]
pub(crate) async fn connect(_: &Path) -> io::Result<DuplexStream> {
    Err(io::ErrorKind::Unsupported.into())
}
