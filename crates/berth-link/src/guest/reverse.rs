//! Streams that the guest opens.

use tokio_util::sync::CancellationToken;

use crate::flow::FlowHeader;
use crate::mux::{LinkStream, Mux, OpenError};

/// Opens streams to the host for connections that came to a listener of [`crate::event::Request::Listen`].
///
/// Belongs to one session, and is void after it. Clones share the session.
#[derive(Debug, Clone)]
pub struct ReverseOpener {
    mux: Mux,
    over: CancellationToken,
}

impl ReverseOpener {
    pub(super) fn new(mux: Mux, over: CancellationToken) -> Self {
        Self { mux, over }
    }

    /// Opens the stream of a connection that came to `listener`. The host resets it if it does not know the listener.
    pub fn open(&self, listener: u32) -> Result<LinkStream, OpenError> {
        self.mux.open(&FlowHeader::reverse(listener))
    }

    /// Waits for the end of the session: listeners end with it.
    pub async fn over(&self) {
        self.over.cancelled().await;
    }
}
