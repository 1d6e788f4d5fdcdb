//! What comes in on a stream, and how much more may.

use std::collections::{BTreeSet, VecDeque};
use std::ops::Bound;
use std::task::Waker;

use berth_relay::Pipe;

use super::chunk::Chunk;
use crate::frame::{FrameError, INITIAL_CREDIT, MAX_PAYLOAD};

/// The first window of a stream on which more came than [`INITIAL_CREDIT`].
const FIRST_WINDOW: u32 = 64 * 1024;

/// Windows do not grow by less.
const LEAST_GROWTH: u32 = 4 * 1024;

/// Streams that are asked to return credit whenever there is too little.
const RECALLS: usize = 4;

/// Pipes that may hold bytes of one stream: with them it has twice as many descriptors.
const MOST_PIPES: usize = 8;

/// Bytes that came.
#[derive(Debug)]
pub(super) enum Piece {
    Copied(Chunk),
    /// Never in this process's memory.
    Piped(Pipe),
}

impl Piece {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Copied(chunk) => chunk.len(),
            Self::Piped(pipe) => pipe.held(),
        }
    }
}

/// The receiving half of a stream.
#[derive(Debug)]
pub(super) struct Receiving {
    pieces: VecDeque<Piece>,
    /// Those that are pipes.
    pipes: usize,
    /// The reader takes pipes.
    takes_pipes: bool,
    /// Bytes that came and were not given back by the reader.
    unread: u32,
    /// Bytes that the peer may still send.
    granted: u32,
    /// Most that `unread` and `granted` may be together.
    window: u32,
    pub(super) fin: bool,
    /// The peer was asked to return credit, and has not.
    recalled: bool,
    pub(super) reader: Option<Waker>,
}

impl Receiving {
    pub(super) fn new() -> Self {
        Self {
            pieces: VecDeque::new(),
            pipes: 0,
            takes_pipes: false,
            unread: 0,
            granted: INITIAL_CREDIT,
            window: INITIAL_CREDIT,
            fin: false,
            recalled: false,
            reader: None,
        }
    }

    /// Whether the peer may send `length` bytes on stream `id`; if so, they count.
    pub(super) fn admit(&mut self, id: u32, length: usize) -> Result<(), FrameError> {
        if self.fin {
            return Err(FrameError::AfterFin(id));
        }
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        let left = self.granted.checked_sub(length);
        self.granted = left.ok_or(FrameError::Overrun {
            stream: id,
            excess: length.saturating_sub(self.granted),
        })?;
        self.unread += length;
        Ok(())
    }

    /// Keeps a copy. Buffers double, so that they are never much longer than what is in them, and few.
    pub(super) fn keep_copy(&mut self, payload: &[u8]) {
        let mut rest = payload;
        let mut capacity = 0;
        if let Some(Piece::Copied(last)) = self.pieces.back_mut() {
            rest = &rest[last.append(rest)..];
            capacity = 2 * last.capacity();
        }
        if !rest.is_empty() {
            let chunk = Chunk::copy_of(rest, capacity.min(MAX_PAYLOAD));
            self.pieces.push_back(Piece::Copied(chunk));
        }
    }

    pub(super) fn keep(&mut self, piece: Piece) {
        self.pipes += usize::from(matches!(piece, Piece::Piped(_)));
        self.pieces.push_back(piece);
    }

    pub(super) fn take(&mut self) -> Option<Piece> {
        let piece = self.pieces.pop_front();
        self.pipes -= usize::from(matches!(piece, Some(Piece::Piped(_))));
        if self.pieces.is_empty() {
            // Idle streams keep nothing.
            self.pieces = VecDeque::new();
        }
        piece
    }

    /// Lets go of everything that nobody will read.
    pub(super) fn discard(&mut self) -> VecDeque<Piece> {
        self.pipes = 0;
        std::mem::take(&mut self.pieces)
    }

    /// Whether what comes next may be in a pipe.
    pub(super) fn has_place_for_pipe(&self) -> bool {
        self.takes_pipes && self.pipes < MOST_PIPES
    }

    /// The reader takes pipes from now on.
    pub(super) fn offer_pipes(&mut self) {
        self.takes_pipes = true;
    }

    /// Part of the window that [`Windows`] lent.
    fn lent(&self) -> u32 {
        self.window - INITIAL_CREDIT
    }

    fn is_empty(&self) -> bool {
        self.unread == 0
    }
}

/// What the windows of all streams may be together beyond the initial credit of each.
///
/// A window grows with a reader that keeps up, and what it has beyond the initial credit is lent. Long windows get half of the
/// budget, and the more streams borrow, the less each may; the other half is for first windows, so that streams that nobody
/// reads any more leave something to the others. When there is nearly nothing left, the peer is asked to return credit that
/// it does not use.
#[derive(Debug)]
pub(super) struct Windows {
    /// The longest window of one stream.
    longest: u32,
    budget: u32,
    lent: u32,
    /// Streams with more than the initial window.
    borrowers: BTreeSet<u32>,
    /// The last one that was asked to return credit.
    asked: u32,
}

/// What follows from a read.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Granted {
    /// Credit to give.
    pub(super) credit: u32,
    /// The window would have grown if there were something to lend.
    pub(super) is_short: bool,
}

impl Windows {
    pub(super) fn new(longest: u32, budget: u32) -> Self {
        Self {
            longest,
            budget,
            lent: 0,
            borrowers: BTreeSet::new(),
            asked: 0,
        }
    }

    /// The reader of stream `id` has given back `count` bytes.
    pub(super) fn note_read(&mut self, id: u32, half: &mut Receiving, count: usize) -> Granted {
        half.unread -= u32::try_from(count).unwrap_or(u32::MAX).min(half.unread);
        if half.fin {
            self.note_fin(id, half);
            return Granted::default();
        }
        let used = half.unread + half.granted;
        self.shrink(id, half, used.max(self.share()));
        if used > half.window / 2 {
            return Granted::default();
        }
        let keeps_up = half.unread <= half.window / 4;
        let is_short = keeps_up && !self.grow(id, half);
        let credit = half.window - used;
        half.granted += credit;
        half.recalled = false;
        Granted { credit, is_short }
    }

    /// The longest window that a stream may have now.
    fn share(&self) -> u32 {
        let borrowers = u32::try_from(self.borrowers.len()).unwrap_or(u32::MAX);
        let share = self.budget / 2 / borrowers.max(1);
        share.max(FIRST_WINDOW).min(self.longest)
    }

    /// Doubles a window, as far as there is something to lend; false if there is nearly nothing.
    fn grow(&mut self, id: u32, half: &mut Receiving) -> bool {
        let wanted = (2 * half.window).max(FIRST_WINDOW).min(self.share());
        let growth = wanted.saturating_sub(half.window);
        if growth == 0 {
            return true;
        }
        let is_first = half.lent() == 0;
        let budget = if is_first {
            self.budget
        } else {
            self.budget / 2
        };
        let growth = growth.min(budget.saturating_sub(self.lent));
        if growth < LEAST_GROWTH {
            return false;
        }
        half.window += growth;
        self.lent += growth;
        self.borrowers.insert(id);
        true
    }

    /// Takes back what a window has beyond `needed` and beyond the initial credit.
    fn shrink(&mut self, id: u32, half: &mut Receiving, needed: u32) {
        let window = needed.max(INITIAL_CREDIT).min(half.window);
        self.lent -= half.window - window;
        half.window = window;
        if half.lent() == 0 {
            self.borrowers.remove(&id);
        }
    }

    /// The peer returns credit of stream `id`.
    pub(super) fn note_return(
        &mut self,
        id: u32,
        half: &mut Receiving,
        count: u32,
    ) -> Result<(), FrameError> {
        let left = half.granted.checked_sub(count).filter(|_| count > 0);
        half.granted = left.ok_or(FrameError::Credit(id))?;
        half.recalled = false;
        self.shrink(id, half, half.unread + half.granted);
        Ok(())
    }

    /// The peer sends no more on stream `id`: its window need not be longer than what is in it.
    pub(super) fn note_fin(&mut self, id: u32, half: &mut Receiving) {
        half.granted = 0;
        self.shrink(id, half, half.unread);
    }

    /// Nothing of what came on stream `id` will be read.
    pub(super) fn note_end(&mut self, id: u32, half: &mut Receiving) {
        (half.granted, half.unread) = (0, 0);
        self.shrink(id, half, 0);
    }

    /// The next few streams whose credit is wanted back, in turn.
    pub(super) fn next_to_ask(&mut self) -> Vec<u32> {
        let behind = (Bound::Excluded(self.asked), Bound::Unbounded);
        let behind = self.borrowers.range(behind);
        let before = self.borrowers.range(..=self.asked);
        let asked: Vec<_> = behind.chain(before).take(RECALLS).copied().collect();
        self.asked = asked.last().copied().unwrap_or(0);
        asked
    }

    /// Whether to ask for the credit of stream `id` now; asked once for each time that credit was given.
    pub(super) fn ask(half: &mut Receiving) -> bool {
        let is_idle = half.is_empty() && half.granted > INITIAL_CREDIT;
        is_idle && !std::mem::replace(&mut half.recalled, true)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LONGEST: u32 = 1024 * 1024;
    const BUDGET: u32 = 16 * LONGEST;

    /// The peer sends all it may, and the reader takes all of it at once; the credit that it got for that.
    fn exchange(windows: &mut Windows, id: u32, half: &mut Receiving) -> Granted {
        let sent = usize::try_from(half.granted).unwrap();
        half.admit(id, sent).unwrap();
        windows.note_read(id, half, sent)
    }

    #[test]
    fn a_window_doubles_with_a_reader_that_keeps_up() {
        let (mut windows, mut half) = (Windows::new(LONGEST, BUDGET), Receiving::new());
        let credits: Vec<_> = (0..7)
            .map(|_| exchange(&mut windows, 1, &mut half).credit / 1024)
            .collect();
        assert_eq!(credits, [64, 128, 256, 512, 1024, 1024, 1024]);
        windows.note_end(1, &mut half);
        assert_eq!((windows.lent, windows.borrowers.len()), (0, 0));
    }

    #[test]
    fn a_window_does_not_grow_with_a_reader_that_is_behind() {
        let (mut windows, mut half) = (Windows::new(LONGEST, BUDGET), Receiving::new());
        exchange(&mut windows, 1, &mut half);
        for _ in 0..10 {
            let more = usize::try_from(half.granted).unwrap();
            half.admit(1, more).unwrap();
            let read = usize::try_from(half.unread / 2).unwrap();
            windows.note_read(1, &mut half, read);
        }
        assert_eq!(half.window, FIRST_WINDOW);
    }

    #[test]
    fn a_short_exchange_causes_no_credit_frame() {
        let (mut windows, mut half) = (Windows::new(LONGEST, BUDGET), Receiving::new());
        half.admit(1, 1000).unwrap();
        assert_eq!(windows.note_read(1, &mut half, 1000), Granted::default());
        assert_eq!(windows.lent, 0);
    }

    #[test]
    fn many_fast_readers_get_a_like_share_whoever_came_first() {
        let mut windows = Windows::new(LONGEST, BUDGET);
        let mut halves: Vec<_> = (0..64).map(|id| (id, Receiving::new())).collect();
        for _ in 0..20 {
            for (id, half) in &mut halves {
                exchange(&mut windows, *id, half);
            }
        }
        let (shortest, longest) = halves.iter().fold((u32::MAX, 0), |(low, high), (_, half)| {
            (low.min(half.window), high.max(half.window))
        });
        assert!(longest <= 2 * shortest, "{shortest} to {longest}");
        assert!(windows.lent > BUDGET / 4, "{}", windows.lent);
    }

    #[test]
    fn streams_that_nobody_reads_any_more_leave_something_to_the_others() {
        let mut windows = Windows::new(LONGEST, BUDGET);
        for id in 0..100 {
            let mut stuck = Receiving::new();
            for _ in 0..8 {
                exchange(&mut windows, id, &mut stuck);
            }
            let all = usize::try_from(stuck.granted).unwrap();
            stuck.admit(id, all).unwrap();
        }
        let mut half = Receiving::new();
        for _ in 0..8 {
            exchange(&mut windows, 100, &mut half);
        }
        assert_eq!(half.window, FIRST_WINDOW);
    }

    #[test]
    fn idle_credit_is_asked_for_in_turn_and_once_and_lent_again() {
        let mut windows = Windows::new(LONGEST, 256 * 1024);
        let mut idle: Vec<_> = (0..40).map(|id| (id, Receiving::new())).collect();
        let mut is_short = false;
        for (id, half) in &mut idle {
            for _ in 0..4 {
                is_short |= exchange(&mut windows, *id, half).is_short;
            }
        }
        assert!(is_short);
        let mut asked = BTreeSet::new();
        for _ in 0..20 {
            for id in windows.next_to_ask() {
                let half = &mut idle[usize::try_from(id).unwrap()].1;
                if Windows::ask(half) {
                    assert!(asked.insert(id), "{id} twice");
                }
            }
        }
        assert_eq!(asked, windows.borrowers);
        let before = windows.lent;
        for id in asked {
            let half = &mut idle[usize::try_from(id).unwrap()].1;
            let idle = half.granted - INITIAL_CREDIT;
            windows.note_return(id, half, idle).unwrap();
            assert!(windows.note_return(id, half, INITIAL_CREDIT + 1).is_err());
            assert!(windows.note_return(id, half, 0).is_err());
        }
        assert_eq!((before > 200 * 1024, windows.lent), (true, 0));
        let mut half = Receiving::new();
        assert!(!exchange(&mut windows, 99, &mut half).is_short);
    }

    #[test]
    fn copies_share_few_buffers_that_are_hardly_longer_than_needed() {
        let mut half = Receiving::new();
        for _ in 0..10_000 {
            half.keep_copy(b"x");
        }
        assert!(half.pieces.len() < 20, "{}", half.pieces.len());
        let capacity = |piece: &Piece| match piece {
            Piece::Copied(chunk) => chunk.capacity(),
            Piece::Piped(pipe) => panic!("{pipe:?}"),
        };
        let space: usize = half.pieces.iter().map(capacity).sum();
        assert!(space < 20_000, "{space}");
        let read: usize = std::iter::from_fn(|| half.take()).map(|it| it.len()).sum();
        assert_eq!(read, 10_000);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Send(u32, u32),
        Read(u32, u32),
        Return(u32),
        Fin(u32),
        End(u32),
    }

    fn any_step() -> impl Strategy<Value = Step> {
        let id = 0..6_u32;
        let part = 0..=100_u32;
        prop_oneof![
            4 => (id.clone(), part.clone()).prop_map(|(id, part)| Step::Send(id, part)),
            4 => (id.clone(), part).prop_map(|(id, part)| Step::Read(id, part)),
            1 => id.clone().prop_map(Step::Return),
            1 => id.clone().prop_map(Step::Fin),
            1 => id.prop_map(Step::End),
        ]
    }

    proptest! {
        #[test]
        fn no_more_is_promised_than_there_is(
            steps in proptest::collection::vec(any_step(), 0..300),
            budget in 0..1_000_000_u32,
        ) {
            let mut windows = Windows::new(LONGEST, budget);
            let mut halves: Vec<_> = (0..6).map(|_| Receiving::new()).collect();
            for step in steps {
                let (Step::Send(id, _) | Step::Read(id, _) | Step::Return(id) | Step::Fin(id) | Step::End(id)) = step;
                let half = &mut halves[usize::try_from(id).unwrap()];
                match step {
                    Step::Send(_, part) if !half.fin => {
                        half.admit(id, usize::try_from(half.granted / 100 * part).unwrap()).unwrap();
                    }
                    Step::Read(_, part) => {
                        windows.note_read(id, half, usize::try_from(half.unread / 100 * part).unwrap());
                    }
                    Step::Return(_) if half.granted > INITIAL_CREDIT => {
                        windows.note_return(id, half, half.granted - INITIAL_CREDIT).unwrap();
                    }
                    Step::Send(..) | Step::Return(_) => {}
                    Step::Fin(_) => {
                        half.fin = true;
                        windows.note_fin(id, half);
                    }
                    Step::End(_) => {
                        windows.note_end(id, half);
                        *half = Receiving::new();
                    }
                }
                let lent: u32 = halves.iter().map(Receiving::lent).sum();
                prop_assert_eq!(windows.lent, lent);
                prop_assert!(lent <= budget);
                for half in &halves {
                    prop_assert!(half.unread + half.granted <= half.window);
                }
            }
        }
    }
}
