//! Connections through OpenSSH, for guests without an agent and for who asks for it (`LIMA_SSH_PORT_FORWARDER`).
//!
//! `ssh` never listens where people connect: it listens on unix sockets in a directory of our own, one for each socket of the guest
//! that somebody has connected to, and our own listeners lead there. So they survive the end of `ssh`, see who has a busy port, take
//! both loopback addresses, and count what goes through, as with a guest agent. Lima has `ssh` listen itself, with one process for
//! every port that the guest opens.
//!
//! One task owns the forwards. It sets one up when it is wanted first, all that were wanted again when there is a new `ssh`, takes
//! down before it sets up, and has not more than a few changes under way at once.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use berth_relay::Copied;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::address::GuestTarget;
use crate::guest::{Dialer, GuestStream, SshControl, SshForwarding};
use crate::sys::connect_unix;

/// Changes that are under way at once: each is a process.
const AT_ONCE: usize = 4;

/// How long one change may take.
const CHANGE: Duration = Duration::from_secs(10);

/// How long taking everything down may take at the end. What is left then ends with `ssh`.
const END: Duration = Duration::from_secs(3);

/// A way into the guest through `ssh`.
#[derive(Debug)]
pub(crate) struct SshTunnels {
    asks: mpsc::UnboundedSender<Ask>,
    master: watch::Receiver<Option<u64>>,
    stop: CancellationToken,
    ended: CancellationToken,
}

#[derive(Debug)]
enum Ask {
    /// Where to connect for a target.
    Open(GuestTarget, oneshot::Sender<Result<PathBuf, String>>),
    Release(GuestTarget),
}

impl SshTunnels {
    /// Starts the owner task on `tracker`; it ends with [`SshTunnels::end`], or when this is dropped.
    pub(crate) fn start(control: Arc<dyn SshControl>, own: &Path, tracker: &TaskTracker) -> Self {
        let (asks, asked) = mpsc::unbounded_channel();
        let master = control.master();
        let owner = Owner {
            control,
            master: master.clone(),
            directory: own.to_owned(),
            made: 0,
            tunnels: BTreeMap::new(),
            queue: VecDeque::new(),
            under_way: FuturesUnordered::new(),
        };
        let (stop, ended) = (CancellationToken::new(), CancellationToken::new());
        let (stopped, done) = (stop.clone(), ended.clone().drop_guard());
        tracker.spawn(async move {
            owner.run(asked, stopped).await;
            drop(done);
        });
        Self {
            asks,
            master,
            stop,
            ended,
        }
    }

    /// Takes all forwards down.
    pub(crate) async fn end(&self) {
        self.stop.cancel();
        self.ended.cancelled().await;
    }

    pub(crate) fn release(&self, target: &GuestTarget) {
        // Without an owner there is nothing to release.
        let _ = self.asks.send(Ask::Release(target.clone()));
    }
}

#[async_trait]
impl Dialer for SshTunnels {
    async fn dial(&self, target: &GuestTarget) -> io::Result<Box<dyn GuestStream>> {
        let (reply, path) = oneshot::channel();
        let ended = |_| io::Error::other("ssh is not used any more");
        let ask = Ask::Open(target.clone(), reply);
        self.asks.send(ask).map_err(|why| ended(why.to_string()))?;
        let path = path.await.map_err(|why| ended(why.to_string()))?;
        let path = path.map_err(io::Error::other)?;
        Ok(Box::new(Copied(connect_unix(&path).await?)))
    }

    async fn ready(&self) {
        let mut master = self.master.clone();
        if master.wait_for(Option::is_some).await.is_err() {
            // Nobody starts `ssh` any more.
            std::future::pending::<()>().await;
        }
    }
}

/// One socket of the guest that was asked for.
#[derive(Debug)]
struct Tunnel {
    socket: PathBuf,
    state: State,
    /// Whoever waits for it to be set up.
    waiting: Vec<oneshot::Sender<Result<PathBuf, String>>>,
    released: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Down,
    /// A change is queued or under way.
    Changing,
    Up,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Change {
    SetUp,
    TakeDown,
}

struct Changed {
    target: GuestTarget,
    change: Change,
    /// The `ssh` that was asked.
    master: Option<u64>,
    outcome: Result<(), String>,
}

struct Owner {
    control: Arc<dyn SshControl>,
    master: watch::Receiver<Option<u64>>,
    directory: PathBuf,
    made: u64,
    tunnels: BTreeMap<GuestTarget, Tunnel>,
    queue: VecDeque<(GuestTarget, Change)>,
    under_way: FuturesUnordered<BoxFuture<'static, Changed>>,
}

impl Owner {
    async fn run(mut self, mut asked: mpsc::UnboundedReceiver<Ask>, cancel: CancellationToken) {
        let mut may_change = true;
        loop {
            tokio::select! {
                () = cancel.cancelled() => break,
                ask = asked.recv() => match ask {
                    None => break,
                    Some(Ask::Open(target, reply)) => self.open(&target, reply),
                    Some(Ask::Release(target)) => self.release(&target),
                },
                Some(changed) = self.under_way.next() => self.changed(changed),
                news = self.master.changed(), if may_change => {
                    may_change = news.is_ok();
                    self.new_master();
                }
            }
            self.go_on();
        }
        self.end().await;
    }

    fn open(&mut self, target: &GuestTarget, reply: oneshot::Sender<Result<PathBuf, String>>) {
        let directory = &self.directory;
        let made = &mut self.made;
        let tunnel = self.tunnels.entry(target.clone()).or_insert_with(|| {
            *made += 1;
            Tunnel {
                socket: directory.join(format!(".ssh-{made}")),
                state: State::Down,
                waiting: Vec::new(),
                released: false,
            }
        });
        tunnel.released = false;
        if tunnel.state == State::Up {
            // Who asked may have given up.
            let _ = reply.send(Ok(tunnel.socket.clone()));
            return;
        }
        tunnel.waiting.push(reply);
        self.plan(target);
    }

    fn release(&mut self, target: &GuestTarget) {
        if let Some(tunnel) = self.tunnels.get_mut(target) {
            tunnel.released = true;
            self.plan(target);
        }
    }

    /// Queues what is to be done next about a tunnel, if anything; takes down before it sets up.
    fn plan(&mut self, target: &GuestTarget) {
        let Some(tunnel) = self.tunnels.get_mut(target) else {
            return;
        };
        let change = match (tunnel.state, tunnel.released) {
            (State::Up, true) => Change::TakeDown,
            (State::Down, false) => Change::SetUp,
            (State::Down, true) => {
                self.tunnels.remove(target);
                return;
            }
            (State::Up, false) | (State::Changing, _) => return,
        };
        tunnel.state = State::Changing;
        let planned = (target.clone(), change);
        match change {
            Change::TakeDown => self.queue.push_front(planned),
            Change::SetUp => self.queue.push_back(planned),
        }
    }

    /// Begins as many changes as may be under way.
    fn go_on(&mut self) {
        while self.under_way.len() < AT_ONCE {
            let Some((target, change)) = self.queue.pop_front() else {
                return;
            };
            let Some(tunnel) = self.tunnels.get(&target) else {
                continue;
            };
            let forwarding = SshForwarding::FromHost {
                socket: tunnel.socket.clone(),
                guest: target.clone(),
            };
            let control = Arc::clone(&self.control);
            let master = *self.master.borrow();
            self.under_way.push(Box::pin(async move {
                let asked = async {
                    match change {
                        Change::SetUp => control.forward(&forwarding).await,
                        Change::TakeDown => control.cancel(&forwarding).await,
                    }
                };
                let outcome = timeout(CHANGE, asked).await.unwrap_or_else(|_| {
                    Err(format!("ssh did not answer within {} s", CHANGE.as_secs()))
                });
                Changed {
                    target,
                    change,
                    master,
                    outcome,
                }
            }));
        }
    }

    fn changed(&mut self, changed: Changed) {
        let Changed {
            target,
            change,
            master,
            outcome,
        } = changed;
        let is_current = master == *self.master.borrow();
        let Some(tunnel) = self.tunnels.get_mut(&target) else {
            return;
        };
        let is_up = change == Change::SetUp && outcome.is_ok() && is_current;
        tunnel.state = if is_up { State::Up } else { State::Down };
        if let Err(why) = &outcome {
            tracing::debug!(why, %target, ?change, "ssh could not change a forward");
        }
        // What an `ssh` did that is gone says nothing about the one that has come since.
        if change == Change::SetUp && (is_up || is_current) {
            for reply in tunnel.waiting.drain(..) {
                // Who asked may have given up.
                let _ = reply.send(outcome.clone().map(|()| tunnel.socket.clone()));
            }
        }
        // One that failed is tried again when somebody wants it.
        if is_up || !is_current || tunnel.released || !tunnel.waiting.is_empty() {
            self.plan(&target);
        }
    }

    /// The forwards of the last `ssh` are gone; those that were wanted are wanted still.
    fn new_master(&mut self) {
        if self.master.borrow().is_none() {
            return;
        }
        let targets: Vec<GuestTarget> = self.tunnels.keys().cloned().collect();
        for target in targets {
            if let Some(tunnel) = self.tunnels.get_mut(&target)
                && tunnel.state == State::Up
            {
                tunnel.state = State::Down;
            }
            self.plan(&target);
        }
    }

    /// Takes down what is up, and removes what `ssh` leaves behind.
    async fn end(mut self) {
        self.under_way.clear();
        self.queue.clear();
        let deadline = Instant::now() + END;
        let has_master = self.master.borrow().is_some();
        for (target, tunnel) in &self.tunnels {
            if has_master && tunnel.state != State::Down {
                self.queue.push_back((target.clone(), Change::TakeDown));
            }
        }
        self.go_on();
        while let Ok(Some(_)) = timeout_at(deadline, self.under_way.next()).await {
            self.go_on();
        }
        for tunnel in self.tunnels.values() {
            // Mostly gone already.
            let _ = std::fs::remove_file(&tunnel.socket);
        }
    }
}
