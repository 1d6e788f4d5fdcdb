//! The one that reads and writes the carrier of a session.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use berth_relay::{Carrier, Pipe};
use bytes::BytesMut;
use tokio::time::{Instant, Sleep, sleep};

use super::outbox::Outbox;
use super::receive::Piece;
use super::table::Table;
use super::{Inbox, Shared, Side};
use crate::frame::{FrameError, FrameHeader, FrameKind, HEADER_LEN, MAX_PAYLOAD};
use crate::hello::{GREETING_LEN, Greeting, MAGIC, SessionId};
use crate::session::SessionEnd;

/// How long the peer may stop in the middle of a frame. A frame leaves its sender whole, so it is lost bytes, not slowness.
pub const SILENCE_LIMIT: Duration = Duration::from_secs(5);

/// Bytes read in one turn, so that a busy carrier lets other tasks run, and readers find what is still in the cache.
const READ_TURN: u64 = 256 * 1024;

/// Payloads from this length on keep the buffer that they came in; shorter ones are copied, so that no buffer is kept for a
/// small part of it.
const KEEPS_BUFFER: usize = MAX_PAYLOAD / 2;

/// Moves bytes between the carrier and the streams of one session.
#[derive(Debug)]
pub struct Driver<S> {
    io: S,
    inbox: Inbox,
    side: Side,
    session: SessionId,
    shared: Shared,
    outbox: Outbox,
    flushed: bool,
    /// Bytes read so far.
    read: u64,
    silence: Option<Silence>,
    /// The payload that comes in parts.
    rest: Option<Rest>,
    /// Nothing is read beyond the next header, because its payload may come through a pipe, as the last one did.
    by_header: bool,
}

/// What has not come of a payload.
#[derive(Debug)]
struct Rest {
    stream: u32,
    left: usize,
}

impl Rest {
    /// Hands on what is in the inbox; what is still missing.
    fn pass_on(mut self, inbox: &mut Inbox, table: &mut Table) -> Option<Self> {
        let count = inbox.unread().len().min(self.left);
        if count > 0 {
            table.on_copied_part(self.stream, &inbox.unread()[..count]);
            inbox.take(count);
        }
        self.left -= count;
        (self.left > 0).then_some(self)
    }
}

/// The clock of an unfinished frame; exists only while the carrier has nothing to read.
#[derive(Debug)]
struct Silence {
    /// Rings no later than it has to; it is not set anew for every byte.
    timer: Pin<Box<Sleep>>,
    /// Bytes that had come when last looked at, and when that was.
    seen: (u64, Instant),
}

/// What is left of a driver whose session is over.
#[derive(Debug)]
pub struct Remains {
    /// Bytes that were read behind the end.
    pub inbox: Inbox,
    /// Bytes that complete the last frame of which a part was written.
    pub unsent: BytesMut,
}

impl<S> Driver<S> {
    pub(super) fn new(io: S, inbox: Inbox, side: Side, session: SessionId, shared: Shared) -> Self {
        Self {
            io,
            inbox,
            side,
            session,
            shared,
            outbox: Outbox::default(),
            flushed: true,
            read: 0,
            silence: None,
            rest: None,
            by_header: false,
        }
    }

    /// Ends the session for every handle.
    #[must_use]
    pub fn into_remains(mut self) -> Remains {
        Remains {
            inbox: std::mem::take(&mut self.inbox),
            unsent: std::mem::take(&mut self.outbox).into_unsent(),
        }
    }
}

impl<S> Drop for Driver<S> {
    fn drop(&mut self) {
        self.shared.table().end("it was given up");
    }
}

impl<S: Carrier> Driver<S> {
    /// Runs the session to its end. Must be polled for any stream to move; dropping the future pauses the session.
    pub async fn run(&mut self) -> SessionEnd {
        let end = std::future::poll_fn(|cx| self.poll_run(cx)).await;
        self.shared.table().end(&end.to_string());
        end
    }

    fn poll_run(&mut self, cx: &mut Context<'_>) -> Poll<SessionEnd> {
        self.shared.table().register_driver(cx);
        let turn_ends = self.read + READ_TURN;
        while self.read < turn_ends {
            match self.poll_write_out(cx) {
                Poll::Ready(Err(source)) => {
                    return Poll::Ready(SessionEnd::io("write to", source));
                }
                Poll::Ready(Ok(())) if self.shared.table().has_said_bye() => {
                    return Poll::Ready(SessionEnd::Cancelled);
                }
                _ => {}
            }
            if self.shared.table().is_clogged() {
                return Poll::Pending;
            }
            // What came with the greetings is dispatched before the first read.
            let wanted = match self.dispatch() {
                Ok(wanted) => wanted,
                Err(end) => return Poll::Ready(end),
            };
            match self.poll_read(cx, wanted) {
                Poll::Pending => return self.poll_silence(cx),
                Poll::Ready(Ok(0)) => return Poll::Ready(SessionEnd::HungUp),
                Poll::Ready(Ok(count)) => self.read += count as u64,
                Poll::Ready(Err(source)) => {
                    return Poll::Ready(SessionEnd::io("read from", source));
                }
            }
        }
        if let Err(end) = self.dispatch() {
            return Poll::Ready(end);
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Ready once every frame has left.
    fn poll_write_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            {
                let mut table = self.shared.table();
                self.outbox.refill(&mut table);
                if table.is_quiet() {
                    self.outbox.settle();
                    self.inbox.settle();
                }
            }
            if self.outbox.is_empty() {
                if self.flushed {
                    return Poll::Ready(Ok(()));
                }
                let flush = Pin::new(&mut self.io).poll_flush(cx)?;
                self.flushed = flush.is_ready();
                return flush.map(Ok);
            }
            self.flushed = false;
            let written = ready!(self.outbox.poll_write(cx, &mut self.io))?;
            if written.is_nothing() {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outbox.advance(written, &mut self.shared.table());
        }
    }

    /// Reads once: into a pipe, what is left of a payload; else into the inbox, of which `wanted` bytes are needed in all.
    fn poll_read(&mut self, cx: &mut Context<'_>, wanted: usize) -> Poll<io::Result<usize>> {
        if let Some(count) = ready!(self.poll_read_rest(cx))? {
            return Poll::Ready(Ok(count));
        }
        let most = if self.by_header && self.rest.is_none() {
            wanted.saturating_sub(self.inbox.unread().len())
        } else {
            usize::MAX
        };
        self.inbox.poll_fill(cx, &mut self.io, wanted, most)
    }

    /// `None` if there is no such rest, or no pipe for it.
    fn poll_read_rest(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<usize>>> {
        let (Some(rest), Some(socket)) = (&mut self.rest, self.io.socket()) else {
            return Poll::Ready(Ok(None));
        };
        if !self.shared.table().has_place_for_pipe(rest.stream) {
            return Poll::Ready(Ok(None));
        }
        let Ok(mut pipe) = Pipe::take() else {
            return Poll::Ready(Ok(None));
        };
        let Poll::Ready(filled) = pipe.poll_fill(cx, socket, rest.left) else {
            pipe.give_back();
            return Poll::Pending;
        };
        let count = match filled {
            Err(why) if why.kind() == io::ErrorKind::InvalidInput => {
                self.shared.table().stop_pipes();
                return Poll::Ready(Ok(None));
            }
            Ok(0) => {
                pipe.give_back();
                return Poll::Ready(Ok(Some(0)));
            }
            filled => filled?,
        };
        self.shared.table().on_part(rest.stream, Piece::Piped(pipe));
        rest.left -= count;
        if rest.left == 0 {
            self.rest = None;
            self.by_header = true;
        }
        Poll::Ready(Ok(Some(count)))
    }

    /// Hands every whole frame in the inbox to the table; how long the next one is in all, as far as that is known.
    fn dispatch(&mut self) -> Result<usize, SessionEnd> {
        let mut table = self.shared.table();
        loop {
            if let Some(rest) = self.rest.take() {
                self.rest = rest.pass_on(&mut self.inbox, &mut table);
                if self.rest.is_some() {
                    return Ok(1);
                }
            }
            let unread = self.inbox.unread();
            if unread.first() == Some(&MAGIC[0]) {
                let Some(frame) = unread.first_chunk::<GREETING_LEN>() else {
                    return Ok(GREETING_LEN);
                };
                let greeting = Greeting::decode(frame);
                self.inbox.take(GREETING_LEN);
                on_greeting(self.side, self.session, greeting)?;
                continue;
            }
            let Some((header, rest)) = unread.split_first_chunk::<HEADER_LEN>() else {
                return Ok(HEADER_LEN);
            };
            let header = FrameHeader::decode(*header)?;
            if header.kind == FrameKind::Bye {
                return Err(SessionEnd::Goodbye);
            }
            let length = header.length;
            let is_bulk = length >= KEEPS_BUFFER;
            let Some(payload) = rest.get(..length) else {
                if !is_bulk || !table.has_place_for_pipe(header.stream) {
                    return Ok(HEADER_LEN + length);
                }
                table.admit(header.stream, length)?;
                self.inbox.take(HEADER_LEN);
                self.rest = Some(Rest {
                    stream: header.stream,
                    left: length,
                });
                continue;
            };
            if header.kind == FrameKind::Data {
                self.by_header = is_bulk && table.has_place_for_pipe(header.stream);
            }
            if is_bulk {
                let fresh = table.buffer();
                let chunk = self.inbox.take_with_buffer(HEADER_LEN, length, fresh);
                table.on_payload(header.stream, chunk)?;
            } else {
                table.on_frame(header, payload)?;
                self.inbox.take(HEADER_LEN + length);
            }
        }
    }

    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<SessionEnd> {
        if self.inbox.unread().is_empty() && self.rest.is_none() {
            self.silence = None;
            return Poll::Pending;
        }
        let now = Instant::now();
        let silence = self.silence.get_or_insert_with(|| Silence {
            timer: Box::pin(sleep(SILENCE_LIMIT)),
            seen: (self.read, now),
        });
        if silence.seen.0 != self.read {
            silence.seen = (self.read, now);
        }
        while silence.timer.as_mut().poll(cx).is_ready() {
            let limit = silence.seen.1 + SILENCE_LIMIT;
            if limit <= now {
                return Poll::Ready(SessionEnd::Silent(SILENCE_LIMIT));
            }
            silence.timer.as_mut().reset(limit);
        }
        Poll::Pending
    }
}

fn on_greeting(
    side: Side,
    session: SessionId,
    greeting: Option<Greeting>,
) -> Result<(), SessionEnd> {
    match (side, greeting) {
        // The host repeats its HELLO until it sees the ACK, which may have been under way.
        (Side::Guest, Some(Greeting::Hello(hello))) if hello.session == session => Ok(()),
        (Side::Guest, Some(Greeting::Hello(hello))) => Err(SessionEnd::Superseded(hello)),
        (Side::Host, Some(Greeting::Knock)) => Err(SessionEnd::Knocked),
        _ => Err(FrameError::Greeting.into()),
    }
}
