//! The one that reads and writes the carrier of a session.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use berth_relay::Carrier;
use bytes::BytesMut;
use tokio::time::{Instant, Sleep, sleep};

use super::outbox::Outbox;
use super::reader::Reader;
use super::{Inbox, Shared, Side};
use crate::hello::SessionId;
use crate::session::SessionEnd;

/// How long the peer may stop in the middle of a frame. A frame leaves its sender whole, so it is lost bytes, not slowness.
pub const SILENCE_LIMIT: Duration = Duration::from_secs(5);

/// Bytes read in one turn, so that a busy carrier lets other tasks run, and readers find what is still in the cache.
const READ_TURN: u64 = 256 * 1024;

/// Moves bytes between the carrier and the streams of one session.
#[derive(Debug)]
pub struct Driver<S> {
    io: S,
    reader: Reader,
    shared: Shared,
    outbox: Outbox,
    flushed: bool,
    /// Bytes read so far.
    read: u64,
    silence: Option<Silence>,
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
            reader: Reader::new(inbox, side, session),
            shared,
            outbox: Outbox::default(),
            flushed: true,
            read: 0,
            silence: None,
        }
    }

    /// Ends the session for every handle.
    #[must_use]
    pub fn into_remains(mut self) -> Remains {
        Remains {
            inbox: self.reader.take_inbox(),
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
            let wanted = match self.reader.dispatch(&mut self.shared.table()) {
                Ok(wanted) => wanted,
                Err(end) => return Poll::Ready(end),
            };
            match self
                .reader
                .poll_read(cx, &mut self.io, wanted, &self.shared)
            {
                Poll::Pending => return self.poll_silence(cx),
                Poll::Ready(Ok(0)) => return Poll::Ready(SessionEnd::HungUp),
                Poll::Ready(Ok(count)) => self.read += count as u64,
                Poll::Ready(Err(source)) => {
                    return Poll::Ready(SessionEnd::io("read from", source));
                }
            }
        }
        if let Err(end) = self.reader.dispatch(&mut self.shared.table()) {
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
                    self.reader.settle();
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
            let written = ready!(self.outbox.poll_write(cx, &mut self.io, &self.shared))?;
            if written.is_nothing() {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.outbox.advance(written, &mut self.shared.table());
        }
    }

    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<SessionEnd> {
        if !self.reader.is_within_frame() {
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
