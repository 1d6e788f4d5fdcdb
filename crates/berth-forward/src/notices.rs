//! What people are told: every change once, and no more than they can read.
//!
//! The book compares how things stand with what was told last, so a change that is undone before anybody was told makes no notice.
//! A guest that opens and closes ports as fast as it can is told about at the rates below; what is left out is counted.

use std::collections::{BTreeMap, VecDeque};
use std::mem;
use std::time::Duration;

use tokio::time::Instant;

use crate::address::{GuestTarget, HostAddr};
use crate::guest::{Notice, NoticeKind, NoticeSink};
use crate::limits::{Bucket, Rate};

/// Notices about one forward.
const OF_ONE: Rate = Rate {
    burst: 6,
    every: Duration::from_secs(5),
};

/// Notices about all of them.
const OF_ALL: Rate = Rate {
    burst: 512,
    every: Duration::from_millis(100),
};

/// Whom a notice is about: one socket of the guest, and where it leads to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Subject {
    pub(crate) guest: GuestTarget,
    pub(crate) host: Option<HostAddr>,
}

/// How it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Not forwarded; perhaps for a reason that no rule shows.
    Inside(Option<&'static str>),
    Forwarded,
    Failed {
        why: String,
        is_minor: bool,
    },
}

#[derive(Debug)]
struct Record {
    told: Option<Standing>,
    now: Option<Standing>,
    /// Changes since the last notice.
    untold: u64,
    bucket: Bucket,
}

/// Keeps what was told about whom.
pub(crate) struct NoticeBook {
    sink: NoticeSink,
    records: BTreeMap<Subject, Record>,
    /// Who has something to tell, each once.
    waiting: VecDeque<Subject>,
    total: Bucket,
    left_out: u64,
    /// At how many records those are looked for that need not be remembered.
    tidy_at: usize,
}

impl NoticeBook {
    pub(crate) fn new(sink: NoticeSink, now: Instant) -> Self {
        Self {
            sink,
            records: BTreeMap::new(),
            waiting: VecDeque::new(),
            total: Bucket::full(OF_ALL, now),
            left_out: 0,
            tidy_at: 0,
        }
    }

    /// How many changes nobody was told of.
    pub(crate) fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Takes in how everything stands. Who is not named is gone; who has no standing stays as it was.
    pub(crate) fn update(&mut self, all: BTreeMap<Subject, Option<Standing>>, now: Instant) {
        let gone: Vec<Subject> = self
            .records
            .iter()
            .filter(|(subject, record)| record.now.is_some() && !all.contains_key(subject))
            .map(|(subject, _)| subject.clone())
            .collect();
        for subject in gone {
            self.change(subject, None, now);
        }
        for (subject, standing) in all {
            if let Some(standing) = standing {
                self.change(subject, Some(standing), now);
            }
        }
        self.tidy(now);
    }

    fn change(&mut self, subject: Subject, standing: Option<Standing>, now: Instant) {
        let record = self
            .records
            .entry(subject.clone())
            .or_insert_with(|| Record {
                told: None,
                now: None,
                untold: 0,
                bucket: Bucket::full(OF_ONE, now),
            });
        if record.now == standing {
            return;
        }
        record.now = standing;
        record.untold += 1;
        if record.untold == 1 {
            self.waiting.push_back(subject);
        }
    }

    /// Tells what may be told now, ends before beginnings; returns when more may be.
    pub(crate) fn flush(&mut self, now: Instant) -> Option<Instant> {
        let waiting = mem::take(&mut self.waiting);
        let (ends, begins): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|subject| {
            let record = self.records.get(subject);
            record.is_some_and(|record| record.now.is_none())
        });
        let mut next: Option<Instant> = None;
        for subject in ends.into_iter().chain(begins) {
            if let Err(at) = self.tell(&subject, now) {
                next = Some(next.map_or(at, |next| next.min(at)));
                self.waiting.push_back(subject);
            }
        }
        next
    }

    /// Tells about one, or says when that may be done.
    fn tell(&mut self, subject: &Subject, now: Instant) -> Result<(), Instant> {
        let Some(record) = self.records.get_mut(subject) else {
            return Ok(());
        };
        let notice = (record.told != record.now)
            .then(|| notice(subject, record.told.as_ref(), record.now.as_ref()))
            .flatten();
        let untold = record.untold;
        if let Some(notice) = notice {
            record.bucket.check(now)?;
            self.total.take(now)?;
            record.bucket.take(now)?;
            self.left_out += untold.saturating_sub(1);
            log(&notice);
            (self.sink)(notice);
        } else if untold > 1 {
            self.left_out += untold;
        }
        record.untold = 0;
        record.told = record.now.clone();
        Ok(())
    }

    /// Forgets those that are gone and have not been talked about for long. The work is spread over as many changes as there are
    /// records.
    fn tidy(&mut self, now: Instant) {
        if self.records.len() < self.tidy_at {
            return;
        }
        self.records.retain(|_, record| {
            record.now.is_some() || record.untold > 0 || !record.bucket.is_full(now)
        });
        self.tidy_at = 2 * self.records.len() + 64;
    }
}

/// The notice that a change makes, if any: nobody misses what never worked.
fn notice(subject: &Subject, told: Option<&Standing>, now: Option<&Standing>) -> Option<Notice> {
    let (kind, error, is_minor) = match (told, now) {
        (_, Some(Standing::Forwarded)) => (NoticeKind::Forwarding, None, false),
        (_, Some(Standing::Inside(why))) => {
            (NoticeKind::NotForwarding, why.map(str::to_owned), false)
        }
        (_, Some(Standing::Failed { why, is_minor })) => {
            (NoticeKind::Failed, Some(why.clone()), *is_minor)
        }
        (Some(Standing::Forwarded), None) => (NoticeKind::Stopping, None, false),
        (_, None) => return None,
    };
    Some(Notice {
        kind,
        guest: subject.guest.clone(),
        host: subject.host.clone(),
        error,
        is_minor,
    })
}

/// Writes a notice into the log, in Lima's words where Lima has some: its own tests look for them.
fn log(notice: &Notice) {
    let protocol = notice.guest.protocol();
    let upper = protocol.to_uppercase();
    let guest = &notice.guest;
    let host = notice
        .host
        .as_ref()
        .map_or_else(String::new, ToString::to_string);
    let error = notice.error.as_deref().unwrap_or_default();
    match notice.kind {
        NoticeKind::Forwarding => tracing::info!("Forwarding {upper} from {guest} to {host}"),
        NoticeKind::Stopping => {
            tracing::info!("Stopping forwarding {upper} from {guest} to {host}");
        }
        NoticeKind::NotForwarding if error.is_empty() => {
            tracing::info!("Not forwarding {upper} {guest}");
        }
        NoticeKind::NotForwarding => tracing::info!(error, "Not forwarding {upper} {guest}"),
        NoticeKind::Failed if notice.is_minor => {
            tracing::info!(error, "Not forwarding {upper} {host}");
        }
        NoticeKind::Failed => tracing::warn!(error, "failed to listen {protocol}: {host}"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    struct Fixture {
        book: NoticeBook,
        told: Arc<Mutex<Vec<Notice>>>,
        now: Instant,
    }

    fn fixture() -> Fixture {
        let told: Arc<Mutex<Vec<Notice>>> = Arc::default();
        let into = Arc::clone(&told);
        let now = Instant::now();
        let sink: NoticeSink = Box::new(move |notice| into.lock().unwrap().push(notice));
        Fixture {
            book: NoticeBook::new(sink, now),
            told,
            now,
        }
    }

    fn subject(port: u16) -> Subject {
        let guest = GuestTarget::Tcp(([127, 0, 0, 1], port).into());
        let host = Some(HostAddr::Localhost(port));
        Subject { guest, host }
    }

    fn failed(why: &str) -> Standing {
        Standing::Failed {
            why: why.to_owned(),
            is_minor: false,
        }
    }

    impl Fixture {
        fn stands(&mut self, all: impl IntoIterator<Item = (u16, Option<Standing>)>) {
            let all = all.into_iter().map(|(port, how)| (subject(port), how));
            self.book.update(all.collect(), self.now);
        }

        /// What is told now.
        fn flush(&mut self) -> Vec<(NoticeKind, String)> {
            self.book.flush(self.now);
            let told = mem::take(&mut *self.told.lock().unwrap());
            let short = told.into_iter().map(|notice| {
                let error = notice.error.map(|why| format!(" {why}"));
                let text = format!("{}{}", notice.guest, error.unwrap_or_default());
                (notice.kind, text)
            });
            short.collect()
        }
    }

    fn line(kind: NoticeKind, text: &str) -> (NoticeKind, String) {
        (kind, text.to_owned())
    }

    #[test]
    fn every_change_is_told_once_and_ends_come_first() {
        use NoticeKind::{Failed, Forwarding, Stopping};
        let mut f = fixture();
        f.stands([
            (1, Some(Standing::Forwarded)),
            (2, Some(failed("busy"))),
            (3, None),
        ]);
        assert_eq!(
            f.flush(),
            [
                line(Forwarding, "127.0.0.1:1"),
                line(Failed, "127.0.0.1:2 busy")
            ]
        );
        f.stands([
            (1, Some(Standing::Forwarded)),
            (2, Some(failed("busy"))),
            (3, None),
        ]);
        assert_eq!(f.flush(), []);
        f.stands([(0, Some(Standing::Forwarded)), (2, None)]);
        assert_eq!(
            f.flush(),
            [
                line(Stopping, "127.0.0.1:1"),
                line(Forwarding, "127.0.0.1:0")
            ]
        );
        // What never listened is not missed.
        f.stands([]);
        assert_eq!(f.flush(), [line(Stopping, "127.0.0.1:0")]);
        assert_eq!(f.book.left_out(), 0);
    }

    #[test]
    fn what_is_undone_before_anybody_was_told_is_counted_only() {
        let mut f = fixture();
        f.stands([(1, Some(Standing::Forwarded))]);
        f.stands([]);
        assert_eq!(f.flush(), []);
        assert_eq!(f.book.left_out(), 2);
        f.stands([(1, Some(failed("a")))]);
        f.stands([(1, Some(failed("b")))]);
        assert_eq!(f.flush(), [line(NoticeKind::Failed, "127.0.0.1:1 b")]);
        assert_eq!(f.book.left_out(), 3);
    }

    #[test]
    fn a_flapping_port_is_told_about_at_a_bounded_rate_and_ends_as_it_is() {
        let mut f = fixture();
        let mut told = 0;
        let mut last = None;
        for round in 0..10_000 {
            let up = round % 2 == 0;
            f.stands(up.then_some((1, Some(Standing::Forwarded))));
            f.now += Duration::from_micros(100);
            let notices = f.flush();
            told += notices.len();
            last = notices.into_iter().next_back().or(last);
        }
        assert!((2..=7).contains(&told), "{told}");
        f.stands([(1, Some(failed("at last")))]);
        let when = f.book.flush(f.now).expect("there is more to tell");
        f.now = when;
        assert_eq!(f.flush(), [line(NoticeKind::Failed, "127.0.0.1:1 at last")]);
        assert_eq!(f.book.left_out() + told as u64 + 1, 10_001);
    }

    #[test]
    fn ever_new_ports_are_bounded_in_all_and_forgotten() {
        let mut f = fixture();
        let mut told = 0;
        for port in 1..=5_000 {
            f.stands([(port, Some(Standing::Forwarded))]);
            f.now += Duration::from_micros(400);
            told += f.flush().len();
        }
        // Two seconds.
        assert!((500..=512 + 20 + 1).contains(&told), "{told}");
        f.now += Duration::from_secs(3600);
        f.stands([]);
        f.flush();
        f.now += Duration::from_secs(3600);
        f.book.tidy_at = 0;
        f.stands([]);
        assert_eq!(f.book.records.len(), 0);
    }
}
