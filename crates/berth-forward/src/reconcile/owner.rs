//! The task that owns the forwards.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::address::{GuestPorts, GuestTarget};
use crate::desired::{Desired, Key, Wishes};
use crate::guest::{Access, NoticeSink};
use crate::limits::{Bucket, Rate};
use crate::listen::{Failure, FailureKind, Listeners, Listening};
use crate::notices::{NoticeBook, Standing, Subject};
use crate::sys::FreedPorts;
use crate::way::Way;

use super::Setting;
use super::entry::Entry;
use super::explain::{Answer, Explainer, Port};
use super::status::{Published, Row};

/// How often the guest's ports are looked at while they change without end. The burst is for those who start many things at once.
const LOOKS: Rate = Rate {
    burst: 64,
    every: Duration::from_millis(50),
};

/// How often a freed port is worth an attempt: a busy server on it frees it with each of its connections.
const ATTEMPTS: Rate = Rate {
    burst: 8,
    every: Duration::from_millis(100),
};

/// What is due within this time is done together.
const TOGETHER: Duration = Duration::from_millis(100);

/// Listeners that are opened or closed at once; only those in the guest take time.
const AT_ONCE: usize = 16;

/// How long listeners may take to end when everything ends: a guest that is asked may not answer.
const CLOSE: Duration = Duration::from_secs(2);

/// How long connections may take to end after that. They have nothing to wait for.
const END: Duration = Duration::from_secs(5);

pub(super) struct Owner {
    wishes: Wishes,
    desired: Desired,
    entries: BTreeMap<Key, Entry>,
    listeners: Listeners,
    way: Arc<Way>,
    /// `None` when nobody tells any more.
    guest_ports: Option<watch::Receiver<GuestPorts>>,
    looks: Bucket,
    /// The session that listeners in the guest belong to.
    session: Option<watch::Receiver<Option<u64>>>,
    /// Serial numbers of listeners that have ended by themselves.
    ended: mpsc::UnboundedReceiver<u64>,
    kick: Arc<Notify>,
    freed: FreedPorts,
    attempts: Bucket,
    explainer: Explainer,
    book: NoticeBook,
    /// The first of those that are too many, for as long as there are any.
    too_many: Option<Subject>,
    published: watch::Sender<Published>,
}

/// What woke the owner.
enum News {
    Ports,
    PortsGone,
    Ended(u64),
    Session,
    SessionGone,
    Kick,
    Freed,
    Explained(Answer),
    Time,
}

impl Owner {
    pub(super) fn new(
        setting: Setting,
        access: Access,
        guest_ports: watch::Receiver<GuestPorts>,
        notices: NoticeSink,
        published: watch::Sender<Published>,
        kick: Arc<Notify>,
        tracker: &TaskTracker,
    ) -> Self {
        let Setting {
            rules,
            os,
            own_dir,
            limits,
        } = setting;
        let wishes = Wishes::new(rules, Way::carries_udp(&access), limits.listeners);
        let desired = wishes.with(&GuestPorts::default());
        let way = Arc::new(Way::new(access, &own_dir, tracker));
        let (ending, ended) = mpsc::unbounded_channel();
        let now = Instant::now();
        Self {
            wishes,
            desired,
            entries: BTreeMap::new(),
            session: way.session(),
            listeners: Listeners::new(Arc::clone(&way), os, own_dir, limits, ending),
            way,
            guest_ports: Some(guest_ports),
            looks: Bucket::full(LOOKS, now),
            ended,
            kick,
            freed: FreedPorts::default(),
            attempts: Bucket::full(ATTEMPTS, now),
            explainer: Explainer::new(now),
            book: NoticeBook::new(notices, now),
            too_many: None,
            published,
        }
    }

    pub(super) async fn run(mut self, stop: CancellationToken) {
        stop.run_until_cancelled(self.live()).await;
        self.end().await;
    }

    async fn live(&mut self) {
        self.look().await;
        loop {
            self.open_due().await;
            let told_again = self.tell();
            match self.wait(told_again).await {
                News::Ports => self.look().await,
                News::PortsGone => self.guest_ports = None,
                News::Ended(serial) => self.listener_ended(serial),
                News::Session => self.new_session(),
                News::SessionGone => self.session = None,
                News::Kick => self.retry_all(),
                News::Freed => self.retry_taken(),
                News::Explained(answer) => self.explain(&answer),
                News::Time => {}
            }
        }
    }

    /// Looks at what the guest listens on, and closes what ought not to listen any more.
    async fn look(&mut self) {
        let now = Instant::now();
        // There is a token, or the ports would not have been looked at; the first look needs none.
        let _ = self.looks.take(now);
        let ports = self.guest_ports.as_mut();
        let ports = ports.map(|ports| ports.borrow_and_update().clone());
        if let Some(ports) = ports.filter(|ports| ports.known) {
            self.desired = self.wishes.with(&ports);
        }
        let unwanted: Vec<Key> = self
            .entries
            .keys()
            .filter(|key| !self.desired.forwards.contains_key(key))
            .cloned()
            .collect();
        let before = self.way.counts_targets().then(|| self.targets());
        let mut freed = BTreeSet::new();
        let mut closing = Vec::new();
        for key in unwanted {
            let entry = self.entries.remove(&key);
            if let Some(listening) = entry.and_then(Entry::into_listening) {
                freed.extend(key.port().map(|(_, number)| number));
                closing.push((key, listening));
            }
        }
        close_all(&self.listeners, closing).await;
        self.adopt(now, &freed);
        if let Some(before) = before {
            for target in before.difference(&self.targets()) {
                self.way.release(target);
            }
        }
    }

    /// Takes over what ought to listen. Ports that were just freed by ourselves are tried again.
    fn adopt(&mut self, now: Instant, freed: &BTreeSet<u16>) {
        for (key, wanted) in &self.desired.forwards {
            if let Some(entry) = self.entries.get_mut(key) {
                entry.want(wanted.clone());
            } else {
                let entry = Entry::new(wanted.clone(), self.listeners.forward(), now);
                self.entries.insert(key.clone(), entry);
            }
        }
        if freed.is_empty() {
            return;
        }
        for (key, entry) in &mut self.entries {
            if entry
                .taken_port(key)
                .is_some_and(|(_, number)| freed.contains(&number))
            {
                entry.hurry(now);
            }
        }
    }

    /// Everything that connections may go to.
    fn targets(&self) -> BTreeSet<GuestTarget> {
        let entries = self.entries.values();
        entries.flat_map(|entry| entry.wanted.targets()).collect()
    }

    /// Tries everything that is to be tried now.
    async fn open_due(&mut self) {
        let now = Instant::now();
        let due: Vec<_> = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.is_due(now + TOGETHER))
            .map(|(key, entry)| (key.clone(), Arc::clone(&entry.forward)))
            .collect();
        let due: Vec<_> = due
            .into_iter()
            .map(|(key, forward)| (key, forward, self.listeners.next_serial()))
            .collect();
        let listeners = &self.listeners;
        let attempts = due.into_iter().map(|(key, forward, serial)| async move {
            let outcome = listeners.open(&key, &forward, serial).await;
            (key, outcome)
        });
        let outcomes: Vec<_> = stream::iter(attempts)
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        let now = Instant::now();
        for (key, outcome) in outcomes {
            if let Some(entry) = self.entries.get_mut(&key) {
                entry.tried(outcome, now);
            }
        }
        let entries = self.entries.iter();
        let taken = entries.filter_map(|(key, entry)| entry.taken_port(key));
        self.freed.watch(&taken.collect());
        self.look_up_owners(now);
    }

    fn look_up_owners(&mut self, now: Instant) {
        if self.explainer.is_busy() {
            return;
        }
        let entries = self.entries.iter();
        let ports: BTreeSet<Port> = entries
            .filter_map(|(key, entry)| entry.unexplained_port(key))
            .collect();
        if ports.is_empty() {
            return;
        }
        if let Some(answer) = self.explainer.ask(ports, now, self.listeners.tracker()) {
            self.explain(&answer);
        }
    }

    fn explain(&mut self, answer: &Answer) {
        for (key, entry) in &mut self.entries {
            if let Some(port) = entry.unexplained_port(key)
                && let Some(owner) = answer.get(&port)
            {
                entry.explain(port, owner.as_deref());
            }
        }
    }

    /// Tells people and whoever watches the status; returns when more may be told.
    fn tell(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let mut all = BTreeMap::new();
        for (guest, why) in &self.desired.inside {
            let guest = guest.clone();
            let subject = Subject { guest, host: None };
            all.insert(subject, Some(Standing::Inside(*why)));
        }
        let mut left_out = 0;
        if let Some((first, count)) = &self.desired.too_many {
            left_out = *count;
            let subject = self.too_many.get_or_insert_with(|| first.clone());
            let most = self.desired.forwards.len();
            let why = format!("there are more than {most} forwards: the others are left out");
            let is_minor = false;
            all.insert(subject.clone(), Some(Standing::Failed { why, is_minor }));
        } else {
            self.too_many = None;
        }
        for (key, entry) in &self.entries {
            entry.tell(key, &mut all);
        }
        self.book.update(all, now);
        let more = self.book.flush(now);
        let rows = self.entries.iter().flat_map(|(key, entry)| entry.rows(key));
        let rows: Vec<Row> = rows.collect();
        self.published.send_replace(Published {
            rows: rows.into(),
            is_settled: self.is_settled(),
            left_out,
            notices_left_out: self.book.left_out(),
        });
        more
    }

    fn is_settled(&self) -> bool {
        let mut entries = self.entries.iter();
        self.published.borrow().is_settled
            || entries.all(|(key, entry)| entry.unexplained_port(key).is_none())
    }

    /// Waits for something to do.
    async fn wait(&mut self, more_to_tell: Option<Instant>) -> News {
        let now = Instant::now();
        let may_look = self.looks.check(now);
        let may_attempt = self.attempts.check(now);
        let due = self.entries.values().filter_map(Entry::due_at);
        let wake = due
            .chain(more_to_tell)
            .chain(may_look.err())
            .chain(may_attempt.err())
            .min();
        tokio::select! {
            changed = changed(&mut self.guest_ports), if may_look.is_ok() => match changed {
                Ok(()) => News::Ports,
                Err(_) => News::PortsGone,
            },
            Some(serial) = self.ended.recv() => News::Ended(serial),
            changed = changed(&mut self.session) => match changed {
                Ok(()) => News::Session,
                Err(_) => News::SessionGone,
            },
            () = self.kick.notified() => News::Kick,
            () = self.freed.next(), if may_attempt.is_ok() => News::Freed,
            answer = self.explainer.answer() => News::Explained(answer),
            () = sleep_until(wake.unwrap_or(now)), if wake.is_some() => News::Time,
        }
    }

    /// A listener has ended that nobody ended: it is opened again, after a pause.
    fn listener_ended(&mut self, serial: u64) {
        let now = Instant::now();
        let entry = self.entries.values_mut().find(|entry| {
            let listening = entry.listening();
            listening.is_some_and(|listening| listening.serial() == serial)
        });
        if let Some(entry) = entry {
            let last_error = entry.forward.tally().traffic().last_error;
            let why = last_error.unwrap_or_else(|| "the listener ended".to_owned());
            entry.tried(Err(Failure::new(FailureKind::Other, why)), now);
        }
    }

    /// Listeners in the guest are gone with their session; they are opened again.
    fn new_session(&mut self) {
        let now = Instant::now();
        let session = self.session.as_mut();
        let Some(session) = session.and_then(|session| *session.borrow_and_update()) else {
            return;
        };
        for entry in self.entries.values_mut() {
            let listening = entry.listening();
            if listening.is_some_and(|listening| listening.is_of_earlier_session(session))
                && let Some(listening) = entry.lost(now)
            {
                self.listeners.lost_in_guest(&listening);
            }
            if entry.needs_way() {
                entry.hurry(now);
            }
        }
    }

    fn retry_all(&mut self) {
        let now = Instant::now();
        for entry in self.entries.values_mut() {
            entry.hurry(now);
            let is_lost = entry
                .listening()
                .is_some_and(|listening| !listening.is_in_place());
            if is_lost {
                // Ends by being dropped.
                drop(entry.lost(now));
            }
        }
    }

    fn retry_taken(&mut self) {
        let now = Instant::now();
        // There is a token, or nobody would have listened to the news.
        let _ = self.attempts.take(now);
        for (key, entry) in &mut self.entries {
            if entry.taken_port(key).is_some() {
                entry.hurry(now);
            }
        }
    }

    /// Closes everything. People are not told: they know that the instance stops.
    async fn end(mut self) {
        let entries = std::mem::take(&mut self.entries).into_iter();
        let closing = entries
            .filter_map(|(key, entry)| Some((key, entry.into_listening()?)))
            .collect();
        let closed = close_all(&self.listeners, closing);
        if tokio::time::timeout(CLOSE, closed).await.is_err() {
            tracing::debug!("listeners in the guest did not end in time");
        }
        self.way.end().await;
        if !self.listeners.end_connections(END).await {
            tracing::warn!("connections did not end within {} s", END.as_secs());
        }
    }
}

async fn close_all(listeners: &Listeners, closing: Vec<(Key, Listening)>) {
    let closing = closing.into_iter().map(|(key, listening)| async move {
        listeners.close(&key, listening).await;
    });
    stream::iter(closing)
        .buffer_unordered(AT_ONCE)
        .collect::<()>()
        .await;
}

/// Waits for a change; for ever when nobody tells of any.
async fn changed<T>(
    watched: &mut Option<watch::Receiver<T>>,
) -> Result<(), watch::error::RecvError> {
    match watched {
        Some(watched) => watched.changed().await,
        None => std::future::pending().await,
    }
}
