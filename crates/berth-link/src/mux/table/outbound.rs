//! What goes out: writers, and the driver who takes their frames.

use std::io;
use std::task::{Context, Poll};

use berth_relay::Pipe;
use bytes::BytesMut;

use super::{Bye, Table, is_over, is_reset};
use crate::frame::{FrameKind, MAX_PAYLOAD};
use crate::mux::chunk::{Buffer, Outgoing, Pool};
use crate::mux::send::{Bulk, Frame, Load, Schedule, Sending};

impl Table {
    /// The sending half of a stream that may be written to.
    fn writable(&mut self, id: u32) -> io::Result<(&mut Schedule, &mut Sending, &mut Pool)> {
        let stream = self.streams.get_mut(&id).ok_or(io::ErrorKind::BrokenPipe)?;
        if let Some(code) = stream.reset {
            return Err(is_reset(code));
        }
        if let Some(reason) = &self.ended {
            return Err(is_over(reason));
        }
        if stream.sending.is_finished() || self.bye != Bye::Unsaid {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok((&mut self.schedule, &mut stream.sending, &mut self.pool))
    }

    pub(in crate::mux) fn poll_write(
        &mut self,
        id: u32,
        cx: &Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let (schedule, half, pool) = self.writable(id)?;
        if bytes.is_empty() || schedule.hurry(id, half, bytes) {
            return Poll::Ready(Ok(bytes.len()));
        }
        match schedule.queue(id, half, bytes, pool) {
            0 => {
                schedule.wait(id, half, cx);
                Poll::Pending
            }
            count => Poll::Ready(Ok(count)),
        }
    }

    /// Lends a buffer to write into, and credit for what will be written: at most [`MAX_PAYLOAD`] bytes.
    pub(in crate::mux) fn poll_lend(
        &mut self,
        id: u32,
        cx: &Context<'_>,
    ) -> Poll<io::Result<(Outgoing, u32)>> {
        let (schedule, half, pool) = self.writable(id)?;
        if half.credit == 0 || !schedule.has_room(half) {
            schedule.wait(id, half, cx);
            return Poll::Pending;
        }
        let most = u32::try_from(MAX_PAYLOAD).unwrap_or(u32::MAX);
        let credit = half.credit.min(most);
        half.credit -= credit;
        Poll::Ready(Ok((Outgoing::new(pool.take()), credit)))
    }

    /// Lends a pipe, and credit for what will be in it; `None` if there are no pipes for this carrier.
    pub(in crate::mux) fn poll_lend_pipe(
        &mut self,
        id: u32,
        cx: &Context<'_>,
    ) -> Poll<io::Result<Option<(Pipe, u32)>>> {
        if !self.pipes {
            return Poll::Ready(Ok(None));
        }
        let (schedule, half, _) = self.writable(id)?;
        if half.credit == 0 || !schedule.has_room(half) {
            schedule.wait(id, half, cx);
            return Poll::Pending;
        }
        let Ok(pipe) = Pipe::take() else {
            return Poll::Ready(Ok(None));
        };
        let credit = std::mem::take(&mut half.credit);
        Poll::Ready(Ok(Some((pipe, credit))))
    }

    /// Takes back what [`Table::poll_lend_pipe`] lent, and queues what was put in.
    pub(in crate::mux) fn give_back_pipe(
        &mut self,
        id: u32,
        (pipe, credit): (Pipe, u32),
    ) -> io::Result<()> {
        let (schedule, half, _) = self.writable(id)?;
        half.credit += credit;
        if pipe.held() == 0 {
            pipe.give_back();
        } else {
            half.credit -= u32::try_from(pipe.held()).unwrap_or(u32::MAX);
            schedule.push(id, half, Load::Piped(pipe));
        }
        Ok(())
    }

    /// Takes back what [`Table::poll_lend`] lent, and queues what was written.
    pub(in crate::mux) fn give_back(
        &mut self,
        id: u32,
        (chunk, credit): (Outgoing, u32),
    ) -> io::Result<()> {
        let (schedule, half, pool) = match self.writable(id) {
            Ok(parts) => parts,
            Err(error) => {
                self.pool.give(chunk.into_buffer());
                return Err(error);
            }
        };
        half.credit += credit;
        if chunk.len() == 0 || schedule.hurry(id, half, chunk.payload()) {
            pool.give(chunk.into_buffer());
        } else {
            half.credit -= u32::try_from(chunk.len()).unwrap_or(u32::MAX);
            schedule.push(id, half, Load::Copied(chunk));
        }
        Ok(())
    }

    pub(in crate::mux) fn shut_down(&mut self, id: u32) -> io::Result<()> {
        let Some(stream) = self.streams.get_mut(&id) else {
            return Ok(());
        };
        if let Some(code) = stream.reset {
            return Err(is_reset(code));
        }
        if let Some(reason) = &self.ended {
            return Err(is_over(reason));
        }
        if self.bye == Bye::Unsaid {
            self.schedule.finish(id, &mut stream.sending);
        }
        Ok(())
    }

    pub(in crate::mux) fn say_bye(&mut self) {
        if self.bye == Bye::Unsaid && self.ended.is_none() {
            self.bye = Bye::Due;
            self.schedule.wake_driver();
        }
    }

    // What the driver asks for.

    pub(in crate::mux) fn register_driver(&mut self, cx: &Context<'_>) {
        self.schedule.register_driver(cx);
    }

    pub(in crate::mux) fn next_bulk(&mut self) -> Option<Bulk> {
        loop {
            let id = self.schedule.next_ready()?;
            let stream = self.streams.get_mut(&id);
            let bulk = stream.and_then(|it| self.schedule.next_of(id, &mut it.sending));
            if bulk.is_some() {
                return bulk;
            }
        }
    }

    /// Appends the urgent frames to `out`: the good-bye too, once nothing else is left. See [`Schedule::take_urgent`].
    pub(in crate::mux) fn take_urgent(&mut self, out: &mut BytesMut) -> bool {
        if self.bye == Bye::Due && !self.schedule.has_bulk() {
            self.schedule.send(FrameKind::Bye, 0, &[]);
            self.bye = Bye::Queued;
        }
        self.schedule.take_urgent(out)
    }

    /// A bulk frame has left.
    pub(in crate::mux) fn note_left(&mut self, bulk: Bulk) {
        match bulk.frame {
            Frame::Copied(chunk) => self.pool.give(chunk.into_buffer()),
            Frame::Piped(frame) => frame.give_back(),
        }
        let id = bulk.stream;
        let Some(stream) = self.streams.get_mut(&id) else {
            self.schedule.note_left();
            return self.wake_writers();
        };
        self.schedule.note_left_of(id, &mut stream.sending);
        if stream.is_left && !stream.sending.owes_fin() {
            self.forget(id);
        }
        self.wake_writers();
    }

    /// Lets as many writers go on as there is room for. Whoever does not take the turn has lost it, so that without bulk, which
    /// brings the next turn, everybody gets one.
    pub(super) fn wake_writers(&mut self) {
        let mut turns = self.schedule.turns();
        while turns > 0 {
            let Some(id) = self.schedule.next_waiting() else {
                return;
            };
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.sending.take_turn();
                turns -= 1;
            }
        }
    }

    /// Whether the peer causes more frames than it reads.
    pub(in crate::mux) fn is_clogged(&self) -> bool {
        self.schedule.is_clogged()
    }

    pub(in crate::mux) fn has_said_bye(&self) -> bool {
        self.bye == Bye::Queued
    }

    /// Whether only the control stream is left, so that big buffers can go.
    pub(in crate::mux) fn is_quiet(&self) -> bool {
        self.streams.len() <= 1
    }

    /// A big buffer for what comes in next.
    pub(in crate::mux) fn buffer(&mut self) -> Buffer {
        self.pool.take()
    }
}
