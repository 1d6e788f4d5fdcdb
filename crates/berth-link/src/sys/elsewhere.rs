//! Hosts of which berth knows no guests: nothing to open.

use std::convert::Infallible;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};

use berth_relay::Carrier;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::guest::PortError;

/// Never exists.
#[derive(Debug)]
pub(crate) struct PortStream(Infallible);

/// Never exists.
#[derive(Debug)]
pub(crate) struct VsockListener(Infallible);

impl VsockListener {
    pub(crate) fn bind(_device: &Path, _port: u32) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    #[allow(clippy::unused_async, reason = "it waits where vsock exists")]
    pub(crate) async fn accept(&self) -> tokio::io::Empty {
        match self.0 {}
    }
}

#[allow(clippy::unused_async, reason = "it waits where vsock exists")]
pub(crate) async fn ring_over_vsock(_device: &Path, _port: u32) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

impl PortStream {
    pub(crate) fn listen(listener: VsockListener) -> Self {
        match listener.0 {}
    }

    pub(crate) fn open(_path: &Path) -> Result<Self, PortError> {
        Err(PortError::Unsupported)
    }

    #[allow(clippy::unused_async, reason = "it waits where ports exist")]
    pub(crate) async fn wait_for_host(&mut self) -> Result<(), PortError> {
        match self.0 {}
    }
}

impl Carrier for PortStream {}

impl AsyncRead for PortStream {
    fn poll_read(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        _buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.0 {}
    }
}

impl AsyncWrite for PortStream {
    fn poll_write(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        _bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.0 {}
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.0 {}
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.0 {}
    }
}
