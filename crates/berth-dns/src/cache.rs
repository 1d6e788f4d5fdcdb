//! Answers that are still good.

use std::borrow::Borrow;
use std::collections::{HashMap, VecDeque};
use std::hash::{Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::wire::RecordType;
use crate::wire::answer::Answer;
use crate::wire::name::Name;
use crate::wire::query::Query;

/// Most answers that are kept.
const MAX_ENTRIES: usize = 2048;
/// Most bytes of answers that are kept.
const MAX_BYTES: usize = 512 * 1024;
/// A larger answer is not kept.
const MAX_ANSWER: usize = 4096;

/// What an answer depends on besides the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Wish {
    kind: RecordType,
    dnssec_ok: bool,
    checking_disabled: bool,
}

/// A question, as far as it decides the answer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Key {
    name: Name,
    wish: Wish,
}

impl Key {
    /// That of a query.
    pub(crate) fn of(query: &Query<'_>) -> Self {
        Self {
            name: query.name.to_name(),
            wish: Wish::of(query),
        }
    }
}

impl Wish {
    fn of(query: &Query<'_>) -> Self {
        Self {
            kind: query.kind,
            dnssec_ok: query.dnssec_ok(),
            checking_disabled: query.checking_disabled(),
        }
    }
}

/// A key, seen without a copy of its name.
trait Seen {
    fn parts(&self) -> (&[u8], Wish);
}

impl Seen for Key {
    fn parts(&self) -> (&[u8], Wish) {
        (self.name.as_bytes(), self.wish)
    }
}

impl Seen for (&[u8], Wish) {
    fn parts(&self) -> (&[u8], Wish) {
        *self
    }
}

impl Hash for dyn Seen + '_ {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let (name, wish) = self.parts();
        // As the derived one of `Key` does it.
        Hash::hash(name, state);
        wish.hash(state);
    }
}

impl PartialEq for dyn Seen + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.parts() == other.parts()
    }
}

impl Eq for dyn Seen + '_ {}

impl<'a> Borrow<dyn Seen + 'a> for Key {
    fn borrow(&self) -> &(dyn Seen + 'a) {
        self
    }
}

#[derive(Debug)]
struct Entry {
    answer: Arc<Answer>,
    came: Instant,
    is_used: bool,
}

impl Entry {
    fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.came)
    }

    fn is_over(&self, now: Instant) -> bool {
        self.age(now) >= Duration::from_secs(self.answer.ttl().into())
    }
}

/// Number of the host's view of the network; another one begins when that may have changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Generation(u64);

/// Answers by question: bounded in number and bytes; those that nobody asked for again go first.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    entries: HashMap<Key, Entry>,
    order: VecDeque<Key>,
    bytes: usize,
    generation: Generation,
}

impl Cache {
    /// The present view of the network.
    pub(crate) fn generation(&self) -> Generation {
        self.generation
    }

    /// Forgets everything: what was true may be no longer. What was asked before is not kept when it comes.
    pub(crate) fn flush(&mut self) {
        *self = Self {
            generation: Generation(self.generation.0 + 1),
            ..Self::default()
        };
    }

    /// How many answers there are.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The answer to a question and its age in seconds.
    pub(crate) fn get(&mut self, query: &Query<'_>, now: Instant) -> Option<(&Answer, u32)> {
        let seen: (&[u8], Wish) = (query.name.as_bytes(), Wish::of(query));
        let entry = self.entries.get_mut(&seen as &dyn Seen)?;
        if entry.is_over(now) {
            return None;
        }
        entry.is_used = true;
        let age = u32::try_from(entry.age(now).as_secs()).unwrap_or(u32::MAX);
        Some((&entry.answer, age))
    }

    /// Keeps an answer to a question that was asked in this generation, as long as it says.
    pub(crate) fn put(
        &mut self,
        key: Key,
        answer: &Arc<Answer>,
        asked_in: Generation,
        now: Instant,
    ) {
        if answer.ttl() == 0 || answer.size() > MAX_ANSWER || asked_in != self.generation {
            return;
        }
        let entry = Entry {
            answer: Arc::clone(answer),
            came: now,
            is_used: false,
        };
        self.bytes += answer.size();
        match self.entries.insert(key.clone(), entry) {
            Some(old) => self.bytes -= old.answer.size(),
            None => self.order.push_back(key),
        }
        self.make_room(now);
    }

    /// Each gets a second chance if it was asked for since the last one, but for those whose time is over.
    fn make_room(&mut self, now: Instant) {
        while self.entries.len() > MAX_ENTRIES || self.bytes > MAX_BYTES {
            let Some(key) = self.order.pop_front() else {
                return;
            };
            match self.entries.get_mut(&key) {
                Some(entry) if entry.is_used && !entry.is_over(now) => {
                    entry.is_used = false;
                    self.order.push_back(key);
                }
                Some(_) => {
                    if let Some(entry) = self.entries.remove(&key) {
                        self.bytes -= entry.answer.size();
                    }
                }
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::query::Transport;

    fn query(name: &str) -> Query<'static> {
        Query::new(&name.parse().unwrap(), RecordType::A, Transport::Udp)
    }

    fn answer(query: &Query<'_>, ttl: u32, count: u8) -> Arc<Answer> {
        let addresses: Vec<_> = (0..count).map(|n| [10, 0, 0, n].into()).collect();
        Arc::new(Answer::of_addresses(query, &addresses, ttl))
    }

    fn put(cache: &mut Cache, name: &str, ttl: u32, now: Instant) {
        let query = query(name);
        let generation = cache.generation();
        cache.put(Key::of(&query), &answer(&query, ttl, 1), generation, now);
    }

    #[test]
    fn answers_end_with_their_time() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        put(&mut cache, "a.example", 10, now);
        let at = |seconds| now + Duration::from_secs(seconds);
        assert_eq!(cache.get(&query("A.Example"), at(9)).unwrap().1, 9);
        assert!(cache.get(&query("a.example"), at(10)).is_none());
        assert!(cache.get(&query("b.example"), now).is_none());
        let mut other = query("a.example");
        other.kind = RecordType::AAAA;
        assert!(cache.get(&other, now).is_none());
        put(&mut cache, "zero.example", 0, now);
        assert!(cache.get(&query("zero.example"), now).is_none());
    }

    #[test]
    fn nothing_of_an_earlier_view_is_kept() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        put(&mut cache, "a.example", 10, now);
        let before = cache.generation();
        cache.flush();
        assert!(cache.get(&query("a.example"), now).is_none());
        let late = query("late.example");
        cache.put(Key::of(&late), &answer(&late, 10, 1), before, now);
        assert!(cache.get(&late, now).is_none());
    }

    #[test]
    fn it_is_bounded_and_what_is_used_stays() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        put(&mut cache, "used.example", 1000, now);
        for n in 0..3 * MAX_ENTRIES {
            assert!(cache.get(&query("used.example"), now).is_some(), "{n}");
            put(&mut cache, &format!("n{n}.example"), 1000, now);
        }
        assert_eq!(cache.len(), MAX_ENTRIES);
        assert_eq!(cache.order.len(), MAX_ENTRIES);
        let mut cache = Cache::default();
        for n in 0..1000 {
            let query = query(&format!("n{n}.example"));
            let generation = cache.generation();
            cache.put(Key::of(&query), &answer(&query, 1000, 200), generation, now);
        }
        assert!(
            cache.bytes <= MAX_BYTES && cache.len() > 100,
            "{}",
            cache.len()
        );
        let large = query("large.example");
        let too_large = Arc::new(Answer::of_addresses(&large, &[[1, 1, 1, 1].into(); 300], 9));
        let generation = cache.generation();
        cache.put(Key::of(&large), &too_large, generation, now);
        assert!(cache.get(&large, now).is_none());
    }
}
