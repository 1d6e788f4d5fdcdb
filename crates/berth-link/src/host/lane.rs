//! The host's end of a lane.

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::greet::{Greeted, meet};
use super::supervisor::{FAREWELL_LIMIT, GOOD_SESSION, LONGEST_PAUSE, causes};
use super::{Connector, LinkError, LinkHandle};
use crate::backoff::Backoff;
use crate::flow::FlowHeader;
use crate::mux::{
    self, LANE_BUDGET, LONGEST_WINDOW, Limits, LinkStream, Load, Mux, Side, cancelled_with_bye,
};
use crate::session::SessionEnd;

/// What the host keeps for one session. The guest opens no streams on a lane.
const LIMITS: Limits = Limits {
    own_streams: 8192,
    peer_streams: 0,
    window: LONGEST_WINDOW,
    budget: LANE_BUDGET,
};

/// One lane, from the link's first session to the end of the link.
pub struct Lane {
    connector: Arc<dyn Connector>,
    link: LinkHandle,
    session: watch::Sender<Option<Mux>>,
}

/// A cheap handle to a lane.
#[derive(Debug, Clone)]
pub struct LaneHandle(watch::Receiver<Option<Mux>>);

impl LaneHandle {
    /// Opens a stream, as [`LinkHandle::open_stream`] does.
    pub fn open_stream(&self, header: &FlowHeader) -> Result<LinkStream, LinkError> {
        let session = self.0.borrow().clone();
        Ok(session.ok_or(LinkError::Down)?.open(header)?)
    }

    /// What it has to do; `None` while it is down.
    #[must_use]
    pub fn load(&self) -> Option<Load> {
        self.0.borrow().as_ref().map(Mux::load)
    }
}

impl Lane {
    /// A lane of `link`.
    #[must_use]
    pub fn new(connector: Arc<dyn Connector>, link: LinkHandle) -> (Self, LaneHandle) {
        let (session, watched) = watch::channel(None);
        let lane = Self {
            connector,
            link,
            session,
        };
        (lane, LaneHandle(watched))
    }

    /// Holds the lane while the link is up, until `cancel` or the link's end. Streams move only while this is polled.
    pub async fn run(self, cancel: CancellationToken) {
        let mut backoff = Backoff::up_to(LONGEST_PAUSE);
        while let Some(Some(generation)) = cancel.run_until_cancelled(self.link.up()).await {
            let began = Instant::now();
            let ended = self.attempt(generation, &cancel).await;
            self.session.send_replace(None);
            let ControlFlow::Continue(end) = ended else {
                return;
            };
            tracing::debug!(failure = causes(&end), "lane is down");
            if began.elapsed() >= GOOD_SESSION {
                backoff.reset();
            }
            let paused = cancel.run_until_cancelled(sleep(backoff.next()));
            if paused.await.is_none() {
                return;
            }
        }
    }

    /// One carrier, from connecting to its end: why it ended, or that the lane has to stop.
    ///
    /// It ends with the link's session: an agent that began anew serves no stream of an earlier one, and one that is lost answers
    /// on no carrier.
    async fn attempt(
        &self,
        generation: u64,
        cancel: &CancellationToken,
    ) -> ControlFlow<(), SessionEnd> {
        let met = tokio::select! {
            biased;
            () = cancel.cancelled() => return ControlFlow::Break(()),
            () = self.link.over(generation) => return ControlFlow::Continue(SessionEnd::LinkDown),
            met = self.meet() => met,
        };
        let Greeted {
            carrier,
            inbox,
            ack,
        } = match met {
            Ok(greeted) => greeted,
            Err(end) => return ControlFlow::Continue(end),
        };
        let (mux, incoming, mut driver) = mux::new(carrier, inbox, Side::Host, ack.session, LIMITS);
        drop(incoming);
        self.session.send_replace(Some(mux.clone()));
        tokio::select! {
            biased;
            end = driver.run() => return ControlFlow::Continue(end),
            () = cancelled_with_bye(cancel, &mux) => {}
            () = self.link.over(generation) => return ControlFlow::Continue(SessionEnd::LinkDown),
        }
        // A guest that does not read its last frame does not keep the host.
        let _ = timeout(FAREWELL_LIMIT, driver.run()).await;
        ControlFlow::Break(())
    }

    async fn meet(&self) -> Result<Greeted, SessionEnd> {
        let connected = self.connector.connect().await;
        let carrier = connected.map_err(|source| SessionEnd::io("connect to", source))?;
        // The guest knocks when it opens its end, so nobody else has to say that it did.
        meet(carrier, &Notify::new()).await
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane").finish_non_exhaustive()
    }
}
