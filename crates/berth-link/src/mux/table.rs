//! The streams of one session and the rules between them. No I/O: frames come in, frames go out into a schedule.

mod inbound;
mod outbound;

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use super::chunk::Pool;
use super::receive::{Piece, Receiving, Windows};
use super::send::{Schedule, Sending};
use super::{Limits, OpenError, Side, wake};
use crate::flow::FlowHeader;
use crate::frame::{FrameKind, MAX_CREDIT, ResetCode};

/// Streams beyond which the table's own memory is given back when most of them are gone.
const FEW_STREAMS: usize = 64;

#[derive(Debug)]
pub(super) struct Table {
    side: Side,
    limits: Limits,
    streams: HashMap<u32, Stream>,
    next_own: Option<u32>,
    last_peer: u32,
    own_open: usize,
    peer_open: usize,
    accepting: bool,
    /// Streams of the peer that nobody has taken yet; ids rise, so the first one came first.
    arrivals: BTreeMap<u32, FlowHeader>,
    acceptor: Option<Waker>,
    windows: Windows,
    schedule: Schedule,
    pool: Pool,
    /// Bulk may be in pipes.
    pipes: bool,
    bye: Bye,
    ended: Option<Arc<str>>,
}

#[derive(Debug)]
struct Stream {
    receiving: Receiving,
    sending: Sending,
    reset: Option<ResetCode>,
    /// Its user is gone, and its last bytes have not left.
    is_left: bool,
}

/// How far this end has come with its good-bye.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bye {
    Unsaid,
    /// Nothing new is sent.
    Due,
    /// It is the last frame.
    Queued,
}

fn is_reset(code: ResetCode) -> io::Error {
    io::Error::new(code.io_kind(), code)
}

fn is_over(reason: &str) -> io::Error {
    let text = format!("the link to the other end is over: {reason}");
    io::Error::new(io::ErrorKind::ConnectionAborted, text)
}

/// Keeps the buffer or the pipe for the next bytes.
fn recycle(pool: &mut Pool, piece: Piece) {
    match piece {
        Piece::Copied(chunk) => pool.give(chunk.into_buffer()),
        Piece::Piped(pipe) => pipe.give_back(),
    }
}

impl Table {
    pub(super) fn new(side: Side, limits: Limits, pipes: bool) -> Self {
        Self {
            side,
            limits,
            streams: HashMap::new(),
            next_own: Some(match side {
                Side::Host => 1,
                Side::Guest => 2,
            }),
            last_peer: 0,
            own_open: 0,
            peer_open: 0,
            accepting: limits.peer_streams > 0,
            arrivals: BTreeMap::new(),
            acceptor: None,
            windows: Windows::new(limits.window.min(MAX_CREDIT), limits.budget),
            schedule: Schedule::default(),
            pool: Pool::default(),
            pipes,
            bye: Bye::Unsaid,
            ended: None,
        }
    }

    fn is_own(&self, id: u32) -> bool {
        (id % 2 == 1) == (self.side == Side::Host)
    }

    /// Queues a small frame; nothing new follows a good-bye.
    fn send(&mut self, kind: FrameKind, id: u32, payload: &[u8]) {
        if self.bye == Bye::Unsaid {
            self.schedule.send(kind, id, payload);
        }
    }

    pub(super) fn open(&mut self, header: &FlowHeader) -> Result<u32, OpenError> {
        if self.ended.is_some() || self.bye != Bye::Unsaid {
            return Err(OpenError::Over);
        }
        if self.own_open >= self.limits.own_streams {
            return Err(OpenError::TooMany(self.own_open));
        }
        if self.is_clogged() {
            return Err(OpenError::Clogged);
        }
        let id = self.next_own.ok_or(OpenError::IdsExhausted)?;
        self.next_own = id.checked_add(2);
        self.own_open += 1;
        self.send(FrameKind::Open, id, &header.encode());
        self.streams.insert(id, Stream::new());
        Ok(id)
    }

    pub(super) fn poll_accept(&mut self, cx: &Context<'_>) -> Poll<Option<(FlowHeader, u32)>> {
        if let Some((id, header)) = self.arrivals.pop_first() {
            return Poll::Ready(Some((header, id)));
        }
        if self.ended.is_some() {
            return Poll::Ready(None);
        }
        self.acceptor = Some(cx.waker().clone());
        Poll::Pending
    }

    pub(super) fn stop_accepting(&mut self) {
        self.accepting = false;
        for id in std::mem::take(&mut self.arrivals).into_keys() {
            self.abandon(id, ResetCode::Unsupported);
        }
    }

    /// Lets go of a stream; the peer hears of it unless both directions are over.
    pub(super) fn abandon(&mut self, id: u32, code: ResetCode) {
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        let is_alive = stream.reset.is_none() && self.ended.is_none();
        let is_complete = stream.sending.is_finished() && stream.receiving.fin;
        if is_alive && is_complete && stream.sending.owes_fin() {
            stream.is_left = true;
            self.discard_received(id);
            return;
        }
        self.forget(id);
        if is_alive && !is_complete {
            self.send(FrameKind::Reset, id, &code.code().to_be_bytes());
        }
    }

    /// Removes a stream and everything that it holds.
    fn forget(&mut self, id: u32) {
        self.discard_received(id);
        let Some(mut stream) = self.streams.remove(&id) else {
            return;
        };
        self.windows.note_end(id, &mut stream.receiving);
        for buffer in self.schedule.discard(&mut stream.sending) {
            self.pool.give(buffer);
        }
        if self.is_own(id) {
            self.own_open -= 1;
        } else {
            self.peer_open -= 1;
        }
        self.wake_writers();
        let few = self.streams.len() * 8 < self.streams.capacity();
        if few && self.streams.capacity() > FEW_STREAMS {
            self.streams.shrink_to(2 * self.streams.len());
        }
        if self.is_quiet() {
            self.pool.settle();
            self.schedule.settle();
        }
    }

    fn discard_received(&mut self, id: u32) {
        if let Some(stream) = self.streams.get_mut(&id) {
            for piece in stream.receiving.discard() {
                recycle(&mut self.pool, piece);
            }
        }
    }

    /// Takes back what a stream held that may be gone.
    pub(super) fn recycle(&mut self, piece: Piece) {
        recycle(&mut self.pool, piece);
    }

    /// The carrier turned out not to know pipes.
    pub(super) fn stop_pipes(&mut self) {
        self.pipes = false;
    }

    /// Ends the session for every handle.
    pub(super) fn end(&mut self, reason: &str) {
        if self.ended.is_some() {
            return;
        }
        self.ended = Some(reason.into());
        self.streams.retain(|_, stream| !stream.is_left);
        for stream in self.streams.values_mut() {
            let discarded = self.schedule.discard(&mut stream.sending);
            drop(discarded);
            stream.wake();
        }
        self.pool.close();
        wake(&mut self.acceptor);
    }
}

impl Stream {
    fn new() -> Self {
        Self {
            receiving: Receiving::new(),
            sending: Sending::new(),
            reset: None,
            is_left: false,
        }
    }

    fn wake(&mut self) {
        wake(&mut self.receiving.reader);
        wake(&mut self.sending.writer);
    }
}
