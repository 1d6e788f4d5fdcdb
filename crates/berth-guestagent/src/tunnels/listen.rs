//! A unix socket that the user listens on.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, fchmod};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with,
};
use rustix::process::geteuid;

use super::dial::connected_unix;
use super::error::TunnelError;

/// Connections that may wait to be accepted, as many as with OpenSSH.
const BACKLOG: i32 = 128;

/// A socket that listens, and its file.
#[derive(Debug)]
pub(super) struct Bound {
    /// Before the listener, which must outlive it: as long as that is open, no other file has the same number.
    pub(super) file: SocketFile,
    pub(super) listener: UnixListener,
}

/// The file of a socket. Dropping it removes the file, if it is still this one.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    /// The file that was just made.
    fn at(path: &Path) -> io::Result<Self> {
        let metadata = fs::symlink_metadata(path)?;
        Ok(Self {
            path: path.to_owned(),
            device: metadata.dev(),
            inode: metadata.ino(),
        })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let Ok(metadata) = fs::symlink_metadata(&self.path) else {
            return;
        };
        if (metadata.dev(), metadata.ino()) == (self.device, self.inode)
            && let Err(why) = fs::remove_file(&self.path)
        {
            tracing::warn!("could not remove {:?}: {why}", self.path);
        }
    }
}

/// Listens at `path` as whoever the thread is: with directories as needed, in the place of a socket that nobody listens on any more,
/// and for nobody else.
pub(super) fn bind_unix(path: &str) -> Result<Bound, TunnelError> {
    let failed = |verb| TunnelError::io(verb, path);
    if let Some(parent) = Path::new(path).parent() {
        let mut directory = DirBuilder::new();
        directory
            .recursive(true)
            .mode(0o755)
            .create(parent)
            .map_err(failed("make the directory of"))?;
    }
    remove_stale(path)?;
    let socket = listening_socket(path).map_err(failed("listen on"))?;
    let file = SocketFile::at(Path::new(path)).map_err(failed("look at"))?;
    Ok(Bound {
        file,
        listener: UnixListener::from(socket),
    })
}

fn listening_socket(path: &str) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    // The file gets the socket's mode, so that it is private from the first moment.
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    bind(&socket, &SocketAddrUnix::new(path)?)?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Removes a socket that an earlier agent or the user has left behind. Everything else stays, and is an error.
fn remove_stale(path: &str) -> Result<(), TunnelError> {
    let taken = |why| TunnelError::Taken {
        path: path.to_owned(),
        why,
    };
    let metadata = match fs::symlink_metadata(path) {
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found.map_err(TunnelError::io("look at", path))?,
    };
    if !metadata.file_type().is_socket() {
        return Err(taken("exists and is no socket"));
    }
    if ![0, geteuid().as_raw()].contains(&metadata.uid()) {
        return Err(taken("belongs to another user"));
    }
    match connected_unix(path) {
        Err(why) if Errno::from_io_error(&why) == Some(Errno::CONNREFUSED) => {
            fs::remove_file(path).map_err(TunnelError::io("remove the stale socket", path))
        }
        _ => Err(taken("is in use")),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::os::unix::net::UnixDatagram;

    use super::*;

    fn why(path: &Path) -> String {
        let error = bind_unix(path.to_str().unwrap()).unwrap_err();
        crate::args::chain(&error)
    }

    #[test]
    fn the_socket_is_private_and_goes_with_its_listener() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/er/socket");
        let bound = bind_unix(path.to_str().unwrap()).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(&dir.path().join("deep")), 0o755);
        drop(bound);
        assert!(!path.exists());
    }

    #[test]
    fn a_stale_socket_is_replaced_and_everything_else_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        drop(UnixListener::bind(&path).unwrap());
        let bound = bind_unix(path.to_str().unwrap()).unwrap();
        assert!(why(&path).ends_with("is in use"));
        assert!(path.exists());
        drop(bound);

        fs::write(&path, "precious").unwrap();
        assert!(why(&path).ends_with("exists and is no socket"));
        fs::remove_file(&path).unwrap();
        symlink("elsewhere", &path).unwrap();
        assert!(why(&path).ends_with("exists and is no socket"));
        fs::remove_file(&path).unwrap();
        let _datagrams = UnixDatagram::bind(&path).unwrap();
        assert!(why(&path).ends_with("is in use"));
    }

    #[test]
    fn only_the_own_file_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let bound = bind_unix(path.to_str().unwrap()).unwrap();
        fs::remove_file(&path).unwrap();
        let other = UnixListener::bind(&path).unwrap();
        drop(bound);
        assert!(path.exists());
        drop(other);
    }
}
