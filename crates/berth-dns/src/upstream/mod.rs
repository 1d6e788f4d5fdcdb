//! The host's name servers: one scope, asked in the host's order.
//!
//! All servers of a scope share one view of the world (those of one `resolv.conf`), so whichever answers first may be believed. A
//! silent server costs the first question a moment, and then none: it is asked beside the others until it answers again.

mod exchange;

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) use exchange::{Ask, ExchangeError};

use crate::counters::Counters;
use crate::wire::Rcode;
use crate::wire::answer::Answer;

/// After so long without an answer the next server is asked too.
const HEDGE: Duration = Duration::from_millis(300);
/// After so long without an answer a server is asked again: the datagram may be lost.
const AGAIN: Duration = Duration::from_secs(1);
/// A question has so long in all: a little less than the C library gives a server, so that it hears of the failure.
const LIMIT: Duration = Duration::from_millis(4500);
/// How often each server is asked: datagrams get lost.
const ROUNDS: usize = 3;
/// A server that was silent is asked beside the others after so long.
const RETRY_SILENT: Duration = Duration::from_secs(5);

/// The servers of one scope.
#[derive(Debug)]
pub(crate) struct Upstream {
    servers: Vec<Arc<Server>>,
    tasks: (TaskTracker, CancellationToken),
}

#[derive(Debug)]
struct Server {
    address: SocketAddr,
    asked: AtomicU64,
    answered: AtomicU64,
    /// Since when it is silent, as far as we know.
    silent: Mutex<Option<Instant>>,
}

/// A server as people see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerStatus {
    /// Where it is.
    pub address: SocketAddr,
    /// Questions it got.
    pub asked: u64,
    /// Questions it answered.
    pub answered: u64,
    /// It has not answered lately.
    pub is_silent: bool,
}

/// No server gave an answer that is one.
#[derive(Debug, thiserror::Error)]
#[error("no name server of the host answered: {}", .0.join("; "))]
pub(crate) struct Unanswered(Vec<String>);

impl Server {
    fn silence(&self) -> Option<Instant> {
        *self.silent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, silent: Option<Instant>) {
        let mut known = self.silent.lock().unwrap_or_else(PoisonError::into_inner);
        *known = silent;
    }

    async fn ask(&self, ask: &Ask, counters: &Counters) -> Result<Answer, ExchangeError> {
        self.asked.fetch_add(1, Relaxed);
        let result = exchange::ask(self.address, ask, counters).await;
        match &result {
            Ok(_) => {
                self.answered.fetch_add(1, Relaxed);
                self.note(None);
            }
            Err(_) => self.note(Some(Instant::now())),
        }
        result
    }
}

/// Marks a server as silent when it is no longer waited for, as somebody else has answered long before it.
struct Overtaken<'a> {
    server: &'a Server,
    since: Instant,
    is_answered: bool,
}

impl Drop for Overtaken<'_> {
    fn drop(&mut self) {
        if !self.is_answered && self.since.elapsed() >= HEDGE {
            self.server.note(Some(Instant::now()));
        }
    }
}

impl Upstream {
    /// Servers in the host's order.
    pub(crate) fn new(servers: &[SocketAddr], tasks: (TaskTracker, CancellationToken)) -> Self {
        let server = |address: &SocketAddr| {
            Arc::new(Server {
                address: *address,
                asked: AtomicU64::new(0),
                answered: AtomicU64::new(0),
                silent: Mutex::new(None),
            })
        };
        Self {
            servers: servers.iter().map(server).collect(),
            tasks,
        }
    }

    /// The servers, for people.
    pub(crate) fn status(&self) -> Vec<ServerStatus> {
        let status = |server: &Arc<Server>| ServerStatus {
            address: server.address,
            asked: server.asked.load(Relaxed),
            answered: server.answered.load(Relaxed),
            is_silent: server.silence().is_some(),
        };
        self.servers.iter().map(status).collect()
    }

    /// Asks until somebody answers. A server's failure is an answer when nobody has a better one.
    pub(crate) async fn ask(
        &self,
        ask: &Arc<Ask>,
        counters: &Arc<Counters>,
    ) -> Result<Answer, Unanswered> {
        let mut race = Race {
            turns: self.turns(),
            failure: None,
            reasons: Vec::new(),
        };
        self.look_after_silent(ask, counters);
        match timeout(LIMIT, race.run(ask, counters)).await {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => race.failure.ok_or(Unanswered(race.reasons)),
            Err(_) => {
                race.reasons.push(format!("{LIMIT:?} are over"));
                race.failure.ok_or(Unanswered(race.reasons))
            }
        }
    }

    /// Who is asked, last first: those that answer before those that are silent, each group in the host's order.
    fn turns(&self) -> Vec<&Server> {
        let count = self.servers.len();
        let mut turns = Vec::with_capacity(ROUNDS * count);
        turns.extend(self.servers.iter().rev().map(Arc::as_ref));
        turns.sort_by_cached_key(|server| server.silence().is_none());
        for _ in 1..ROUNDS {
            turns.extend_from_within(..count);
        }
        turns
    }

    /// Asks a server that was silent for a while, to see whether it is back. Nobody waits for its answer.
    fn look_after_silent(&self, ask: &Arc<Ask>, counters: &Arc<Counters>) {
        let is_due = |server: &&Arc<Server>| {
            let since = server.silence().map(|since| since.elapsed());
            since.is_some_and(|since| since >= RETRY_SILENT)
        };
        let is_alone = self.servers.len() == 1;
        let Some(server) = self.servers.iter().find(is_due).filter(|_| !is_alone) else {
            return;
        };
        // One question at a time is enough to find out.
        server.note(Some(Instant::now()));
        let (server, ask, counters) = (Arc::clone(server), Arc::clone(ask), Arc::clone(counters));
        let (tracker, cancel) = self.tasks.clone();
        tracker.spawn(async move {
            let asked = server.ask(&ask, &counters);
            cancel.run_until_cancelled(asked).await;
        });
    }
}

/// One question on its way to several servers.
#[derive(Debug)]
struct Race<'a> {
    /// The next is the last of these.
    turns: Vec<&'a Server>,
    /// The best of the answers that are failures.
    failure: Option<Answer>,
    reasons: Vec<String>,
}

impl<'a> Race<'a> {
    /// `None` when there is nobody left to ask.
    async fn run(&mut self, ask: &Ask, counters: &Counters) -> Option<Answer> {
        let attempt = |server: &'a Server| async move {
            let mut overtaken = Overtaken {
                server,
                since: Instant::now(),
                is_answered: false,
            };
            let result = server.ask(ask, counters).await;
            overtaken.is_answered = true;
            (server, result)
        };
        // So many turns are left when everybody was asked once.
        let again = self.turns.len() / ROUNDS * (ROUNDS - 1);
        let mut running = FuturesUnordered::new();
        loop {
            let next = self.turns.pop();
            let is_last = next.is_none();
            running.extend(next.map(attempt));
            if running.is_empty() {
                return None;
            }
            let is_again = self.turns.len() <= again;
            let mut patience = pin!(sleep(if is_again { AGAIN } else { HEDGE }));
            loop {
                tokio::select! {
                    Some((server, result)) = running.next() => {
                        if let Some(answer) = self.judge(server, result) {
                            return Some(answer);
                        }
                        if running.is_empty() {
                            break;
                        }
                    }
                    () = &mut patience, if !is_last => break,
                    else => return None,
                }
            }
        }
    }

    /// Takes an answer that is one; remembers a failure, and does not ask that server again.
    fn judge(&mut self, server: &Server, result: Result<Answer, ExchangeError>) -> Option<Answer> {
        let reason = match result {
            Ok(answer) if matches!(answer.rcode(), Rcode::NO_ERROR | Rcode::NX_DOMAIN) => {
                return Some(answer);
            }
            Ok(answer) => {
                let rcode = answer.rcode();
                self.failure.get_or_insert(answer);
                rcode.to_string()
            }
            // It may have been lost: the server keeps its turns.
            Err(why @ ExchangeError::Silent(_)) => {
                self.reasons.push(format!("{}: {why}", server.address));
                return None;
            }
            Err(why) => why.to_string(),
        };
        self.reasons.push(format!("{}: {reason}", server.address));
        self.turns.retain(|turn| turn.address != server.address);
        None
    }
}
