//! Frames on their way into the carrier.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use berth_relay::Carrier;
use bytes::{Buf, BytesMut};

use super::Shared;
use super::piped::PipedFrame;
use super::send::{Bulk, Frame, IDLE_BUFFER};
use super::table::Table;

/// Bulk frames that one write takes along.
const FRAMES: usize = 4;

/// What the carrier takes next: the rest of the frame that it has a part of, urgent frames, bulk frames.
///
/// Urgent frames that come meanwhile overtake the bulk frames of which no byte has left. Nothing is queued behind a frame whose
/// payload is in a pipe.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    begun: Option<Bulk>,
    urgent: BytesMut,
    bulk: VecDeque<Bulk>,
}

/// Bytes that the carrier took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Written {
    FromMemory(usize),
    FromPipe(usize),
}

impl Written {
    pub(super) fn is_nothing(self) -> bool {
        matches!(self, Self::FromMemory(0) | Self::FromPipe(0))
    }
}

impl Outbox {
    /// Takes over what the streams have queued: no bulk before the urgent frames that were queued before it.
    pub(super) fn refill(&mut self, table: &mut Table) {
        if !table.take_urgent(&mut self.urgent) {
            return;
        }
        while self.bulk.len() < FRAMES && !self.bulk.back().is_some_and(is_piped) {
            let Some(bulk) = table.next_bulk() else { break };
            self.bulk.push_back(bulk);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.begun.is_none() && self.urgent.is_empty() && self.bulk.is_empty()
    }

    /// Writes once; how many bytes.
    pub(super) fn poll_write<S: Carrier>(
        &mut self,
        cx: &mut Context<'_>,
        io: &mut S,
        shared: &Shared,
    ) -> Poll<io::Result<Written>> {
        if let Some(frame) = self.piped() {
            let written = match io.socket() {
                Some(socket) => ready!(frame.poll_write(cx, socket)),
                None => Err(io::ErrorKind::InvalidInput.into()),
            };
            match written {
                Err(why) if why.kind() == io::ErrorKind::InvalidInput => {
                    shared.table().stop_pipes();
                    frame.copy_out()?;
                }
                written => return Poll::Ready(written.map(Written::FromPipe)),
            }
        }
        let (slices, used) = self.slices();
        let written = ready!(Pin::new(io).poll_write_vectored(cx, &slices[..used]));
        Poll::Ready(written.map(Written::FromMemory))
    }

    /// The frame of which the carrier takes bytes in pipes next.
    fn piped(&mut self) -> Option<&mut PipedFrame> {
        if self.begun.is_none() && self.urgent.is_empty() {
            self.begun = self.bulk.pop_front_if(|bulk| is_piped(bulk));
        }
        match &mut self.begun.as_mut()?.frame {
            Frame::Piped(frame) if frame.copied().is_empty() => Some(frame),
            _ => None,
        }
    }

    /// What can leave from memory at once.
    fn slices(&self) -> ([IoSlice<'_>; FRAMES + 2], usize) {
        let begun = self.begun.as_ref().map(|bulk| &bulk.frame);
        // Nothing goes between a header and what is in its pipe.
        let behind = match begun {
            Some(Frame::Piped(frame)) if frame.piped() > 0 => 0,
            _ => usize::MAX,
        };
        let urgent = std::iter::once(&self.urgent[..]);
        let bulk = self.bulk.iter().map(|bulk| bulk.frame.bytes());
        let rest = urgent.chain(bulk).take(behind);
        let mut slices = [IoSlice::new(&[]); FRAMES + 2];
        let mut used = 0;
        for bytes in begun.map(Frame::bytes).into_iter().chain(rest) {
            if !bytes.is_empty() {
                slices[used] = IoSlice::new(bytes);
                used += 1;
            }
        }
        (slices, used)
    }

    /// Takes bytes off that were written, and tells the table which frames have left.
    pub(super) fn advance(&mut self, written: Written, table: &mut Table) {
        let mut count = match written {
            Written::FromMemory(count) => count,
            Written::FromPipe(_) => 0,
        };
        if let Some(mut bulk) = self.begun.take() {
            count = bulk.frame.advance(count);
            if !bulk.frame.is_empty() {
                self.begun = Some(bulk);
                return;
            }
            table.note_left(bulk);
        }
        let urgent = count.min(self.urgent.len());
        self.urgent.advance(urgent);
        count -= urgent;
        while count > 0 {
            let Some(mut bulk) = self.bulk.pop_front() else {
                return;
            };
            count = bulk.frame.advance(count);
            if bulk.frame.is_empty() {
                table.note_left(bulk);
            } else {
                self.begun = Some(bulk);
            }
        }
    }

    /// Gives memory back, because there are no flows.
    pub(super) fn settle(&mut self) {
        if self.is_empty() && self.urgent.capacity() > IDLE_BUFFER {
            self.urgent = BytesMut::new();
        }
    }

    /// What has to leave so that the last frame is whole.
    pub(super) fn into_unsent(self) -> BytesMut {
        match self.begun {
            Some(Bulk {
                frame: Frame::Piped(frame),
                ..
                // The bytes are there; without them the peer waits until it loses patience.
            }) => frame.into_copied().unwrap_or_default(),
            Some(bulk) => bulk.frame.bytes().into(),
            // Perhaps in the middle of one.
            None => self.urgent,
        }
    }
}

fn is_piped(bulk: &Bulk) -> bool {
    matches!(bulk.frame, Frame::Piped(_))
}
