//! The guest's end of the carrier.

use std::io;
use std::path::{Path, PathBuf};

use crate::sys::PortStream;

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

/// The guest's end of the carrier: a virtio-serial port, or a unix socket in its place.
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

impl Port {
    /// Waits until a host may be there, without any deadline.
    pub(super) async fn wait_for_host(&mut self) -> Result<(), PortError> {
        self.0.wait_for_host().await
    }

    /// The byte stream, after [`Port::wait_for_host`].
    pub(super) fn stream(&mut self) -> &mut PortStream {
        &mut self.0
    }
}
