//! Hosts of which berth knows no guests: nothing to open.

use std::convert::Infallible;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::guest::PortError;

/// Never exists.
#[derive(Debug)]
pub(crate) struct PortStream(Infallible);

impl PortStream {
    pub(crate) fn open(_path: &Path) -> Result<Self, PortError> {
        Err(PortError::Unsupported)
    }

    #[allow(clippy::unused_async, reason = "it waits where ports exist")]
    pub(crate) async fn wait_for_host(&mut self) -> Result<(), PortError> {
        match self.0 {}
    }
}

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
