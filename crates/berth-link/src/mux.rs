//! Streams with credit, half-close and reset over one carrier.
//!
//! [`new`] makes the three parts of a session: a [`Mux`] that opens streams, an [`Incoming`] that yields those of the other
//! end, and the [`Driver`] that moves bytes and is the only one to touch the carrier. The rules are in one table behind one
//! lock, held for the length of a copy and never across an await.
//!
//! What a hostile peer can make this end keep is bounded: as many streams as [`Limits`] say, each with the credit that it begins
//! with; what longer windows have beyond that, all together; and 256 KiB of answers that it does not read.
//!
//! | module | owns |
//! |---|---|
//! | `driver`, `inbox`, `outbox` | the carrier, bytes from it, frames on their way into it |
//! | `table` | the rules: which frame may come when, and what follows from it |
//! | `receive`, `send` | the halves of a stream: windows; urgent frames and turns |
//! | `chunk`, `piped` | buffers; frames whose payloads are in pipes |
//! | `stream` | what a stream's user holds |

mod chunk;
mod driver;
mod inbox;
mod outbox;
mod piped;
mod reader;
mod receive;
mod send;
mod stream;
mod table;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use berth_relay::Carrier;
use tokio_util::sync::CancellationToken;

use crate::flow::FlowHeader;
use crate::hello::SessionId;

pub use driver::{Driver, Remains, SILENCE_LIMIT};
pub use inbox::Inbox;
pub use stream::LinkStream;
use table::Table;

/// The longest window of one stream, in bytes: enough that a fast reader on a busy machine does not starve.
pub const LONGEST_WINDOW: u32 = 2 * 1024 * 1024;

/// What all windows of a session may be together, in bytes, beyond the credit that each stream begins with.
pub const WINDOW_BUDGET: u32 = 16 * 1024 * 1024;

/// Which end this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Opens streams with odd ids.
    Host,
    /// Opens streams with even ids.
    Guest,
}

/// How much one session may keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Streams that this end may have open.
    pub own_streams: usize,
    /// Streams that the other end may have open; 0 refuses each with [`crate::frame::ResetCode::Unsupported`].
    pub peer_streams: usize,
    /// Bytes that one stream may hold unread if its reader is fast, up to [`crate::frame::MAX_CREDIT`]; below
    /// [`crate::frame::INITIAL_CREDIT`], with which every stream begins, it is that.
    pub window: u32,
    /// Bytes that all streams together may hold beyond what each begins with.
    pub budget: u32,
}

/// Opens streams. Clones share the session.
#[derive(Debug, Clone)]
pub struct Mux {
    shared: Shared,
}

/// Yields the streams that the other end opens. Dropping it refuses all that follow.
#[derive(Debug)]
pub struct Incoming {
    shared: Shared,
}

/// Why a stream could not be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The session is over.
    #[error("the session is over")]
    Over,
    /// As many as [`Limits::own_streams`] are open.
    #[error("{0} streams are already open")]
    TooMany(usize),
    /// The carrier takes nothing, and much waits for it already.
    #[error("the carrier takes no more data")]
    Clogged,
    /// Every id was used; only a new session helps.
    #[error("every stream id of the session was used")]
    IdsExhausted,
}

/// Starts a session on `io`, whose greetings are done. `inbox` holds what was read behind them.
pub fn new<S: Carrier>(
    io: S,
    inbox: Inbox,
    side: Side,
    session: SessionId,
    limits: Limits,
) -> (Mux, Incoming, Driver<S>) {
    // Elsewhere there are none.
    let pipes = cfg!(target_os = "linux") && io.socket().is_some();
    let shared = Shared(Arc::new(Mutex::new(Table::new(side, limits, pipes))));
    let driver = Driver::new(io, inbox, side, session, shared.clone());
    let mux = Mux {
        shared: shared.clone(),
    };
    (mux, Incoming { shared }, driver)
}

impl Mux {
    /// Opens a stream; bytes may be written at once, before the peer has seen it.
    pub fn open(&self, header: &FlowHeader) -> Result<LinkStream, OpenError> {
        let id = self.shared.table().open(header)?;
        Ok(LinkStream::new(id, self.shared.clone()))
    }

    /// Says good-bye once everything written so far has left. [`Driver::run`] then ends with
    /// [`crate::session::SessionEnd::Cancelled`].
    pub fn say_bye(&self) {
        self.shared.table().say_bye();
    }
}

impl Incoming {
    /// Waits for the next stream of the other end; `None` when the session is over. Cancel-safe.
    pub async fn accept(&mut self) -> Option<(FlowHeader, LinkStream)> {
        std::future::poll_fn(|cx| self.poll_accept(cx)).await
    }

    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<Option<(FlowHeader, LinkStream)>> {
        let arrival = self.shared.table().poll_accept(cx);
        arrival.map(|arrival| {
            arrival.map(|(header, id)| (header, LinkStream::new(id, self.shared.clone())))
        })
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.shared.table().stop_accepting();
    }
}

/// Waits for `cancel`, then says good-bye at once: before the streams of the session are dropped, whose resets would come first.
pub(crate) async fn cancelled_with_bye(cancel: &CancellationToken, mux: &Mux) {
    cancel.cancelled().await;
    mux.say_bye();
}

#[derive(Debug, Clone)]
struct Shared(Arc<Mutex<Table>>);

impl Shared {
    fn table(&self) -> MutexGuard<'_, Table> {
        // No panic leaves the table half changed: every method checks first and changes then.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}
