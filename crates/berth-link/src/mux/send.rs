//! What goes out: small frames at once, bulk in turn.

use std::collections::VecDeque;
use std::task::{Context, Waker};

use berth_relay::Pipe;
use bytes::{BufMut, BytesMut};

use super::chunk::{Buffer, Chunk, Outgoing, Pool};
use super::piped::PipedFrame;
use super::wake;
use crate::frame::{FrameHeader, FrameKind, INITIAL_CREDIT};

/// Bytes that one stream may have among the urgent frames at a time; what is more is bulk.
const HASTE: usize = 4 * 1024;

/// Bytes of urgent frames beyond which nobody's data is urgent.
const URGENT_HIGH: usize = 64 * 1024;

/// Bytes of urgent frames beyond which nothing more is read from the carrier: the peer causes frames and does not read ours.
const URGENT_HARD: usize = 256 * 1024;

/// Space for urgent frames that is kept while there are no flows.
pub(super) const IDLE_BUFFER: usize = 4 * 1024;

/// Loads of one stream that wait for the carrier before its writer has to.
const STREAM_BULK: usize = 2;

/// Loads of all streams that wait for the carrier before writers have to.
const SESSION_BULK: usize = 16;

/// The sending half of a stream.
#[derive(Debug)]
pub(super) struct Sending {
    /// Bytes that this end may still send.
    pub(super) credit: u32,
    loads: VecDeque<Load>,
    /// Loads that have not left: those in `loads`, and those on the carrier.
    bulk: usize,
    /// Which batch of urgent frames the stream was last part of, and with how many bytes.
    hurried: (u64, usize),
    fin: Fin,
    /// It is in [`Schedule::ready`].
    is_ready: bool,
    /// It is in [`Schedule::waiting`].
    is_waiting: bool,
    pub(super) writer: Option<Waker>,
}

/// Bulk that a writer has queued: one frame.
#[derive(Debug)]
pub(super) enum Load {
    Copied(Outgoing),
    /// Never in this process's memory.
    Piped(Pipe),
}

/// How far the end of a stream has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fin {
    Unwritten,
    /// Behind bulk.
    Due,
    Queued,
}

impl Sending {
    pub(super) fn new() -> Self {
        Self {
            credit: INITIAL_CREDIT,
            loads: VecDeque::new(),
            bulk: 0,
            hurried: (0, 0),
            fin: Fin::Unwritten,
            is_ready: false,
            is_waiting: false,
            writer: None,
        }
    }

    /// Whether the end of the stream was written.
    pub(super) fn is_finished(&self) -> bool {
        self.fin != Fin::Unwritten
    }

    /// Whether it was, and waits behind bulk.
    pub(super) fn owes_fin(&self) -> bool {
        self.fin == Fin::Due
    }

    /// Credit that the stream does not need as long as nobody writes.
    pub(super) fn take_idle_credit(&mut self) -> u32 {
        if self.bulk > 0 || self.is_finished() {
            return 0;
        }
        let idle = self.credit.saturating_sub(INITIAL_CREDIT);
        self.credit -= idle;
        idle
    }

    /// The writer may try again.
    pub(super) fn take_turn(&mut self) {
        self.is_waiting = false;
        wake(&mut self.writer);
    }
}

/// Bulk on its way.
#[derive(Debug)]
pub(super) struct Bulk {
    pub(super) stream: u32,
    pub(super) frame: Frame,
}

/// What has not left of a frame.
#[derive(Debug)]
pub(super) enum Frame {
    Copied(Chunk),
    Piped(PipedFrame),
}

impl Frame {
    /// Bytes that leave from memory; those of a pipe come behind them.
    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Self::Copied(chunk) => chunk.filled(),
            Self::Piped(frame) => frame.copied(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Copied(chunk) => chunk.is_empty(),
            Self::Piped(frame) => frame.is_empty(),
        }
    }

    /// Takes bytes off the front that left from memory; how many of them belong to what comes behind it.
    pub(super) fn advance(&mut self, count: usize) -> usize {
        match self {
            Self::Copied(chunk) => {
                let length = chunk.len();
                chunk.advance(count);
                count.saturating_sub(length)
            }
            Self::Piped(frame) => frame.advance(count),
        }
    }
}

/// Frames of all streams in the order in which they leave: urgent ones as they come, bulk in turn.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    urgent: BytesMut,
    /// Counts the times that urgent frames were taken.
    batch: u64,
    /// Streams with bulk.
    ready: VecDeque<u32>,
    /// Streams whose writers wait until there is less bulk, first come first served.
    waiting: VecDeque<u32>,
    /// Bulk frames that have not left.
    bulk: usize,
    driver: Option<Waker>,
}

impl Schedule {
    pub(super) fn register_driver(&mut self, cx: &Context<'_>) {
        match &mut self.driver {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
    }

    pub(super) fn wake_driver(&mut self) {
        wake(&mut self.driver);
    }

    /// Queues a small frame.
    pub(super) fn send(&mut self, kind: FrameKind, stream: u32, payload: &[u8]) {
        let header = FrameHeader {
            kind,
            length: payload.len(),
            stream,
        };
        self.urgent.put_slice(&header.encode());
        self.urgent.put_slice(payload);
        wake(&mut self.driver);
    }

    /// Whether the peer causes more frames than it reads.
    pub(super) fn is_clogged(&self) -> bool {
        self.urgent.len() > URGENT_HARD
    }

    /// Sends a little data at once, if it is little, and nothing of the stream is in front of it.
    pub(super) fn hurry(&mut self, id: u32, half: &mut Sending, bytes: &[u8]) -> bool {
        if half.hurried.0 != self.batch {
            half.hurried = (self.batch, 0);
        }
        let is_little = half.hurried.1 + bytes.len() <= HASTE && self.urgent.len() < URGENT_HIGH;
        if half.bulk > 0 || !is_little || (half.credit as usize) < bytes.len() {
            return false;
        }
        half.hurried.1 += bytes.len();
        half.credit -= u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        self.send(FrameKind::Data, id, bytes);
        true
    }

    /// Queues as much as there is credit and room for; how much that was.
    pub(super) fn queue(
        &mut self,
        id: u32,
        half: &mut Sending,
        bytes: &[u8],
        pool: &mut Pool,
    ) -> usize {
        let credit = usize::try_from(half.credit).unwrap_or(usize::MAX);
        let most = &bytes[..bytes.len().min(credit)];
        if most.is_empty() {
            return 0;
        }
        let mut count = match half.loads.back_mut() {
            Some(Load::Copied(last)) => last.append(most),
            _ => 0,
        };
        if count == 0 && self.has_room(half) {
            let mut chunk = Outgoing::new(pool.take());
            count = chunk.append(most);
            self.push(id, half, Load::Copied(chunk));
        }
        half.credit -= u32::try_from(count).unwrap_or(u32::MAX);
        count
    }

    /// Queues bulk whose credit was taken.
    pub(super) fn push(&mut self, id: u32, half: &mut Sending, load: Load) {
        half.loads.push_back(load);
        half.bulk += 1;
        self.bulk += 1;
        self.line_up(id, half);
        wake(&mut self.driver);
    }

    /// Has the stream wait for its turn, if it has bulk that may leave.
    fn line_up(&mut self, id: u32, half: &mut Sending) {
        if !half.loads.is_empty() && !std::mem::replace(&mut half.is_ready, true) {
            self.ready.push_back(id);
        }
    }

    pub(super) fn has_room(&self, half: &Sending) -> bool {
        half.bulk < STREAM_BULK && self.bulk < SESSION_BULK
    }

    /// Makes the writer wait until there is credit and room.
    pub(super) fn wait(&mut self, id: u32, half: &mut Sending, cx: &Context<'_>) {
        half.writer = Some(cx.waker().clone());
        let needs_turn = half.credit > 0 && half.bulk < STREAM_BULK;
        if needs_turn && !std::mem::replace(&mut half.is_waiting, true) {
            self.waiting.push_back(id);
        }
    }

    /// Ends the stream behind everything that was written.
    pub(super) fn finish(&mut self, id: u32, half: &mut Sending) {
        if !half.is_finished() {
            half.fin = Fin::Due;
            self.send_fin(id, half);
        }
    }

    /// Sends the end of the stream if it is due and nothing is in front of it.
    fn send_fin(&mut self, id: u32, half: &mut Sending) {
        if half.bulk == 0 && half.owes_fin() {
            half.fin = Fin::Queued;
            self.send(FrameKind::Fin, id, &[]);
        }
    }

    /// Forgets what has not left; the buffers of it.
    pub(super) fn discard(&mut self, half: &mut Sending) -> impl Iterator<Item = Buffer> {
        let loads = std::mem::take(&mut half.loads);
        half.bulk -= loads.len();
        self.bulk -= loads.len();
        loads.into_iter().filter_map(|load| match load {
            Load::Copied(chunk) => Some(chunk.into_buffer()),
            // Closed: what is in it would have to be read.
            Load::Piped(_) => None,
        })
    }

    // What the driver asks for.

    /// Appends the urgent frames to `out`, unless much of what was taken before waits there; whether there are none left.
    pub(super) fn take_urgent(&mut self, out: &mut BytesMut) -> bool {
        if self.urgent.is_empty() {
            return true;
        }
        if out.len() > IDLE_BUFFER {
            return false;
        }
        self.batch += 1;
        if out.is_empty() {
            std::mem::swap(out, &mut self.urgent);
        } else {
            out.extend_from_slice(&self.urgent);
        }
        self.urgent.clear();
        true
    }

    /// The stream whose turn it is.
    pub(super) fn next_ready(&mut self) -> Option<u32> {
        self.ready.pop_front()
    }

    /// The next bulk frame of the stream whose turn it is.
    pub(super) fn next_of(&mut self, id: u32, half: &mut Sending) -> Option<Bulk> {
        half.is_ready = false;
        let load = half.loads.pop_front()?;
        if half.loads.is_empty() {
            half.loads = VecDeque::new();
        }
        let frame = match load {
            Load::Copied(chunk) => {
                let is_last = half.loads.is_empty() && half.owes_fin();
                if is_last {
                    half.fin = Fin::Queued;
                }
                Frame::Copied(chunk.into_frame(id, is_last))
            }
            Load::Piped(pipe) => Frame::Piped(PipedFrame::of(id, pipe)),
        };
        self.line_up(id, half);
        Some(Bulk { stream: id, frame })
    }

    /// Bulk of a stream that still exists has left.
    pub(super) fn note_left_of(&mut self, id: u32, half: &mut Sending) {
        self.bulk -= 1;
        half.bulk -= 1;
        self.send_fin(id, half);
        wake(&mut half.writer);
    }

    /// The same, of a stream that is gone.
    pub(super) fn note_left(&mut self) {
        self.bulk -= 1;
    }

    /// How many writers may go on.
    pub(super) fn turns(&self) -> usize {
        match self.bulk {
            0 => usize::MAX,
            bulk => SESSION_BULK.saturating_sub(bulk),
        }
    }

    /// Whose turn it is to write.
    pub(super) fn next_waiting(&mut self) -> Option<u32> {
        self.waiting.pop_front()
    }

    pub(super) fn has_bulk(&self) -> bool {
        self.bulk > 0
    }

    /// Gives memory back, because there are no flows.
    pub(super) fn settle(&mut self) {
        self.ready.shrink_to_fit();
        self.waiting.shrink_to_fit();
        if self.urgent.is_empty() && self.urgent.capacity() > IDLE_BUFFER {
            self.urgent = BytesMut::new();
        }
    }
}
