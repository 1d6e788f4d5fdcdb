//! The threads of a share that wait for disks: started when there is work, a few at most, gone when there is none.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::desk::Desk;
use crate::operation::Operation;
use crate::order::Access;
use crate::share::Limits;
use crate::wire::{Status, reply};

/// A request that a thread is to carry out.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) id: u32,
    pub(crate) operation: Operation,
    pub(crate) access: Access,
    pub(crate) cost: usize,
}

/// A request that was carried out.
#[derive(Debug)]
pub(crate) struct Done {
    /// What the request was reckoned at.
    pub(crate) cost: usize,
    pub(crate) reply: Vec<u8>,
}

/// The threads of one client. They end when this is dropped, after what they are at; what nobody has begun is forgotten.
#[derive(Debug)]
pub(crate) struct Workers(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    desk: Arc<Desk>,
    state: Mutex<State>,
    work: Condvar,
    replies: Notify,
    threads: usize,
    linger: Duration,
}

#[derive(Debug, Default)]
struct State {
    /// In the order of the requests.
    waiting: VecDeque<Job>,
    /// What is being carried out, by the number of its turn.
    running: Vec<(u64, Access)>,
    turns: u64,
    done: Vec<Done>,
    threads: usize,
    idle: usize,
    closed: bool,
}

impl State {
    /// The first request that needs to wait for none before it.
    fn ready(&self) -> Option<usize> {
        let running = |access: Access| self.running.iter().any(|(_, run)| access.waits_for(*run));
        let earlier = |access: Access, at: usize| {
            let mut before = self.waiting.iter().take(at);
            before.any(|job| access.waits_for(job.access))
        };
        (0..self.waiting.len()).find(|at| {
            let access = self.waiting[*at].access;
            !running(access) && !earlier(access, *at)
        })
    }

    fn begin(&mut self) -> Option<(u64, Job)> {
        let job = self.waiting.remove(self.ready()?)?;
        self.turns += 1;
        self.running.push((self.turns, job.access));
        Some((self.turns, job))
    }

    /// Keeps a reply; returns whether it is the only one.
    fn finish(&mut self, done: Done) -> bool {
        self.done.push(done);
        self.done.len() == 1
    }
}

impl Workers {
    pub(crate) fn new(desk: Arc<Desk>, limits: &Limits) -> Self {
        Self(Arc::new(Shared {
            desk,
            state: Mutex::default(),
            work: Condvar::new(),
            replies: Notify::new(),
            threads: limits.threads.max(1),
            linger: limits.linger,
        }))
    }

    /// Whether something that is not done yet has to be done before.
    pub(crate) fn holds_up(&self, access: Access) -> bool {
        let state = self.0.state();
        let running = state.running.iter().map(|(_, access)| *access);
        let waiting = state.waiting.iter().map(|job| job.access);
        running
            .chain(waiting)
            .any(|earlier| access.waits_for(earlier))
    }

    /// Takes on requests, in their order; leaves none.
    pub(crate) fn submit(&self, jobs: &mut Vec<Job>) {
        if jobs.is_empty() {
            return;
        }
        let mut state = self.0.state();
        state.waiting.extend(jobs.drain(..));
        if state.ready().is_some() {
            self.0.call_one(state);
        }
    }

    /// Takes what is done.
    pub(crate) fn take_done(&self) -> Vec<Done> {
        std::mem::take(&mut self.0.state().done)
    }

    /// Waits until something may be done.
    pub(crate) async fn replied(&self) {
        self.0.replies.notified().await;
    }

    /// Threads that there are.
    #[cfg(test)]
    pub(crate) fn threads(&self) -> usize {
        self.0.state().threads
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.closed = true;
        state.waiting.clear();
        drop(state);
        self.0.work.notify_all();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has one more thread look for work, if there may be one.
    fn call_one(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        if state.idle > 0 {
            drop(state);
            self.work.notify_one();
            return;
        }
        if state.threads >= self.threads {
            return;
        }
        state.threads += 1;
        let shared = Arc::clone(self);
        let thread = std::thread::Builder::new().name("sftp".to_owned());
        if let Err(error) = thread.spawn(move || shared.work()) {
            state.threads -= 1;
            // The others will get to it, if there are any.
            if state.threads == 0 {
                tracing::error!(%error, "no thread can be started for a share: its requests fail");
                self.refuse_all(state);
            }
        }
    }

    fn refuse_all(&self, mut state: MutexGuard<'_, State>) {
        while let Some(job) = state.waiting.pop_front() {
            let mut refusal = Vec::new();
            reply::status(&mut refusal, job.id, Status::Failure);
            state.finish(Done {
                cost: job.cost,
                reply: refusal,
            });
        }
        drop(state);
        self.replies.notify_one();
    }

    /// A thread: carries out what there is, then waits a while for more.
    fn work(self: &Arc<Self>) {
        let mut state = self.state();
        loop {
            if let Some((turn, job)) = state.begin() {
                if state.ready().is_some() {
                    self.call_one(state);
                } else {
                    drop(state);
                }
                let done = self.carry_out(job);
                state = self.state();
                state.running.retain(|(other, _)| *other != turn);
                if state.finish(done) {
                    drop(state);
                    self.replies.notify_one();
                    state = self.state();
                }
                continue;
            }
            if state.closed {
                break;
            }
            state.idle += 1;
            let (woken, waited) = self
                .work
                .wait_timeout(state, self.linger)
                .unwrap_or_else(PoisonError::into_inner);
            state = woken;
            state.idle -= 1;
            if waited.timed_out() && state.ready().is_none() {
                break;
            }
        }
        state.threads -= 1;
    }

    fn carry_out(&self, job: Job) -> Done {
        let Job {
            id,
            operation,
            cost,
            ..
        } = job;
        let mut reply = Vec::new();
        self.desk.carry_out(id, operation, &mut reply);
        Done { cost, reply }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Instant;

    use super::*;
    use crate::path::SharePath;
    use crate::share::Share;
    use crate::wire::request::Request;

    fn workers(directory: &Path, linger: Duration) -> Workers {
        let mut share = Share::new(directory);
        share.writable = true;
        share.limits.linger = linger;
        let limits = share.limits.clone();
        Workers::new(Arc::new(Desk::open(share, true).unwrap()), &limits)
    }

    fn make(id: u32, name: &str) -> Job {
        let path = SharePath::parse(name.as_bytes()).unwrap();
        Job {
            id,
            operation: Operation::Named(Request::MakeDirectory {
                path,
                permissions: None,
            }),
            access: Access::Names,
            cost: 1,
        }
    }

    #[tokio::test]
    async fn threads_end_when_there_is_nothing_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let workers = workers(directory.path(), Duration::from_millis(1));
        for round in 0..3 {
            let mut jobs = (0..20)
                .map(|at| make(at, &format!("{round}-{at}")))
                .collect();
            workers.submit(&mut jobs);
            let mut done = 0;
            while done < 20 {
                workers.replied().await;
                done += workers.take_done().len();
            }
            let begin = Instant::now();
            while workers.threads() > 0 {
                std::thread::yield_now();
                assert!(begin.elapsed() < Duration::from_secs(60), "a thread stays");
            }
        }
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 60);
    }

    #[test]
    fn threads_end_with_their_client() {
        let directory = tempfile::tempdir().unwrap();
        let workers = workers(directory.path(), Duration::from_secs(3600));
        workers.submit(&mut vec![make(1, "a")]);
        let shared = Arc::clone(&workers.0);
        drop(workers);
        let begin = Instant::now();
        while shared.state().threads > 0 {
            std::thread::yield_now();
            assert!(begin.elapsed() < Duration::from_secs(60), "a thread stays");
        }
    }
}
