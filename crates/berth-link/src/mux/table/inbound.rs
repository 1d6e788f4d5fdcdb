//! What comes in: frames of the peer, and readers who take their bytes.

use std::io;
use std::task::{Context, Poll};

use super::{Stream, Table, is_over, is_reset, wake};
use crate::flow::{FlowHeader, FlowHeaderError};
use crate::frame::{FrameError, FrameHeader, FrameKind, MAX_CREDIT, ResetCode};
use crate::mux::receive::{Granted, Piece, Windows};
use crate::mux::send::Sending;

impl Table {
    /// The next bytes of a stream; `None` at its end.
    pub(in crate::mux) fn poll_piece(
        &mut self,
        id: u32,
        cx: &Context<'_>,
    ) -> Poll<io::Result<Option<Piece>>> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Poll::Ready(Ok(None));
        };
        if let Some(code) = stream.reset {
            return Poll::Ready(Err(is_reset(code)));
        }
        if let Some(piece) = stream.receiving.take() {
            return Poll::Ready(Ok(Some(piece)));
        }
        if stream.receiving.fin {
            return Poll::Ready(Ok(None));
        }
        if let Some(reason) = &self.ended {
            return Poll::Ready(Err(is_over(reason)));
        }
        stream.receiving.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Waits until the stream was reset or the session has ended, whatever is still to be read.
    pub(in crate::mux) fn poll_failed(&mut self, id: u32, cx: &Context<'_>) -> Poll<io::Error> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Poll::Pending;
        };
        if let Some(code) = stream.reset {
            return Poll::Ready(is_reset(code));
        }
        if let Some(reason) = &self.ended {
            return Poll::Ready(is_over(reason));
        }
        stream.receiving.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    /// The reader of a stream takes pipes, too.
    pub(in crate::mux) fn offer_pipes(&mut self, id: u32) {
        if self.pipes
            && let Some(stream) = self.streams.get_mut(&id)
        {
            stream.receiving.offer_pipes();
        }
    }

    /// Takes back a piece that the reader has read, `count` bytes in all, and gives the peer credit for them.
    pub(in crate::mux) fn note_read(&mut self, id: u32, piece: Piece, count: usize) {
        self.recycle(piece);
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if stream.reset.is_some() || self.ended.is_some() {
            return;
        }
        let Granted { credit, is_short } = self.windows.note_read(id, &mut stream.receiving, count);
        if credit > 0 {
            self.send(FrameKind::Credit, id, &credit.to_be_bytes());
        }
        if is_short {
            self.recall_credit();
        }
    }

    /// Asks the peer for credit that it does not use.
    fn recall_credit(&mut self) {
        for id in self.windows.next_to_ask() {
            let stream = self.streams.get_mut(&id);
            if stream.is_some_and(|stream| Windows::ask(&mut stream.receiving)) {
                self.send(FrameKind::Recall, id, &[]);
            }
        }
    }

    /// A whole frame.
    pub(in crate::mux) fn on_frame(
        &mut self,
        frame: FrameHeader,
        payload: &[u8],
    ) -> Result<(), FrameError> {
        let id = frame.stream;
        if frame.kind == FrameKind::Open {
            return self.on_open(id, payload);
        }
        let Some(stream) = self.streams.get_mut(&id) else {
            return self.on_late_frame(id);
        };
        if stream.reset.is_some() {
            return Ok(());
        }
        match frame.kind {
            FrameKind::Data => {
                stream.receiving.admit(id, payload.len())?;
                stream.receiving.keep_copy(payload);
                wake(&mut stream.receiving.reader);
            }
            FrameKind::Credit => on_credit(&mut stream.sending, id, number(payload))?,
            FrameKind::Return => {
                let half = &mut stream.receiving;
                self.windows.note_return(id, half, number(payload))?;
            }
            FrameKind::Recall => {
                let idle = stream.sending.take_idle_credit();
                if idle > 0 {
                    self.send(FrameKind::Return, id, &idle.to_be_bytes());
                }
            }
            FrameKind::Fin if stream.receiving.fin => return Err(FrameError::AfterFin(id)),
            FrameKind::Fin => {
                stream.receiving.fin = true;
                self.windows.note_fin(id, &mut stream.receiving);
                wake(&mut stream.receiving.reader);
            }
            FrameKind::Reset => self.on_reset(id, ResetCode::from_code(code(payload))),
            // Their own cases elsewhere; a header of theirs does not name a stream that exists.
            FrameKind::Open | FrameKind::Bye => {}
        }
        Ok(())
    }

    /// A DATA frame whose payload of `length` bytes follows in parts.
    pub(in crate::mux) fn admit(&mut self, id: u32, length: usize) -> Result<(), FrameError> {
        match self.streams.get_mut(&id) {
            None => self.on_late_frame(id),
            Some(stream) if stream.reset.is_some() => Ok(()),
            Some(stream) => stream.receiving.admit(id, length),
        }
    }

    /// A part of a payload that was admitted.
    pub(in crate::mux) fn on_part(&mut self, id: u32, piece: Piece) {
        match self.streams.get_mut(&id) {
            Some(stream) if stream.reset.is_none() => {
                stream.receiving.keep(piece);
                wake(&mut stream.receiving.reader);
            }
            _ => self.recycle(piece),
        }
    }

    /// The same, with a copy.
    pub(in crate::mux) fn on_copied_part(&mut self, id: u32, bytes: &[u8]) {
        if let Some(stream) = self.streams.get_mut(&id)
            && stream.reset.is_none()
        {
            stream.receiving.keep_copy(bytes);
            wake(&mut stream.receiving.reader);
        }
    }

    /// Whether the next payload of a stream may come in a pipe.
    pub(in crate::mux) fn has_place_for_pipe(&self, id: u32) -> bool {
        let stream = self.streams.get(&id);
        self.pipes
            && stream.is_some_and(|it| it.reset.is_none() && it.receiving.has_place_for_pipe())
    }

    fn on_reset(&mut self, id: u32, code: ResetCode) {
        // A stream that was reset before anybody accepted it is as if it had never been: it takes nobody's place.
        let is_unseen = self.arrivals.remove(&id).is_some();
        let Some(stream) = self.streams.get_mut(&id) else {
            return;
        };
        if is_unseen || stream.is_left {
            return self.forget(id);
        }
        stream.reset = Some(code);
        self.windows.note_end(id, &mut stream.receiving);
        for buffer in self.schedule.discard(&mut stream.sending) {
            self.pool.give(buffer);
        }
        stream.wake();
        self.discard_received(id);
        self.wake_writers();
    }

    /// Frames that were under way when this end forgot the stream are void; those of a stream that never was are not.
    fn on_late_frame(&self, id: u32) -> Result<(), FrameError> {
        let existed = if self.is_own(id) {
            self.next_own.is_none_or(|next| id < next)
        } else {
            id <= self.last_peer
        };
        if existed {
            Ok(())
        } else {
            Err(FrameError::NeverOpened(id))
        }
    }

    fn on_open(&mut self, id: u32, payload: &[u8]) -> Result<(), FrameError> {
        if self.is_own(id) || id <= self.last_peer {
            return Err(FrameError::OutOfTurn(id));
        }
        self.last_peer = id;
        let header = match FlowHeader::decode(payload) {
            Ok(header) => header,
            Err(FlowHeaderError::UnknownKind(_)) => {
                self.refuse(id, ResetCode::Unsupported);
                return Ok(());
            }
            Err(source) => return Err(FrameError::Open { stream: id, source }),
        };
        if !self.accepting {
            self.refuse(id, ResetCode::Unsupported);
        } else if self.peer_open >= self.limits.peer_streams {
            self.refuse(id, ResetCode::TooMany);
        } else {
            self.peer_open += 1;
            self.streams.insert(id, Stream::new());
            self.arrivals.insert(id, header);
            wake(&mut self.acceptor);
        }
        Ok(())
    }

    fn refuse(&mut self, id: u32, code: ResetCode) {
        self.send(FrameKind::Reset, id, &code.code().to_be_bytes());
    }
}

/// The number that is a payload; its length was checked with the header.
fn number(payload: &[u8]) -> u32 {
    payload.try_into().map_or(0, u32::from_be_bytes)
}

fn code(payload: &[u8]) -> u16 {
    payload.try_into().map_or(0, u16::from_be_bytes)
}

fn on_credit(half: &mut Sending, id: u32, more: u32) -> Result<(), FrameError> {
    half.credit = half
        .credit
        .checked_add(more)
        .filter(|credit| more > 0 && *credit <= MAX_CREDIT)
        .ok_or(FrameError::Credit(id))?;
    wake(&mut half.writer);
    Ok(())
}
