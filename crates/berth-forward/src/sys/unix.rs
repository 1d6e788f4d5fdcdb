use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixListener;
pub(crate) use tokio::net::UnixStream;

use crate::address::Transport;

/// The host has no addresses of the family.
pub(crate) const NO_SUCH_FAMILY: i32 = libc::EAFNOSUPPORT;

/// `SO_REUSEADDR` lets a TCP port be taken again while old connections of it linger. With UDP it would let two sockets have one
/// port, and one of them lose its datagrams, so there it stays off.
pub(crate) fn configure(socket: &Socket, transport: Transport) -> io::Result<()> {
    match transport {
        Transport::Tcp => socket.set_reuse_address(true),
        Transport::Udp => Ok(()),
    }
}

/// The file of a unix socket. Removed when dropped, if it is still the one that was made.
#[derive(Debug)]
struct UnixFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl UnixFile {
    fn made_at(path: &Path) -> io::Result<Self> {
        let file = fs::symlink_metadata(path)?;
        Ok(Self {
            path: path.to_owned(),
            device: file.dev(),
            inode: file.ino(),
        })
    }

    fn is_in_place(&self) -> bool {
        fs::symlink_metadata(&self.path)
            .is_ok_and(|file| (file.dev(), file.ino()) == (self.device, self.inode))
    }
}

impl Drop for UnixFile {
    fn drop(&mut self) {
        if self.is_in_place() {
            // Whoever took the directory's rights away keeps the file.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// A unix socket that listens on the host.
#[derive(Debug)]
pub(crate) struct UnixListening {
    // In this order: nobody finds a socket that nobody listens on.
    file: UnixFile,
    listener: UnixListener,
}

impl UnixListening {
    /// Listens at `path`. A socket that nobody listens on any more is removed first; anything else in its place is an error, of
    /// the kind `AddrInUse` if somebody listens there.
    ///
    /// The directory is made if need be: for everybody as Lima does, but within `own`, the instance's own, for the user alone.
    pub(crate) fn bind(path: &Path, own: &Path) -> io::Result<Self> {
        if let Some(directory) = path.parent() {
            let mode = if path.starts_with(own) { 0o700 } else { 0o755 };
            DirBuilder::new()
                .recursive(true)
                .mode(mode)
                .create(directory)?;
        }
        make_room(path)?;
        let listener = UnixListener::bind(path)?;
        let file = UnixFile::made_at(path)?;
        Ok(Self { file, listener })
    }

    /// Waits for a connection.
    pub(crate) async fn accept(&self) -> io::Result<UnixStream> {
        Ok(self.listener.accept().await?.0)
    }

    /// Whether its file is still there, so that somebody can find it.
    pub(crate) fn is_in_place(&self) -> bool {
        self.file.is_in_place()
    }
}

/// Connects to a unix socket of the host.
pub(crate) async fn connect_unix(path: &Path) -> io::Result<UnixStream> {
    UnixStream::connect(path).await
}

fn make_room(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(why) => return Err(why),
        Ok(file) if !file.file_type().is_socket() => {
            return Err(io::Error::other(
                "there is something else than a socket in its place",
            ));
        }
        Ok(_) => {}
    }
    // Never waits: a listener whose queue is full says so.
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    probe.set_nonblocking(true)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Err(why) if why.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(()) => Err(io::ErrorKind::AddrInUse.into()),
        Err(why) if why.kind() == io::ErrorKind::WouldBlock => Err(io::ErrorKind::AddrInUse.into()),
        Err(why) => Err(why),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[tokio::test]
    async fn directories_are_private_within_our_own_and_open_elsewhere() {
        let dir = tempfile::tempdir().unwrap();
        let own = dir.path().join("instance/sock");
        let inside = own.join("deep/a.sock");
        let _inside = UnixListening::bind(&inside, &own).unwrap();
        assert_eq!(mode(&own), 0o700);
        assert_eq!(mode(inside.parent().unwrap()), 0o700);

        let outside = dir.path().join("elsewhere/a.sock");
        let _outside = UnixListening::bind(&outside, &own).unwrap();
        assert_eq!(mode(outside.parent().unwrap()) & 0o700, 0o700);
        assert_eq!(mode(outside.parent().unwrap()) & 0o022, 0);
    }

    #[tokio::test]
    async fn only_sockets_that_nobody_listens_on_are_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.sock");
        let first = UnixListening::bind(&path, dir.path()).unwrap();
        let taken = UnixListening::bind(&path, dir.path()).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        assert!(first.is_in_place());

        fs::remove_file(&path).unwrap();
        let stale = std::os::unix::net::UnixListener::bind(&path).unwrap();
        drop(stale);
        let second = UnixListening::bind(&path, dir.path()).unwrap();
        assert!(!first.is_in_place());
        drop(first);
        assert!(second.is_in_place(), "the first removes only its own");
        drop(second);
        assert!(!path.exists());

        fs::write(&path, "precious").unwrap();
        assert!(UnixListening::bind(&path, dir.path()).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn a_link_to_a_socket_is_no_socket() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("target");
        drop(std::os::unix::net::UnixListener::bind(&target).unwrap());
        let path = dir.path().join("a.sock");
        std::os::unix::fs::symlink(&target, &path).unwrap();
        assert!(UnixListening::bind(&path, dir.path()).is_err());
        assert!(target.exists() && path.is_symlink());
    }

    #[tokio::test]
    async fn a_path_that_is_too_long_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x".repeat(120));
        assert!(UnixListening::bind(&path, dir.path()).is_err());
        assert!(!path.exists());
    }
}
