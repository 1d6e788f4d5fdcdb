//! A client's stream: requests come in, are answered at once or by a thread, and replies go out.

use std::sync::Arc;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio_util::sync::CancellationToken;

use crate::desk::Desk;
use crate::operation::Operation;
use crate::outbox::Outbox;
use crate::serve::{Ended, ServeError, Violation};
use crate::share::{Caller, Limits};
use crate::wire::request::{Malformed, parse};
use crate::wire::{MAX_PACKET, Status, fxp, reply};
use crate::workers::{Job, Workers};

/// Room that is made for input at a time, in bytes.
const INPUT: usize = 128 * 1024;

/// Room for input that is worth a read, in bytes.
const WORTH_READING: usize = 32 * 1024;

/// Replies of this size go out before more requests are looked at, in bytes: the client can begin with them.
const ENOUGH: usize = 64 * 1024;

/// After so many turns without waiting, other tasks of the thread get theirs.
const TURNS: u32 = 32;

/// One client's stream.
pub(crate) struct Session<R, W> {
    pub(crate) reader: R,
    pub(crate) writer: W,
    pub(crate) state: State,
}

/// What is known of a client.
pub(crate) struct State {
    desk: Arc<Desk>,
    workers: Workers,
    caller: Caller,
    limits: Limits,
    input: BytesMut,
    outbox: Outbox,
    /// Requests for the threads that they have not got yet.
    batch: Vec<Job>,
    greeted: bool,
    /// Whether the client sends no more.
    ended: bool,
    /// Requests that threads have not answered.
    with_threads: usize,
    /// What those are reckoned at, in bytes.
    with_threads_cost: usize,
}

/// Why no more requests are taken in now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pause {
    /// There is no whole one.
    Input,
    /// There is enough to do or to send.
    Busy,
}

impl<R: AsyncRead + Unpin, W: AsyncWrite + Unpin> Session<R, W> {
    /// Serves until the end.
    pub(crate) async fn run(mut self, cancel: CancellationToken) -> Result<Ended, ServeError> {
        let Self {
            reader,
            writer,
            state,
        } = &mut self;
        let mut turns = 0;
        loop {
            state.take_done();
            let pause = state.take_requests()?;
            if state.is_through() {
                return state.end();
            }
            let reads = pause == Pause::Input && !state.ended;
            let State {
                input,
                outbox,
                workers,
                ..
            } = state;
            tokio::select! {
                biased;
                () = cancel.cancelled() => return Ok(Ended::Cancelled),
                sent = outbox.write_some(writer), if !outbox.is_empty() => {
                    sent.map_err(ServeError::Carrier)?;
                }
                read = reader.read_buf(make_room(input)), if reads => {
                    state.ended = read.map_err(ServeError::Carrier)? == 0;
                }
                () = workers.replied(), if state.with_threads > 0 => {}
            }
            turns = (turns + 1) % TURNS;
            if turns == 0 {
                tokio::task::yield_now().await;
            }
        }
    }
}

/// Room for what the client sends next: a whole packet if one has begun.
fn make_room(input: &mut BytesMut) -> &mut BytesMut {
    let packet = input
        .first_chunk()
        .map_or(0, |length| u32::from_be_bytes(*length).min(MAX_PACKET));
    let missing = (4 + packet as usize).saturating_sub(input.len());
    if input.capacity() - input.len() < missing.max(WORTH_READING) {
        input.reserve(missing.max(INPUT));
    }
    input
}

impl State {
    pub(crate) fn new(desk: Desk, caller: Caller, limits: Limits) -> Self {
        let desk = Arc::new(desk);
        Self {
            workers: Workers::new(Arc::clone(&desk), &limits),
            desk,
            caller,
            limits,
            input: BytesMut::new(),
            outbox: Outbox::default(),
            batch: Vec::new(),
            greeted: false,
            ended: false,
            with_threads: 0,
            with_threads_cost: 0,
        }
    }

    /// Whether the client sends no more and has all its replies.
    fn is_through(&self) -> bool {
        self.ended && self.with_threads == 0 && self.outbox.is_empty()
    }

    fn end(&self) -> Result<Ended, ServeError> {
        if self.input.is_empty() {
            Ok(Ended::ByClient)
        } else {
            Err(Violation::Cut.into())
        }
    }

    /// Takes what the threads have done.
    fn take_done(&mut self) {
        if self.with_threads == 0 {
            return;
        }
        for done in self.workers.take_done() {
            self.with_threads -= 1;
            self.with_threads_cost -= done.cost;
            self.outbox.add(done.reply);
        }
    }

    /// Takes in requests: answers those that can be answered at once, and hands the others to the threads.
    fn take_requests(&mut self) -> Result<Pause, Violation> {
        let taken = self.take_until_pause();
        self.workers.submit(&mut self.batch);
        taken
    }

    fn take_until_pause(&mut self) -> Result<Pause, Violation> {
        loop {
            if self.is_busy() {
                return Ok(Pause::Busy);
            }
            let Some(packet) = self.packet()? else {
                return Ok(Pause::Input);
            };
            if self.greeted {
                self.take(&packet)?;
            } else {
                self.greet(&packet)?;
            }
        }
    }

    fn is_busy(&self) -> bool {
        self.outbox.len() >= ENOUGH
            || self.with_threads >= self.limits.requests
            || self.with_threads_cost + self.outbox.len() >= self.limits.memory
                && (self.with_threads > 0 || !self.outbox.is_empty())
    }

    /// The next packet, without its length, if it is there as a whole.
    fn packet(&mut self) -> Result<Option<Bytes>, Violation> {
        let Some(length) = self.input.first_chunk() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes(*length);
        if !(5..=MAX_PACKET).contains(&length) {
            return Err(Violation::Length(length));
        }
        let whole = 4 + length as usize;
        if self.input.len() < whole {
            return Ok(None);
        }
        self.input.advance(4);
        Ok(Some(self.input.split_to(length as usize).freeze()))
    }

    fn greet(&mut self, packet: &Bytes) -> Result<(), Violation> {
        if packet[0] != fxp::INIT {
            return Err(Violation::Greeting(packet[0]));
        }
        reply::version(self.outbox.open());
        self.greeted = true;
        Ok(())
    }

    fn take(&mut self, packet: &Bytes) -> Result<(), Violation> {
        let length = u32::try_from(packet.len()).unwrap_or(u32::MAX);
        let (id, request) = parse(packet).ok_or(Violation::Length(length))?;
        let operation = match request {
            Ok(request) => Operation::of(request, &self.desk.handles),
            Err(Malformed) => Operation::Answer(Status::BadMessage),
        };
        let access = operation.access();
        let in_order = (self.with_threads == 0 || !self.workers.holds_up(access))
            && !self.batch.iter().any(|job| access.waits_for(job.access));
        let desk = &self.desk;
        if in_order && desk.answer_from_cache(id, &operation, self.outbox.open()) {
            return Ok(());
        }
        if in_order && self.waits_here(&operation) {
            self.desk.carry_out(id, operation, self.outbox.open());
            return Ok(());
        }
        let cost = operation.cost();
        self.with_threads += 1;
        self.with_threads_cost += cost;
        self.batch.push(Job {
            id,
            operation,
            access,
            cost,
        });
        Ok(())
    }

    /// Whether a request that may wait for a disk does so on this thread, which nobody else needs: that saves two changes of threads.
    fn waits_here(&self, operation: &Operation) -> bool {
        if self.caller == Caller::MustNotBlock || self.with_threads > 0 {
            return false;
        }
        match operation {
            // Long, and others need not wait for it.
            Operation::Sync(_) => false,
            // Several at once make better use of a disk.
            Operation::Read { .. } => self.input.is_empty(),
            _ => true,
        }
    }
}
