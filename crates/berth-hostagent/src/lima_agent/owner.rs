//! The task that owns the connection to Lima's guest agent.

use std::convert::Infallible;
use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use berth_forward::address::GuestPorts;
use berth_guest_api::client::{EventStream, GuestApi};
use berth_guest_api::error::GuestApiError;
use berth_guest_api::port::{PortChanges, PortList};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::ports::PortTable;
use super::socket::AgentSocket;
use super::{AgentState, Current, Session};
use crate::error::chain;
use crate::master::MasterState;

/// Wait between attempts, first and longest: nothing tells when the agent begins to listen.
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// How long a connection to `ga.sock` may take; the listener is `ssh` on this host.
const CONNECT: Duration = Duration::from_secs(3);

/// How long taking the forward back may take at the end. It would end with the ControlMaster in any case.
const TAKE_BACK: Duration = Duration::from_secs(3);

/// How often the whole list is asked for: it proves that the agent lives, and repairs what its events have missed. Lima's agent
/// sends differences to a state that it keeps for itself, so a port that came and went beside a list that named it would stay
/// for ever.
const CHECK: Duration = Duration::from_secs(60);

/// The same after a list that differed from what the events said: longer than the agent's own 3 s between looks.
const CHECK_AGAIN: Duration = Duration::from_secs(5);

/// How long events wait, in the end in the guest, after some have been taken in: whatever the guest sends, it costs little.
const BETWEEN_EVENTS: Duration = Duration::from_millis(20);

/// How long the events may take to end with the connection for tunnels.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Events taken in at once before the ports are told.
const AT_ONCE: usize = 256;

pub(super) struct Owner {
    pub(super) socket: Arc<dyn AgentSocket>,
    pub(super) master: watch::Receiver<MasterState>,
    pub(super) table: PortTable,
    pub(super) ports: watch::Sender<GuestPorts>,
    pub(super) current: watch::Sender<Current>,
    pub(super) kick: Arc<Notify>,
    pub(super) tracker: TaskTracker,
    /// Ends every connection, also those that only tunnels keep alive.
    pub(super) connections: CancellationToken,
    /// The ControlMaster that has the forward of `ga.sock`.
    pub(super) exposed: Option<u64>,
    /// A forward was begun, ever.
    pub(super) touched: bool,
    /// Number of the last session.
    pub(super) generation: u64,
    /// When the present session, or the last attempt at one, was answered.
    pub(super) up_since: Option<Instant>,
    pub(super) complaints: Complaints,
}

/// Why a session ended, or never began.
enum End {
    /// The agent closed it, in order.
    Closed,
    /// Something broke.
    Broken(String),
}

impl From<GuestApiError> for End {
    fn from(error: GuestApiError) -> Self {
        Self::Broken(chain(&error))
    }
}

impl Owner {
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let connections = self.connections.clone().drop_guard();
        stop.run_until_cancelled(Box::pin(self.supervise())).await;
        self.current.send_replace(Current::down(None));
        drop(connections);
        if self.touched
            && let Err(why) = timeout(TAKE_BACK, self.socket.cancel())
                .await
                .unwrap_or_else(|_| Err("ssh did not answer".into()))
        {
            tracing::debug!(why, "the forward of ga.sock was not taken back");
        }
    }

    /// Connects again and again, until the ControlMaster's owner is gone.
    async fn supervise(&mut self) {
        let mut wait = FIRST_WAIT;
        while let Some(master) = self.login().await {
            self.up_since = None;
            let end = match self.session(master).await {
                Ok(never) => match never {},
                Err(end) => end,
            };
            let was_up = self.up_since.is_some();
            let why = match end {
                End::Closed => {
                    tracing::info!("Lima's guest agent closed the connection");
                    "the agent closed the connection".to_owned()
                }
                End::Broken(why) if was_up => {
                    tracing::warn!(why, "Lima's guest agent disconnected");
                    why
                }
                End::Broken(why) => {
                    tracing::debug!(why, "Lima's guest agent does not answer yet");
                    why
                }
            };
            self.current.send_replace(Current::down(Some(why)));
            if self.up_since.is_some_and(|up| up.elapsed() > LONGEST_WAIT) {
                wait = FIRST_WAIT;
            }
            self.pause(wait).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    /// Waits for a login; says which ControlMaster it is.
    async fn login(&mut self) -> Option<u64> {
        let up = |state: &MasterState| matches!(state, MasterState::Up { .. });
        match *self.master.wait_for(up).await.ok()? {
            MasterState::Up { generation } => Some(generation),
            MasterState::Down { .. } => None,
        }
    }

    /// Waits before the next attempt; news cut it short.
    async fn pause(&mut self, wait: Duration) {
        tokio::select! {
            () = sleep(wait) => {}
            () = self.kick.notified() => {}
            _ = self.master.changed() => {}
        }
    }

    /// One session from the first connection to the end.
    async fn session(&mut self, master: u64) -> Result<Infallible, End> {
        if self.exposed != Some(master) {
            self.expose(master).await?;
        }
        let calls = self.connect().await?;
        // The events begin before the list is made, so that what happens in between is told at least once.
        let mut events = calls.events().await?;
        let list = calls.info().await?;
        let tunnels = self.connect().await?;
        self.up_since = Some(Instant::now());
        self.generation += 1;
        let generation = self.generation;
        tracing::info!(
            generation,
            ports = list.ports.len(),
            "Lima's guest agent answers"
        );
        self.take_in_list(&list);
        let session = Session {
            calls,
            tunnels,
            condemned: CancellationToken::new(),
        };
        self.current.send_replace(Current {
            state: AgentState::Up { generation },
            session: Some(session.clone()),
        });
        self.follow(master, &session, &mut events).await
    }

    /// Has the ControlMaster forward `ga.sock`. Cancels first: a forward that it has already would fail, and take the socket
    /// with it.
    async fn expose(&mut self, master: u64) -> Result<(), End> {
        self.exposed = None;
        self.touched = true;
        if let Err(why) = self.socket.cancel().await {
            tracing::debug!(why, "there was no forward of ga.sock to take back");
        }
        self.socket.forward().await.map_err(End::Broken)?;
        self.exposed = Some(master);
        Ok(())
    }

    async fn connect(&mut self) -> Result<GuestApi, End> {
        let failure = match timeout(CONNECT, self.socket.connect()).await {
            Ok(Ok(stream)) => {
                let cancel = self.connections.clone();
                return Ok(GuestApi::connect(stream, &self.tracker, cancel).await?);
            }
            Ok(Err(why)) => why.to_string(),
            Err(_) => format!("no connection within {} s", CONNECT.as_secs()),
        };
        // Whoever forwarded it does so no more.
        self.exposed = None;
        Err(End::Broken(format!("cannot connect to ga.sock: {failure}")))
    }

    /// Keeps the ports up to date until the session ends.
    async fn follow(
        &mut self,
        master: u64,
        session: &Session,
        events: &mut EventStream,
    ) -> Result<Infallible, End> {
        let mut next_check = Instant::now() + CHECK_AGAIN;
        loop {
            tokio::select! {
                event = events.next() => {
                    let taken = self.take_in(event, events).await;
                    // What came before an end counts, too.
                    self.publish();
                    taken?;
                    sleep(BETWEEN_EVENTS).await;
                    continue;
                }
                () = session.tunnels.over() => return Err(last_words(events).await),
                () = session.condemned.cancelled() => {
                    return Err(End::Broken("it takes no more tunnels".into()));
                }
                () = sleep_until(next_check) => {}
                () = self.kick.notified() => {}
                news = self.master.changed() => {
                    let same = MasterState::Up { generation: master };
                    if news.is_err() || *self.master.borrow() != same {
                        return Err(End::Broken("the ssh master that carried it ended".into()));
                    }
                    continue;
                }
            }
            let list = session.calls.info().await?;
            let next = if self.take_in_list(&list) {
                CHECK_AGAIN
            } else {
                CHECK
            };
            next_check = Instant::now() + next;
        }
    }

    /// Takes in a whole list; says whether it told anything new.
    fn take_in_list(&mut self, list: &PortList) -> bool {
        let changed = self.table.replace(list);
        self.complain(&[], list.malformed);
        self.publish();
        changed
    }

    /// Takes in an event, and those that have come behind it.
    async fn take_in(
        &mut self,
        first: Option<Result<PortChanges, GuestApiError>>,
        events: &mut EventStream,
    ) -> Result<(), End> {
        let mut event = first;
        for taken in 1.. {
            let changes = event.ok_or(End::Closed)??;
            self.table.apply(&changes);
            self.complain(&changes.errors, changes.malformed);
            if taken == AT_ONCE {
                break;
            }
            event = tokio::select! {
                biased;
                next = events.next() => next,
                () = ready(()) => break,
            };
        }
        Ok(())
    }

    /// Tells the ports, if they have changed.
    fn publish(&self) {
        let known = self.table.published();
        self.ports.send_if_modified(|told| {
            let news = *told != known;
            *told = known;
            news
        });
    }

    /// Tells what is wrong with the guest's reports.
    fn complain(&mut self, errors: &[String], malformed: usize) {
        let said = &mut self.complaints;
        if let Some(error) = errors.first()
            && !std::mem::replace(&mut said.errors, true)
        {
            tracing::warn!(error, "Lima's guest agent reports an error");
        }
        if malformed > 0 && !std::mem::replace(&mut said.malformed, true) {
            tracing::warn!(malformed, "Lima's guest agent reports ports that are none");
        }
        let left_out = self.table.left_out;
        if left_out > 0 && !std::mem::replace(&mut said.too_many, true) {
            tracing::warn!(left_out, "the guest has more ports than are looked at");
        }
    }
}

/// Why the connection for tunnels has ended: the events know whether the agent meant it.
async fn last_words(events: &mut EventStream) -> End {
    match timeout(LAST_WORDS, events.next()).await {
        Ok(None) => End::Closed,
        Ok(Some(Err(why))) => why.into(),
        Ok(Some(Ok(_))) | Err(_) => End::Broken("its connection for tunnels ended".into()),
    }
}

/// What has been complained about: each once, whatever the guest sends.
#[derive(Default)]
pub(super) struct Complaints {
    errors: bool,
    malformed: bool,
    too_many: bool,
}
