//! What the agent does for the host.

use super::ReverseOpener;
use crate::event::{Request, Response, Welcome};
use crate::flow::FlowHeader;
use crate::frame::ResetCode;
use crate::mux::LinkStream;

/// What the agent does for the host. Methods run inside the session: they must not block the thread.
pub trait Duties: Send + Sync {
    /// A session begins; `reverse` opens streams to the host for as long as it lives. The default lets it go.
    fn begin(&self, reverse: ReverseOpener) {
        drop(reverse);
    }

    /// The host's first message in a session.
    fn welcome(&self, welcome: Welcome);

    /// Does what the host asks. [`Request::Ping`] is answered by the link and never arrives here.
    ///
    /// Once [`Request::WatchPorts`] is answered, the session tells what [`super::Board::set_ports`] says: note what there is
    /// before the answer.
    ///
    /// Dropped when the session ends; an answer after [`crate::host::REQUEST_DEADLINE`] comes too late.
    fn answer(&self, request: Request) -> impl Future<Output = Response> + Send;

    /// Serves a stream that the host opened; the default refuses it.
    fn flow(&self, header: FlowHeader, stream: LinkStream) {
        tracing::debug!(%header, "flow refused: not served");
        stream.reset(ResetCode::Unsupported);
    }
}
