//! The task that owns the carrier: connect, greet, talk, and over again.

use std::error::Error;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::greet::greet;
use super::queue::EventQueue;
use super::reverse::Takers;
use super::talk::Talk;
use super::{
    Ask, Carrier, Connector, Current, LinkEvent, LinkState, MAX_REQUESTS, Peer, Session,
    WelcomeSource,
};
use crate::apart;
use crate::backoff::Backoff;
use crate::hello::{Ack, SessionId};
use crate::mux::{
    self, Inbox, LONGEST_WINDOW, Limits, Mux, Side, WINDOW_BUDGET, cancelled_with_bye,
};
use crate::session::SessionEnd;

/// What the host keeps for one session. The guest opens a stream for each connection to a socket that it holds for the host,
/// and a flow that nobody reads costs its window.
const LIMITS: Limits = Limits {
    own_streams: 8192,
    peer_streams: 256,
    window: LONGEST_WINDOW,
    budget: WINDOW_BUDGET,
};

/// How long the last frames may take to leave when the link is shut down.
const FAREWELL_LIMIT: Duration = Duration::from_secs(1);

/// The longest pause between attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A session that lived so long was a good one: the next attempt comes at once.
const GOOD_SESSION: Duration = Duration::from_secs(2);

/// The owner's state between sessions.
pub(super) struct Owner {
    pub(super) connector: Arc<dyn Connector>,
    pub(super) welcome: WelcomeSource,
    pub(super) events: EventQueue,
    pub(super) current: watch::Sender<Current>,
    pub(super) kick: Arc<Notify>,
    pub(super) takers: Takers,
    pub(super) cancel: CancellationToken,
    pub(super) generation: u64,
}

impl Owner {
    /// Runs until cancelled or until nobody reads events.
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::up_to(LONGEST_PAUSE);
        while let ControlFlow::Continue(failure) = self.attempt(&mut backoff).await {
            tracing::debug!(failure, "link is down");
            self.current
                .send_replace(Current::connecting(Some(failure)));
            if self.pause(backoff.next()).await.is_break() {
                return;
            }
        }
    }

    /// Lets the reader catch up, then waits; a kick ends the wait.
    async fn pause(&mut self, delay: Duration) -> ControlFlow<()> {
        let caught_up = self.cancel.run_until_cancelled(self.events.deliver_all());
        if caught_up.await != Some(Ok(())) {
            return ControlFlow::Break(());
        }
        tokio::select! {
            () = sleep(delay) => ControlFlow::Continue(()),
            () = self.kick.notified() => ControlFlow::Continue(()),
            () = self.told_to_stop() => ControlFlow::Break(()),
        }
    }

    async fn told_to_stop(&self) {
        tokio::select! {
            () = self.cancel.cancelled() => {}
            () = self.events.reader_gone() => {}
        }
    }

    /// One carrier, from connecting to its end: why it ended, or that the owner has to stop.
    async fn attempt(&mut self, backoff: &mut Backoff) -> ControlFlow<(), String> {
        let greeted = tokio::select! {
            greeted = self.connect_and_greet() => greeted,
            () = self.told_to_stop() => return ControlFlow::Break(()),
        };
        match greeted {
            Ok(greeted) => self.hold_session(greeted, backoff).await,
            Err(end) => ControlFlow::Continue(causes(&end)),
        }
    }

    async fn connect_and_greet(&self) -> Result<Greeted, SessionEnd> {
        let connected = self.connector.connect().await;
        let mut carrier = connected.map_err(|source| SessionEnd::io("connect to", source))?;
        self.current
            .send_modify(|current| current.state = LinkState::Greeting);
        let session = SessionId::random().map_err(SessionEnd::NoRandom)?;
        let mut inbox = Inbox::default();
        let ack = greet(&mut carrier, &mut inbox, session, &self.kick).await?;
        Ok(Greeted {
            carrier,
            inbox,
            ack,
        })
    }

    /// A session from its first stream to its end: why it ended, or that the owner has to stop.
    async fn hold_session(
        &mut self,
        greeted: Greeted,
        backoff: &mut Backoff,
    ) -> ControlFlow<(), String> {
        let began = Instant::now();
        let Greeted {
            carrier,
            inbox,
            ack,
        } = greeted;
        let (mux, incoming, mut driver) = mux::new(carrier, inbox, Side::Host, ack.session, LIMITS);
        let asked = self.announce(&mux, &ack);
        let talk = Talk::new(&mut self.events, asked, &self.kick, ack.boot_id);
        let reason = tokio::select! {
            // First, because the others fail when the session does, and know less of why.
            biased;
            reason = driver.run() => Some(reason),
            () = apart(cancelled_with_bye(&self.cancel, &mux)) => None,
            reason = apart(self.takers.pass(incoming)) => Some(reason),
            reason = apart(talk.run(&mux, (self.welcome)())) => reason,
        };
        let Some(reason) = reason else {
            mux.say_bye();
            // A guest that does not read its last frame does not keep the host.
            let _ = timeout(FAREWELL_LIMIT, driver.run()).await;
            return ControlFlow::Break(());
        };
        if began.elapsed() >= GOOD_SESSION {
            backoff.reset();
        }
        let failure = causes(&reason);
        self.events.push(LinkEvent::Down {
            generation: self.generation,
            reason,
        });
        ControlFlow::Continue(failure)
    }

    /// Tells everybody of a new session; requests for it arrive at the returned end.
    fn announce(&mut self, mux: &Mux, ack: &Ack) -> mpsc::Receiver<Ask> {
        self.generation += 1;
        let generation = self.generation;
        self.events.push(LinkEvent::Up {
            generation,
            peer: Peer {
                boot_id: ack.boot_id,
                agent_version: ack.agent_version.clone(),
                protocol: ack.version,
            },
        });
        let (asks, asked) = mpsc::channel(MAX_REQUESTS);
        self.current.send_replace(Current {
            state: LinkState::Up { generation },
            session: Some(Session {
                mux: mux.clone(),
                asks,
            }),
        });
        asked
    }
}

/// A carrier whose other end has answered.
struct Greeted {
    carrier: Box<dyn Carrier>,
    inbox: Inbox,
    ack: Ack,
}

/// An error with all its causes, in one line.
fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
