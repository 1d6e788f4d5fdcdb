//! The guest's end of the carrier.

use std::io;
use std::path::{Path, PathBuf};

use tokio::io::{AsyncRead, AsyncWrite};

use crate::sys::{self, PortStream};

/// Why the port cannot be used. Absence of the host is no error.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// The system refused.
    #[error("could not {verb} the agent's port {}", path.display())]
    Io {
        /// What was tried.
        verb: &'static str,
        /// The device or socket.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Neither a character device nor a socket.
    #[error("the agent's port {} is neither a character device nor a socket", .0.display())]
    WrongKind(PathBuf),
    /// This operating system has no such ports.
    #[error("agent ports exist only in Linux guests")]
    Unsupported,
}

/// The guest's end of the carrier: a virtio-serial port, a unix socket in its place, or a port of vsock.
#[derive(Debug)]
pub struct Port(PortStream);

/// Opens the port, without waiting for the host. Must be called inside the runtime.
///
/// `path` is `/dev/virtio-ports/NAME`. While udev has not made that link yet, the device is found by its name in sysfs. A
/// character device is opened once and kept: opening it anew would tell the host that the agent went away. A unix socket is
/// connected by [`serve()`](super::serve()).
pub fn open_port(path: &Path) -> Result<Port, PortError> {
    PortStream::open(path).map(Port)
}

/// A port of vsock that only the host may connect to.
#[derive(Debug)]
pub struct VsockListener(sys::VsockListener);

impl VsockListener {
    /// Listens. `device` is `/dev/vsock`, or a directory in its place, where ports are unix sockets. Must be called inside the
    /// runtime.
    pub fn bind(device: &Path, port: u32) -> io::Result<Self> {
        sys::VsockListener::bind(device, port).map(Self)
    }

    /// Waits for the host, without any deadline. Programs of the guest are turned away.
    pub async fn accept(&self) -> impl AsyncRead + AsyncWrite + Send + Unpin + use<> {
        self.0.accept().await
    }
}

/// Tells the host that the guest listens, by connecting to a vsock port of the host and hanging up again. Ends by itself.
pub async fn ring_over_vsock(device: &Path, port: u32) -> io::Result<()> {
    sys::ring_over_vsock(device, port).await
}

impl Port {
    /// A port to which the host comes.
    #[must_use]
    pub fn over_vsock(listener: VsockListener) -> Self {
        Self(PortStream::listen(listener.0))
    }

    /// Waits until a host may be there, without any deadline.
    pub(super) async fn wait_for_host(&mut self) -> Result<(), PortError> {
        self.0.wait_for_host().await
    }

    /// The byte stream, after [`Port::wait_for_host`].
    pub(super) fn stream(&mut self) -> &mut PortStream {
        &mut self.0
    }
}
