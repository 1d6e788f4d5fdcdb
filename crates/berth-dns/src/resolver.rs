//! Who answers what: the order in which the sources of names are asked.
//!
//! | question | answered by |
//! |---|---|
//! | AAAA while `hostResolver.ipv6` is off | "none", at once |
//! | a static name, the network's own reverse names | [`StaticNames`], and nobody else |
//! | a name or address in the host's `/etc/hosts` | the file; the other family is empty |
//! | an address, where the host has modules beyond files and DNS | `getaddrinfo`; raw only to tell "none" from "no such name" |
//! | an address of a name without a dot | the host's search domains, raw |
//! | everything else | the host's servers, raw |

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cache::{Cache, Key};
use crate::counters::Counters;
use crate::host::hosts::of_kind;
use crate::host::{AddressSource, HostConfig};
use crate::rebinding::is_rebinding;
use crate::statics::{Found, GuestNetwork, StaticNames};
use crate::system::{LookupError, SystemResolver};
use crate::upstream::{Ask, Upstream};
use crate::wire::answer::Answer;
use crate::wire::name::Name;
use crate::wire::query::{Query, Received};
use crate::wire::reply::{OWN_TTL, OwnRecord, write_own, write_refusal};
use crate::wire::{Rcode, RecordType};

/// Questions that may wait for somebody else's answer at a time.
const MAX_WAITING: usize = 1024;

/// What the configuration of an instance says about names.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    /// Names that are answered here.
    pub statics: StaticNames,
    /// `hostResolver.ipv6`: whether IPv6 addresses are told.
    pub ipv6: bool,
    /// The network of the guest that asks; public names must not lead into it.
    pub network: Option<GuestNetwork>,
}

/// What the host says at the moment.
#[derive(Debug)]
pub(crate) struct Host {
    pub(crate) config: HostConfig,
    pub(crate) upstream: Upstream,
}

impl Host {
    fn new(config: HostConfig, tasks: &Tasks) -> Arc<Self> {
        let upstream = Upstream::new(&config.servers, tasks.clone());
        Arc::new(Self { config, upstream })
    }
}

/// Where tasks belong, and what ends them.
pub(crate) type Tasks = (TaskTracker, CancellationToken);

/// What is to be done with a client's message.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// The answer was written.
    Answered,
    /// Somebody else must be asked; [`Resolver::resolve`] does it.
    Ask(Box<Query<'static>>),
    /// It gets no answer.
    Ignored,
}

/// Everything that answers depend on.
#[derive(Debug)]
pub(crate) struct Resolver {
    policy: Policy,
    system: SystemResolver,
    host: Mutex<Arc<Host>>,
    cache: Mutex<Cache>,
    /// Who waits for the answer to a question that somebody has already asked for. One question at a time also means that
    /// nobody can have a forged answer tried against many.
    waiting: Mutex<HashMap<Key, Vec<oneshot::Sender<Outcome>>>>,
    places: AtomicUsize,
    tasks: Tasks,
    pub(crate) counters: Arc<Counters>,
}

/// An answer, or none: then the client is told that it failed.
type Outcome = Option<Arc<Answer>>;

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Resolver {
    pub(crate) fn new(
        policy: Policy,
        config: HostConfig,
        system: SystemResolver,
        tasks: Tasks,
    ) -> Self {
        Self {
            policy,
            system,
            host: Mutex::new(Host::new(config, &tasks)),
            cache: Mutex::default(),
            waiting: Mutex::default(),
            places: AtomicUsize::new(0),
            tasks,
            counters: Arc::default(),
        }
    }

    pub(crate) fn host(&self) -> Arc<Host> {
        Arc::clone(&locked(&self.host))
    }

    pub(crate) fn cached(&self) -> usize {
        locked(&self.cache).len()
    }

    /// The host may have changed: nothing of before counts any more. Servers that are the same start afresh too, since the way
    /// to them may be another.
    pub(crate) fn host_changed(&self, config: HostConfig) {
        self.counters.changes.one();
        *locked(&self.host) = Host::new(config, &self.tasks);
        locked(&self.cache).flush();
    }

    /// Answers a client's message, if nobody has to be waited for; appends the answer to `out`.
    pub(crate) fn answer(&self, received: Received<'_>, out: &mut Vec<u8>) -> Verdict {
        let query = match received {
            Received::Query(query) => query,
            Received::Refused(refusal) => {
                self.counters.refused.one();
                write_refusal(&refusal, out);
                return Verdict::Answered;
            }
            Received::Ignored => {
                self.counters.refused.one();
                return Verdict::Ignored;
            }
        };
        if self.answer_statically(&query, out) || self.answer_from_cache(&query, out) {
            return Verdict::Answered;
        }
        Verdict::Ask(Box::new(query.into_owned()))
    }

    fn answer_statically(&self, query: &Query<'_>, out: &mut Vec<u8>) -> bool {
        let own = |rcode, record: Option<OwnRecord<'_>>, out: &mut Vec<u8>| {
            self.counters.from_static.one();
            write_own(query, rcode, OWN_TTL, record, out);
            true
        };
        if query.kind == RecordType::AAAA && !self.policy.ipv6 {
            return own(Rcode::NO_ERROR, None, out);
        }
        match self.policy.statics.find(query.name.as_bytes(), query.kind) {
            Found::Nothing => self.answer_from_hosts(query, out),
            Found::RecordsOf(_) => false,
            Found::NoSuchName => own(Rcode::NX_DOMAIN, None, out),
            Found::NoData => own(Rcode::NO_ERROR, None, out),
            Found::Address(address) => own(Rcode::NO_ERROR, Some(OwnRecord::Address(address)), out),
            Found::Pointer(name) => own(Rcode::NO_ERROR, Some(OwnRecord::Ptr(name)), out),
            Found::Alias(name) => own(Rcode::NO_ERROR, Some(OwnRecord::Cname(name)), out),
        }
    }

    /// A name of the file has nothing but its addresses: were other types asked for elsewhere, "no such name" could come back,
    /// which the guest's cache takes for all types.
    fn answer_from_hosts(&self, query: &Query<'_>, out: &mut Vec<u8>) -> bool {
        let host = self.host();
        let (hosts, name) = (&host.config.hosts, query.name.as_bytes());
        let pointer = hosts
            .pointer(name)
            .filter(|_| query.kind == RecordType::PTR);
        if let Some(pointer) = pointer {
            write_own(
                query,
                Rcode::NO_ERROR,
                OWN_TTL,
                [OwnRecord::Ptr(pointer)],
                out,
            );
        } else if let Some(addresses) = hosts.addresses(name) {
            let records = of_kind(addresses, query.kind).map(OwnRecord::Address);
            write_own(query, Rcode::NO_ERROR, OWN_TTL, records, out);
        } else {
            return false;
        }
        self.counters.from_hosts_file.one();
        true
    }

    fn answer_from_cache(&self, query: &Query<'_>, out: &mut Vec<u8>) -> bool {
        let mut cache = locked(&self.cache);
        let Some((answer, age)) = cache.get(query, Instant::now()) else {
            return false;
        };
        answer.write_for(query, age, out);
        self.counters.from_cache.one();
        true
    }

    /// Takes a place among those who wait; `None` when there is none.
    pub(crate) fn place(self: &Arc<Self>) -> Option<Place> {
        let taken = self.places.fetch_add(1, Relaxed);
        let place = Place(Arc::clone(self));
        if taken >= MAX_WAITING {
            self.counters.over_limit.one();
            return None;
        }
        Some(place)
    }

    /// Asks whoever knows, and appends the answer to `out`: in the worst case, that there is none.
    pub(crate) async fn resolve(&self, query: &Query<'_>, out: &mut Vec<u8>) {
        match self.shared(query).await {
            Some(answer) => answer.write_for(query, 0, out),
            None => self.fail(query, out),
        }
    }

    /// Tells a client that its question failed.
    pub(crate) fn fail(&self, query: &Query<'_>, out: &mut Vec<u8>) {
        self.counters.failed.one();
        write_own(query, Rcode::SERV_FAIL, 0, [], out);
    }

    /// Asks, unless somebody else is asking the same already: then waits for theirs.
    async fn shared(&self, query: &Query<'_>) -> Outcome {
        let key = Key::of(query);
        let theirs = {
            let mut waiting = locked(&self.waiting);
            if let Some(others) = waiting.get_mut(&key) {
                let (tell, told) = oneshot::channel();
                others.push(tell);
                Some(told)
            } else {
                waiting.insert(key.clone(), Vec::new());
                None
            }
        };
        if let Some(theirs) = theirs {
            // They were given up when the resolver ended.
            return theirs.await.ok().flatten();
        }
        let mut leader = Leader {
            resolver: self,
            key,
            outcome: None,
        };
        let generation = locked(&self.cache).generation();
        let found = self.find(query).await;
        if let Some(answer) = &found {
            let mut cache = locked(&self.cache);
            cache.put(leader.key.clone(), answer, generation, Instant::now());
        }
        leader.outcome.clone_from(&found);
        found
    }

    /// What is rare is boxed: the future of the usual way is allocated for each question.
    async fn find(&self, query: &Query<'_>) -> Outcome {
        let statics = &self.policy.statics;
        if let Found::RecordsOf(target) = statics.find(query.name.as_bytes(), query.kind) {
            return Box::pin(self.records_of(query, target)).await;
        }
        let name = query.name.to_name();
        let host = self.host();
        if query.kind.is_address() {
            if host.config.addresses == AddressSource::System
                && let Some(found) = Box::pin(self.ask_system(query, &name, &host)).await
            {
                return found;
            }
            if name.labels().count() == 1 && !host.config.search.is_empty() {
                return Box::pin(self.ask_search_domains(query, &name, &host)).await;
            }
        }
        self.ask_servers(query, &host).await
    }

    /// Answers with what another name has: its addresses under the name asked for, which is all that most programs understand; other
    /// records behind one that says whose they are.
    async fn records_of(&self, query: &Query<'_>, target: &Name) -> Outcome {
        let host = self.host();
        if let Some(known) = host.config.hosts.addresses(target.as_bytes()) {
            let addresses: Vec<IpAddr> = of_kind(known, query.kind).collect();
            return Some(Arc::new(Answer::of_addresses(query, &addresses, OWN_TTL)));
        }
        // A circle of static names ends at one of them: it is asked for as it stands.
        let is_same = target.as_bytes() == query.name.as_bytes();
        if is_same {
            return self.ask_servers(query, &host).await;
        }
        let asked = Query {
            flags: query.flags,
            edns: query.edns,
            ..Query::new(target, query.kind, query.transport)
        };
        if !query.kind.is_address() {
            let answer = self.ask_servers(&asked, &host).await?;
            let is_answer = matches!(answer.rcode(), Rcode::NO_ERROR | Rcode::NX_DOMAIN);
            return if is_answer {
                answer.behind_alias(query, target).map(Arc::new)
            } else {
                Some(Arc::new(Answer::empty(query, answer.rcode(), 0)))
            };
        }
        let found = if host.config.addresses == AddressSource::System {
            self.ask_system(&asked, target, &host).await
        } else {
            None
        };
        let answer = match found {
            Some(found) => found?,
            None => self.ask_servers(&asked, &host).await?,
        };
        Some(Arc::new(renamed(query, &answer)))
    }

    /// Asks the system's resolver. `None` when it has no addresses and the servers must say why, or it was not asked.
    async fn ask_system(&self, query: &Query<'_>, name: &Name, host: &Host) -> Option<Outcome> {
        let text = name.to_host_name()?;
        let is_local = name.labels().last() == Some(b"local");
        // The dot at the end says that the host's search rules are not for this name; not every module understands it.
        let asked = if text.contains('.') && !is_local {
            format!("{text}.")
        } else {
            text
        };
        match self.system.addresses(asked).await {
            Ok(addresses) => {
                self.counters.from_system.one();
                let fitting: Vec<IpAddr> = of_kind(&addresses, query.kind).collect();
                let answer = Answer::of_addresses(query, &fitting, OWN_TTL);
                Some(Some(self.guarded(query, answer)))
            }
            // Multicast DNS has no servers, and the names of a link are nobody else's business.
            Err(LookupError::NotFound) if is_local => {
                self.counters.from_system.one();
                Some(Some(Arc::new(Answer::empty(query, Rcode::NX_DOMAIN, 0))))
            }
            Err(LookupError::NotFound) => None,
            Err(why) => {
                tracing::debug!(%why, ?name, "not resolved");
                // The servers may know better, unless there are none but the system.
                (host.config.servers.is_empty() || is_local).then_some(None)
            }
        }
    }

    /// Looks for a name without a dot in the host's search domains, as the host itself would.
    async fn ask_search_domains(&self, query: &Query<'_>, name: &Name, host: &Host) -> Outcome {
        let mut is_known = false;
        for domain in &host.config.search {
            let Some(whole) = name.beneath(domain) else {
                continue;
            };
            let asked = Query {
                edns: query.edns,
                ..Query::new(&whole, query.kind, query.transport)
            };
            let answer = self.ask_servers(&asked, host).await?;
            match answer.rcode() {
                Rcode::NO_ERROR if !answer.addresses(query.kind).is_empty() => {
                    return Some(Arc::new(renamed(query, &answer)));
                }
                Rcode::NO_ERROR => is_known = true,
                _ => {}
            }
        }
        if is_known {
            return Some(Arc::new(Answer::empty(query, Rcode::NO_ERROR, OWN_TTL)));
        }
        self.ask_servers(query, host).await
    }

    async fn ask_servers(&self, query: &Query<'_>, host: &Host) -> Outcome {
        match host
            .upstream
            .ask(&Arc::new(Ask::of(query)), &self.counters)
            .await
        {
            Ok(answer) => {
                self.counters.from_upstream.one();
                Some(self.guarded(query, answer))
            }
            Err(why) => {
                tracing::debug!(%why, name = ?query.name, "not resolved");
                None
            }
        }
    }

    fn guarded(&self, query: &Query<'_>, answer: Answer) -> Arc<Answer> {
        if !is_rebinding(query.name.as_bytes(), &answer, self.policy.network) {
            return Arc::new(answer);
        }
        self.counters.rebinding.one();
        tracing::warn!(
            name = ?query.name,
            "kept from the guest: this public name leads to loopback or into the guest's own network; \
             hostResolver.hosts can allow it"
        );
        Arc::new(Answer::empty(query, Rcode::NO_ERROR, OWN_TTL))
    }
}

/// The addresses of an answer under another name.
fn renamed(query: &Query<'_>, answer: &Answer) -> Answer {
    let addresses = answer.addresses(query.kind);
    let ttl = answer.ttl();
    if addresses.is_empty() {
        return Answer::empty(query, answer.rcode(), ttl);
    }
    Answer::of_addresses(query, &addresses, ttl)
}

/// A place among those who wait.
#[derive(Debug)]
pub(crate) struct Place(Arc<Resolver>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.places.fetch_sub(1, Relaxed);
    }
}

/// Whoever asks on behalf of all who ask the same; tells them also when it is given up.
struct Leader<'a> {
    resolver: &'a Resolver,
    key: Key,
    outcome: Outcome,
}

impl Drop for Leader<'_> {
    fn drop(&mut self) {
        let others = locked(&self.resolver.waiting).remove(&self.key);
        for other in others.into_iter().flatten() {
            // It may have gone.
            let _ = other.send(self.outcome.clone());
        }
    }
}
