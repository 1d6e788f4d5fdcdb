//! Every Unix.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketType, connect as connect_to, socket_with, sockopt,
};

/// Sets the mode that a file is created with (less the umask).
pub(crate) fn open_mode(options: &mut OpenOptions, mode: u32) -> &mut OpenOptions {
    options.mode(mode)
}

/// Makes a directory for its owner alone; one that exists is an error.
pub(crate) fn create_private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)
}

/// Makes the names in a directory durable.
pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Whether the name still leads to this open file.
pub(crate) fn same_file(file: &File, path: &Path) -> io::Result<bool> {
    let open = file.metadata()?;
    match std::fs::metadata(path) {
        Ok(named) => Ok((open.dev(), open.ino()) == (named.dev(), named.ino())),
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(why) => Err(why),
    }
}

/// Waits for the exclusive lock on a directory, which is held until the result is dropped.
pub(crate) fn lock_directory(path: &Path) -> io::Result<File> {
    let directory = File::open(path)?;
    directory.lock()?;
    Ok(directory)
}

/// Makes a symbolic link; one that exists is an error.
pub(crate) fn symlink(target: &Path, link: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

/// What [`connect`] gives.
pub(crate) type Stream = UnixStream;

/// Connects to a unix socket. Neither the connecting nor a single write blocks for longer than `patience`.
pub(crate) fn connect(path: &Path, patience: Duration) -> io::Result<Stream> {
    let address = SocketAddrUnix::new(path)?;
    let socket = socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        close_on_exec(),
        None,
    )?;
    // Limits the connecting, too: a listener whose queue is full would hold us for ever.
    sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(patience))?;
    connect_to(&socket, &address)?;
    Ok(socket.into())
}

fn close_on_exec() -> rustix::net::SocketFlags {
    #[cfg(target_os = "linux")]
    let flags = rustix::net::SocketFlags::CLOEXEC;
    // Without the flag the socket may slip into a child that is started at the same moment; it is read within seconds.
    #[cfg(not(target_os = "linux"))]
    let flags = rustix::net::SocketFlags::empty();
    flags
}
