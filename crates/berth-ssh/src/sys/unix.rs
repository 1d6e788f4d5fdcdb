use std::fs::{DirBuilder, File, Metadata};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};

/// Whether a file can be run by somebody.
pub(crate) fn is_executable(path: &Path) -> bool {
    std::fs::metadata(path)
        .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

/// Whether others than the owner have rights to a private key; `ssh` then refuses to use it.
pub(crate) fn others_may_read(metadata: &Metadata) -> bool {
    metadata.permissions().mode() & 0o077 != 0
}

/// Makes a directory that only its owner may enter, and what lies above it.
pub(crate) fn make_private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Locks a directory until the file is dropped, and waits for whoever holds it. Lima locks the same way.
pub(crate) fn lock_directory(path: &Path) -> io::Result<File> {
    let directory = File::open(path)?;
    directory.lock()?;
    Ok(directory)
}

/// How long a listener may take to accept: a live one needs no time at all.
const CONNECT_LIMIT: Duration = Duration::from_secs(2);

/// Removes a socket that nobody listens on. Returns whether somebody does; what is no socket is an error.
pub(crate) async fn remove_stale_socket(path: &Path) -> io::Result<bool> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(io::Error::other(
                "there is something else than a socket in its place",
            ));
        }
        Ok(_) => {}
    }
    match tokio::time::timeout(CONNECT_LIMIT, UnixStream::connect(path)).await {
        // One that does not answer has an owner all the same.
        Ok(Ok(_)) | Err(_) => Ok(true),
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path)?;
            Ok(false)
        }
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Ok(Err(error)) => Err(error),
    }
}

/// A socket of ours in the file system; its file goes with it.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: UnixListener,
    path: PathBuf,
}

impl Listener {
    /// Listens at `path`, in place of whatever socket is there: the caller owns the path.
    pub(crate) fn bind(path: &Path) -> io::Result<Self> {
        if std::fs::symlink_metadata(path).is_ok_and(|found| found.file_type().is_socket()) {
            std::fs::remove_file(path)?;
        }
        Ok(Self {
            socket: UnixListener::bind(path)?,
            path: path.to_path_buf(),
        })
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Waits for a connection.
    pub(crate) async fn accept(&self) -> io::Result<UnixStream> {
        Ok(self.socket.accept().await?.0)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Connects to a socket.
pub(crate) async fn connect(path: &Path) -> io::Result<UnixStream> {
    UnixStream::connect(path).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_sockets_that_nobody_listens_on_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("ssh.sock");
        assert!(!remove_stale_socket(&socket).await.unwrap());

        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert!(remove_stale_socket(&socket).await.unwrap());
        assert!(socket.exists());
        drop(listener);
        assert!(!remove_stale_socket(&socket).await.unwrap());
        assert!(!socket.exists());

        std::fs::write(&socket, "precious").unwrap();
        assert!(remove_stale_socket(&socket).await.is_err());
        assert_eq!(std::fs::read_to_string(&socket).unwrap(), "precious");
    }
}
