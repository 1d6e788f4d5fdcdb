//! Frames on their way into the carrier.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use tokio::io::AsyncWrite;

use super::send::{Bulk, IDLE_BUFFER};
use super::table::Table;

/// Bulk frames that one write takes along.
const FRAMES: usize = 4;

/// What the carrier takes next: the rest of the frame that it has a part of, urgent frames, bulk frames.
///
/// Urgent frames that come meanwhile overtake the bulk frames of which no byte has left.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    begun: Option<Bulk>,
    urgent: BytesMut,
    bulk: VecDeque<Bulk>,
}

impl Outbox {
    /// Takes over what the streams have queued: no bulk before the urgent frames that were queued before it.
    pub(super) fn refill(&mut self, table: &mut Table) {
        if !table.take_urgent(&mut self.urgent) {
            return;
        }
        while self.bulk.len() < FRAMES {
            let Some(bulk) = table.next_bulk() else { break };
            self.bulk.push_back(bulk);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.begun.is_none() && self.urgent.is_empty() && self.bulk.is_empty()
    }

    /// Writes once; how many bytes.
    pub(super) fn poll_write<S: AsyncWrite + Unpin>(
        &self,
        cx: &mut Context<'_>,
        io: &mut S,
    ) -> Poll<io::Result<usize>> {
        let mut slices = [IoSlice::new(&[]); FRAMES + 2];
        let mut used = 0;
        let begun = self.begun.iter().map(|bulk| bulk.frame.filled());
        let urgent = std::iter::once(&self.urgent[..]);
        let bulk = self.bulk.iter().map(|bulk| bulk.frame.filled());
        for bytes in begun.chain(urgent).chain(bulk).filter(|it| !it.is_empty()) {
            slices[used] = IoSlice::new(bytes);
            used += 1;
        }
        Pin::new(io).poll_write_vectored(cx, &slices[..used])
    }

    /// Takes `count` bytes off that were written, and tells the table which frames have left.
    pub(super) fn advance(&mut self, mut count: usize, table: &mut Table) {
        if let Some(mut bulk) = self.begun.take() {
            count = advance_frame(&mut bulk, count);
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
            count = advance_frame(&mut bulk, count);
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
            Some(bulk) => bulk.frame.filled().into(),
            // Perhaps in the middle of one.
            None => self.urgent,
        }
    }
}

/// Takes bytes off the front of a frame; how many are left for the next one.
fn advance_frame(bulk: &mut Bulk, count: usize) -> usize {
    let length = bulk.frame.len();
    bulk.frame.advance(count);
    count.saturating_sub(length)
}
