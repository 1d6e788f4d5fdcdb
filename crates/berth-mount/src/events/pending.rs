//! What changed and was not told yet: each path once, and no more of them than fit.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;

/// Paths that are held. When there are more, what changed since the oldest of them is looked for instead.
const MOST_PATHS: usize = 32 * 1024;
/// Their bytes.
const MOST_BYTES: usize = 2 << 20;
/// How long changes are collected: a program that writes a file does so in several steps.
const SETTLE: Duration = Duration::from_millis(20);

/// What happened to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// At most its attributes changed.
    Attributes,
    /// It was created, written, or its directory's names changed.
    Contents,
}

/// Paths beneath a shared directory. A thread that may wait puts them in, a task takes them out.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    held: Mutex<Held>,
    news: Notify,
    room: Condvar,
}

#[derive(Debug, Default)]
struct Held {
    paths: BTreeMap<Vec<u8>, Kind>,
    bytes: usize,
    /// When the oldest of them was put in.
    since: Option<SystemTime>,
    /// The path taken last: the next one's turn comes after it, whatever happens to those before.
    last: Vec<u8>,
    /// Since when changes are to be looked for.
    missed_since: Option<SystemTime>,
    is_closed: bool,
}

impl Held {
    fn is_full(&self) -> bool {
        self.paths.len() >= MOST_PATHS || self.bytes >= MOST_BYTES
    }

    fn is_half_full(&self) -> bool {
        self.paths.len() >= MOST_PATHS / 2 || self.bytes >= MOST_BYTES / 2
    }

    fn insert(&mut self, path: Vec<u8>, kind: Kind, now: SystemTime) {
        self.since.get_or_insert(now);
        let bytes = path.len();
        if let Some(known) = self.paths.get_mut(&path) {
            *known = kind.max(*known);
        } else {
            self.paths.insert(path, kind);
            self.bytes += bytes;
        }
    }

    fn miss(&mut self, since: SystemTime) {
        let earlier = self.missed_since.map_or(since, |known| known.min(since));
        self.missed_since = Some(earlier);
    }

    /// Takes paths as long as they cost no more than `most`, but one at least.
    fn take(&mut self, most: usize, cost: impl Fn(&[u8]) -> usize) -> Vec<(Vec<u8>, Kind)> {
        let (mut taken, mut sum) = (Vec::new(), 0);
        loop {
            let after = (Bound::Excluded(self.last.as_slice()), Bound::Unbounded);
            let next = self.paths.range::<[u8], _>(after).next();
            let next = next.or_else(|| self.paths.iter().next());
            let Some(path) = next.map(|(path, _)| path.clone()) else {
                break;
            };
            sum += cost(&path);
            if sum > most && !taken.is_empty() {
                break;
            }
            if let Some(kind) = self.paths.remove(&path) {
                self.bytes -= path.len();
                self.last.clone_from(&path);
                taken.push((path, kind));
            }
        }
        if self.paths.is_empty() {
            self.since = None;
        }
        taken
    }
}

impl Pending {
    /// Notes a change. Never waits: when there is no room, what is held is given up for a look at everything.
    pub(crate) fn add(&self, path: Vec<u8>, kind: Kind, now: SystemTime) {
        let mut held = self.held();
        if held.is_full() && !held.paths.contains_key(&path) {
            let since = held.since.take().unwrap_or(now);
            (held.paths, held.bytes) = (BTreeMap::new(), 0);
            return held.miss(since);
        }
        held.insert(path, kind, now);
        drop(held);
        self.news.notify_one();
    }

    /// Notes a change once there is room; tells whether anybody still wants to know.
    pub(crate) fn add_in_time(&self, path: Vec<u8>, kind: Kind, now: SystemTime) -> bool {
        let held = self.held();
        let waiting = |held: &mut Held| held.is_half_full() && !held.is_closed;
        let held = self.room.wait_while(held, waiting);
        let mut held = held.unwrap_or_else(PoisonError::into_inner);
        held.insert(path, kind, now);
        self.news.notify_one();
        !held.is_closed
    }

    /// Notes that changes since then went unnoticed.
    pub(crate) fn miss(&self, since: SystemTime) {
        self.held().miss(since);
    }

    /// Since when changes are to be looked for, if they are. Told once.
    pub(crate) fn missed_since(&self) -> Option<SystemTime> {
        self.held().missed_since.take()
    }

    /// Waits for changes, and takes as many as cost no more than `most`, but one at least.
    pub(crate) async fn next(
        &self,
        most: usize,
        cost: impl Fn(&[u8]) -> usize,
    ) -> Vec<(Vec<u8>, Kind)> {
        loop {
            let taken = self.held().take(most, &cost);
            if !taken.is_empty() {
                self.room.notify_all();
                return taken;
            }
            self.news.notified().await;
            tokio::time::sleep(SETTLE).await;
        }
    }

    /// Nobody takes anything any more.
    pub(crate) fn close(&self) {
        self.held().is_closed = true;
        self.room.notify_all();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.held().is_closed
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const T: SystemTime = SystemTime::UNIX_EPOCH;

    fn at(seconds: u64) -> SystemTime {
        T + Duration::from_secs(seconds)
    }

    async fn next(pending: &Pending, most: usize) -> Vec<String> {
        let taken = pending.next(most, <[u8]>::len).await;
        let names = taken.into_iter().map(|(path, _)| String::from_utf8(path));
        names.map(Result::unwrap).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_path_is_told_once_however_often_it_changes_with_the_most_that_happened() {
        let pending = Pending::default();
        for kind in [Kind::Attributes, Kind::Contents, Kind::Attributes] {
            pending.add(b"a".to_vec(), kind, T);
        }
        let taken = pending.next(100, <[u8]>::len).await;
        assert_eq!(taken, [(b"a".to_vec(), Kind::Contents)]);
    }

    #[tokio::test(start_paused = true)]
    async fn batches_keep_to_their_size_and_everybody_gets_a_turn() {
        let pending = Pending::default();
        for name in ["a", "b", "c", "a long name"] {
            pending.add(name.into(), Kind::Contents, T);
        }
        assert_eq!(next(&pending, 1).await, ["a"]);
        pending.add(b"a".to_vec(), Kind::Contents, T);
        assert_eq!(next(&pending, 5).await, ["a long name"], "one at least");
        assert_eq!(next(&pending, 2).await, ["b", "c"]);
        assert_eq!(next(&pending, 5).await, ["a"]);
        let nothing = tokio::time::timeout(Duration::from_secs(60), next(&pending, 5));
        assert!(nothing.await.is_err());
    }

    #[test]
    fn too_many_paths_become_a_look_at_what_changed_since_the_oldest() {
        let pending = Pending::default();
        pending.add(b"first".to_vec(), Kind::Contents, at(5));
        for number in 0..MOST_PATHS {
            pending.add(number.to_string().into(), Kind::Contents, at(7));
        }
        assert_eq!(pending.missed_since(), Some(at(5)));
        assert_eq!(pending.missed_since(), None, "told once");
        assert!(pending.held().paths.len() < 2 && pending.held().bytes < 10);
        let long = vec![b'x'; MOST_BYTES];
        pending.add(long, Kind::Contents, at(9));
        pending.add(b"y".to_vec(), Kind::Contents, at(10));
        assert_eq!(pending.missed_since(), Some(at(9)), "few, but long");
    }

    #[tokio::test]
    async fn whoever_looks_at_everything_waits_for_those_who_tell() {
        let pending = Arc::new(Pending::default());
        let (looker, count) = (Arc::clone(&pending), MOST_PATHS);
        let looking = std::thread::spawn(move || {
            (0..count).all(|n| looker.add_in_time(n.to_string().into(), Kind::Contents, T))
        });
        let mut told = 0;
        while told < count {
            told += pending.next(4096, <[u8]>::len).await.len();
            assert!(pending.held().paths.len() <= MOST_PATHS / 2);
        }
        assert!(looking.join().unwrap());
        pending.close();
        assert!(!pending.add_in_time(b"late".to_vec(), Kind::Contents, T));
    }
}
