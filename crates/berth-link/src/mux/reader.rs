//! What comes from the carrier, on its way to the table.

use std::io;
use std::task::{Context, Poll, ready};

use berth_relay::{Carrier, Pipe};

use super::receive::Piece;
use super::table::Table;
use super::{Inbox, Shared, Side};
use crate::frame::{FrameError, FrameHeader, FrameKind, HEADER_LEN, MAX_PAYLOAD};
use crate::hello::{GREETING_LEN, Greeting, MAGIC, SessionId};
use crate::session::SessionEnd;

/// Payloads from this length on keep the buffer that they came in, or come through pipes; shorter ones are copied, so that no
/// buffer is kept for a small part of it.
const BULK: usize = MAX_PAYLOAD / 2;

/// Reads frames and hands them to a table.
#[derive(Debug)]
pub(super) struct Reader {
    inbox: Inbox,
    side: Side,
    session: SessionId,
    /// The long payload whose header came last.
    rest: Option<Rest>,
    /// Nothing is read beyond the next header, because its payload may come through a pipe, as the last one could.
    by_header: bool,
}

/// What has not been handed on of a payload.
#[derive(Debug, Clone, Copy)]
struct Rest {
    stream: u32,
    left: usize,
}

impl Reader {
    pub(super) fn new(inbox: Inbox, side: Side, session: SessionId) -> Self {
        Self {
            inbox,
            side,
            session,
            rest: None,
            by_header: false,
        }
    }

    /// What was read behind the end of the session.
    pub(super) fn take_inbox(&mut self) -> Inbox {
        std::mem::take(&mut self.inbox)
    }

    /// Gives memory back, because there are no flows.
    pub(super) fn settle(&mut self) {
        self.inbox.settle();
    }

    /// Whether a frame has begun and not ended.
    pub(super) fn is_within_frame(&self) -> bool {
        self.rest.is_some() || !self.inbox.unread().is_empty()
    }

    /// Hands on what is in the inbox; how many bytes must be there before there is more to hand on.
    pub(super) fn dispatch(&mut self, table: &mut Table) -> Result<usize, SessionEnd> {
        loop {
            if let Some(wanted) = self.pass_on_rest(table) {
                return Ok(wanted);
            }
            let unread = self.inbox.unread();
            if unread.first() == Some(&MAGIC[0]) {
                let Some(frame) = unread.first_chunk() else {
                    return Ok(GREETING_LEN);
                };
                let greeting = Greeting::decode(frame);
                self.inbox.take(GREETING_LEN);
                on_greeting(self.side, self.session, greeting)?;
                continue;
            }
            let Some((header, payload)) = unread.split_first_chunk() else {
                return Ok(HEADER_LEN);
            };
            let header = FrameHeader::decode(*header)?;
            let FrameHeader { stream, length, .. } = header;
            match header.kind {
                FrameKind::Bye => return Err(SessionEnd::Goodbye),
                FrameKind::Data if length >= BULK => {
                    table.admit(stream, length)?;
                    self.inbox.take(HEADER_LEN);
                    self.by_header = table.has_place_for_pipe(stream);
                    self.rest = Some(Rest {
                        stream,
                        left: length,
                    });
                }
                kind => {
                    let Some(payload) = payload.get(..length) else {
                        return Ok(HEADER_LEN + length);
                    };
                    table.on_frame(header, payload)?;
                    self.inbox.take(HEADER_LEN + length);
                    self.by_header &= kind != FrameKind::Data;
                }
            }
        }
    }

    /// Hands on what is in the inbox of a long payload: at once if more of it can come through a pipe, else when it is worth a
    /// buffer. How many bytes must be there before there is more; `None` if that was all of the payload.
    fn pass_on_rest(&mut self, table: &mut Table) -> Option<usize> {
        while let Some(Rest { stream, left }) = self.rest {
            let count = self.inbox.unread().len().min(left);
            let least = if table.has_place_for_pipe(stream) {
                1
            } else {
                MAX_PAYLOAD.min(left)
            };
            if count < least {
                return Some(least);
            }
            if count >= BULK {
                let fresh = table.buffer();
                let chunk = self.inbox.take_with_buffer(count, fresh);
                table.on_part(stream, Piece::Copied(chunk));
            } else {
                table.on_copied_part(stream, &self.inbox.unread()[..count]);
                self.inbox.take(count);
            }
            self.note_passed_on(count);
        }
        None
    }

    fn note_passed_on(&mut self, count: usize) {
        if let Some(rest) = &mut self.rest {
            rest.left -= count;
        }
        self.rest.take_if(|rest| rest.left == 0);
    }

    /// Reads once: into a pipe, what is left of a long payload; else into the inbox, where `wanted` bytes are needed in all.
    pub(super) fn poll_read<S: Carrier>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut S,
        wanted: usize,
        shared: &Shared,
    ) -> Poll<io::Result<usize>> {
        if let Some(count) = ready!(self.poll_read_rest(cx, io, shared))? {
            return Poll::Ready(Ok(count));
        }
        let most = if self.by_header && self.rest.is_none() {
            wanted.saturating_sub(self.inbox.unread().len())
        } else {
            usize::MAX
        };
        self.inbox.poll_fill(cx, io, wanted, most)
    }

    /// `None` if there is no such rest, or no pipe for it.
    fn poll_read_rest<S: Carrier>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut S,
        shared: &Shared,
    ) -> Poll<io::Result<Option<usize>>> {
        let (Some(Rest { stream, left }), Some(socket)) = (self.rest, io.socket()) else {
            return Poll::Ready(Ok(None));
        };
        // What is in the inbox comes first.
        if !self.inbox.unread().is_empty() || !shared.table().has_place_for_pipe(stream) {
            return Poll::Ready(Ok(None));
        }
        let Ok(mut pipe) = Pipe::take() else {
            return Poll::Ready(Ok(None));
        };
        let Poll::Ready(filled) = pipe.poll_fill(cx, socket, left) else {
            pipe.give_back();
            return Poll::Pending;
        };
        match filled {
            Err(why) if why.kind() == io::ErrorKind::InvalidInput => {
                shared.table().stop_pipes();
                return Poll::Ready(Ok(None));
            }
            Ok(0) => pipe.give_back(),
            Ok(count) => {
                shared.table().on_part(stream, Piece::Piped(pipe));
                self.note_passed_on(count);
            }
            Err(why) => return Poll::Ready(Err(why)),
        }
        Poll::Ready(filled.map(Some))
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
