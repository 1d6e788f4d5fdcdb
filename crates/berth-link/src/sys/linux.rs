//! The guest's end of the carrier on Linux: a virtio-serial port, a unix socket at its path, or a port of vsock.

mod device;
mod vsock;

use std::fs;
use std::io::{self, IoSlice};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use berth_relay::{Carrier, PollSocket};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep};

use crate::backoff::Backoff;
use crate::guest::PortError;
use device::DevicePort;

/// The longest pause before a socket is tried again.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A connection that lived so long was a good one: the next comes at once.
const GOOD_CONNECTION: Duration = Duration::from_secs(2);

/// Where the kernel lists virtio-serial ports, whether or not udev runs.
const PORTS_IN_SYSFS: &str = "/sys/class/virtio-ports";

pub(crate) use vsock::{Listener as VsockListener, ring as ring_over_vsock};

/// A port of any kind.
#[derive(Debug)]
pub(crate) enum PortStream {
    /// A character device of `virtio_console`.
    Device { port: DevicePort, path: PathBuf },
    /// A unix socket, as the native-speed guest has it.
    Socket(SocketPort),
    /// vsock, where the host comes to the guest.
    Vsock {
        listener: VsockListener,
        stream: Option<UnixStream>,
    },
}

impl PortStream {
    pub(crate) fn listen(listener: VsockListener) -> Self {
        Self::Vsock {
            listener,
            stream: None,
        }
    }

    pub(crate) fn open(path: &Path) -> Result<Self, PortError> {
        let failed = |verb, source| PortError::Io {
            verb,
            path: path.to_owned(),
            source,
        };
        let found = match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let device = device_named(Path::new(PORTS_IN_SYSFS), path.file_name())
                    .ok_or_else(|| failed("find", error))?;
                Path::new("/dev").join(device)
            }
            Err(error) => return Err(failed("find", error)),
            Ok(_) => path.to_owned(),
        };
        let kind = fs::metadata(&found)
            .map_err(|source| failed("find", source))?
            .file_type();
        if kind.is_char_device() {
            let port = DevicePort::open(&found).map_err(|source| failed("open", source))?;
            Ok(Self::Device { port, path: found })
        } else if kind.is_socket() {
            Ok(Self::Socket(SocketPort::new(found)))
        } else {
            Err(PortError::WrongKind(found))
        }
    }

    pub(crate) async fn wait_for_host(&mut self) -> Result<(), PortError> {
        match self {
            Self::Device { port, path } => {
                port.wait_for_host().await.map_err(|source| PortError::Io {
                    verb: "wait for the host on",
                    path: path.clone(),
                    source,
                })
            }
            Self::Socket(socket) => socket.connect().await,
            Self::Vsock { listener, stream } => {
                // Before the wait: a host that hung up is told so.
                *stream = None;
                *stream = Some(listener.accept().await);
                Ok(())
            }
        }
    }

    /// The connection, where the carrier makes connections.
    fn connection(&mut self) -> io::Result<Pin<&mut UnixStream>> {
        let stream = match self {
            Self::Device { .. } => None,
            Self::Socket(socket) => socket.stream.as_mut(),
            Self::Vsock { stream, .. } => stream.as_mut(),
        };
        let stream = stream.ok_or(io::ErrorKind::NotConnected)?;
        Ok(Pin::new(stream))
    }
}

/// The kernel's name (`vport0p1`) of the port that the host calls `name`.
fn device_named(ports: &Path, name: Option<&std::ffi::OsStr>) -> Option<PathBuf> {
    let name = name?.to_str()?;
    fs::read_dir(ports)
        .ok()?
        .filter_map(Result::ok)
        .find_map(|entry| {
            let said = fs::read_to_string(entry.path().join("name")).ok()?;
            (said.trim_end() == name).then(|| PathBuf::from(entry.file_name()))
        })
}

/// A socket that is connected anew whenever the host goes away.
#[derive(Debug)]
pub(crate) struct SocketPort {
    path: PathBuf,
    stream: Option<UnixStream>,
    connected: Instant,
    backoff: Backoff,
}

impl SocketPort {
    fn new(path: PathBuf) -> Self {
        Self {
            path,
            stream: None,
            connected: Instant::now(),
            backoff: Backoff::up_to(LONGEST_PAUSE),
        }
    }

    /// Tries until somebody accepts. A file system says nothing when a listener comes, hence the pauses.
    async fn connect(&mut self) -> Result<(), PortError> {
        if self.stream.take().is_some() && self.connected.elapsed() >= GOOD_CONNECTION {
            self.backoff.reset();
        }
        loop {
            sleep(self.backoff.next()).await;
            match UnixStream::connect(&self.path).await {
                Ok(stream) => {
                    self.stream = Some(stream);
                    self.connected = Instant::now();
                    return Ok(());
                }
                Err(error) if is_nobody_there(&error) => {}
                Err(source) => {
                    return Err(PortError::Io {
                        verb: "connect to",
                        path: self.path.clone(),
                        source,
                    });
                }
            }
        }
    }
}

fn is_nobody_there(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::WouldBlock
    )
}

impl Carrier for PortStream {
    fn socket(&self) -> Option<&dyn PollSocket> {
        match self {
            // Can be read by nothing but read(2).
            Self::Device { .. } => None,
            Self::Socket(socket) => socket.stream.as_ref().and_then(Carrier::socket),
            Self::Vsock { stream, .. } => stream.as_ref().and_then(Carrier::socket),
        }
    }
}

impl AsyncRead for PortStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Device { port, .. } => port.poll_read(cx, buf),
            other => other.connection()?.poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for PortStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Device { port, .. } => port.poll_write(cx, bytes),
            other => other.connection()?.poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            // The driver takes one piece at a time, whatever the system call.
            Self::Device { port, .. } => {
                let first = slices.iter().find(|slice| !slice.is_empty());
                port.poll_write(cx, first.map_or(&[], |slice| &**slice))
            }
            other => other.connection()?.poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        !matches!(self, Self::Device { .. })
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // No kind buffers.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Device { .. } => Poll::Ready(Ok(())),
            other => other.connection()?.poll_shutdown(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;

    #[test]
    fn a_port_is_found_by_the_name_that_the_host_gave_it() {
        let class = tempfile::tempdir().unwrap();
        for (device, name) in [
            ("vport0p1", "org.qemu.other\n"),
            ("vport1p2", "io.lima-vm.agent\n"),
        ] {
            fs::create_dir(class.path().join(device)).unwrap();
            fs::write(class.path().join(device).join("name"), name).unwrap();
        }
        fs::create_dir(class.path().join("vport2p1")).unwrap();
        let found = |name| device_named(class.path(), Some(OsStr::new(name)));
        assert_eq!(found("io.lima-vm.agent"), Some("vport1p2".into()));
        assert_eq!(found("io.lima-vm"), None);
        assert_eq!(
            device_named(Path::new("/nonexistent"), Some(OsStr::new("x"))),
            None
        );
    }

    #[tokio::test]
    async fn what_is_no_port_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("missing");
        let error = PortStream::open(&missing).unwrap_err().to_string();
        assert_eq!(
            error,
            format!("could not find the agent's port {}", missing.display())
        );
        let error = PortStream::open(dir.path()).unwrap_err();
        assert!(matches!(error, PortError::WrongKind(_)), "{error}");
    }
}
