//! Ports of vsock that only the host may connect to.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::net::{UnixListener, UnixStream};

/// Number of the host.
const HOST: u32 = 2;
/// Every number of this guest.
const ANY: u32 = u32::MAX;
/// Connections that may wait.
const BACKLOG: i32 = 128;

/// A port that listens.
#[derive(Debug)]
pub(crate) enum Listener {
    /// The kernel's.
    Vsock(AsyncFd<Socket>),
    /// A unix socket in its place, as the native-speed guest has it.
    Directory(UnixListener),
}

impl Listener {
    /// `device` is `/dev/vsock`, or a directory in its place.
    pub(crate) fn bind(device: &Path, port: u32) -> io::Result<Self> {
        if device.is_dir() {
            let path = device.join(port.to_string());
            match std::fs::remove_file(&path) {
                Err(why) if why.kind() != io::ErrorKind::NotFound => return Err(why),
                _ => {}
            }
            return UnixListener::bind(path).map(Self::Directory);
        }
        let socket = Socket::new(Domain::VSOCK, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SockAddr::vsock(ANY, port))?;
        socket.listen(BACKLOG)?;
        register(socket).map(Self::Vsock)
    }

    /// Waits for the host. Others, programs of this guest, are turned away.
    pub(crate) async fn accept(&self) -> UnixStream {
        let told = |why| tracing::warn!("a connection over vsock was not accepted: {why}");
        loop {
            if let Some(stream) = berth_relay::accept::next(|| self.accept_one(), told).await {
                return stream;
            }
        }
    }

    async fn accept_one(&self) -> io::Result<Option<UnixStream>> {
        let listener = match self {
            Self::Vsock(listener) => listener,
            Self::Directory(listener) => return Ok(Some(listener.accept().await?.0)),
        };
        let (socket, peer) = listener
            .async_io(Interest::READABLE, Socket::accept)
            .await?;
        if peer.as_vsock_address().is_none_or(|(peer, _)| peer != HOST) {
            return Ok(None);
        }
        stream(socket).map(Some)
    }
}

/// Connects to a port of the host and hangs up again.
pub(crate) async fn ring(device: &Path, port: u32) -> io::Result<()> {
    if device.is_dir() {
        let bell = device.join(format!("host-{port}"));
        return UnixStream::connect(bell).await.map(drop);
    }
    let ringing = move || {
        let socket = Socket::new(Domain::VSOCK, Type::STREAM, None)?;
        // The kernel gives up after two seconds.
        socket.connect(&SockAddr::vsock(HOST, port))
    };
    tokio::task::spawn_blocking(ringing)
        .await
        .map_err(io::Error::other)?
}

/// A connected socket, as one of the runtime's: reading, writing and shutting down do not depend on the family.
fn stream(socket: Socket) -> io::Result<UnixStream> {
    socket.set_nonblocking(true)?;
    UnixStream::from_std(OwnedFd::from(socket).into())
}

/// Hands a descriptor to the runtime.
#[allow(unsafe_code, reason = "the runtime asks for a promise")]
fn register(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    // SAFETY: the socket is moved into the AsyncFd, which deregisters it before it closes it; a Socket always gives the same
    // descriptor.
    Ok(unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn a_directory_stands_in_for_vsock() {
        let device = tempfile::tempdir().unwrap();
        let first = Listener::bind(device.path(), 2222).unwrap();
        drop(first);
        let listener = Listener::bind(device.path(), 2222).expect("what was left is replaced");
        let mut host = UnixStream::connect(device.path().join("2222"))
            .await
            .unwrap();
        let mut guest = listener.accept().await;
        host.write_all(b"hello").await.unwrap();
        let mut said = [0; 5];
        guest.read_exact(&mut said).await.unwrap();
        assert_eq!(&said, b"hello");
    }

    #[tokio::test]
    async fn a_bell_rings_or_is_not_there() {
        let device = tempfile::tempdir().unwrap();
        let nobody = ring(device.path(), 2223).await.unwrap_err();
        assert_eq!(nobody.kind(), io::ErrorKind::NotFound);
        let bell = UnixListener::bind(device.path().join("host-2223")).unwrap();
        ring(device.path(), 2223).await.unwrap();
        let (mut rung, _) = bell.accept().await.unwrap();
        assert_eq!(rung.read(&mut [0]).await.unwrap(), 0, "and hung up again");
    }

    /// Needs a kernel with vsock; its loopback is another module, without which there is nobody to turn away.
    #[tokio::test]
    async fn a_program_of_the_guest_is_turned_away() {
        const LOCAL: u32 = 1;
        let Ok(listener) = Listener::bind(Path::new("/dev/vsock"), ANY) else {
            return;
        };
        let Listener::Vsock(socket) = &listener else {
            panic!("{listener:?}");
        };
        let port = socket.get_ref().local_addr().unwrap();
        let port = port.as_vsock_address().unwrap().1;
        let program = tokio::task::spawn_blocking(move || {
            let socket = Socket::new(Domain::VSOCK, Type::STREAM, None)?;
            socket.connect(&SockAddr::vsock(LOCAL, port))?;
            io::Read::read(&mut &socket, &mut [0])
        });
        tokio::select! {
            _ = listener.accept() => panic!("it was let in"),
            said = program => match said.unwrap() {
                Ok(count) => assert_eq!(count, 0),
                Err(_no_loopback_or_reset) => {}
            },
        }
    }
}
