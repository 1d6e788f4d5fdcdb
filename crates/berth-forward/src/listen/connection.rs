//! One connection through a forward.

use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use berth_relay::{LocalSocket, Tally, join};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::address::GuestTarget;
use crate::guest::GuestStream;
use crate::limits::Limits;
use crate::way::Way;

/// What all connections share.
pub(super) struct Shared {
    pub(super) way: Arc<Way>,
    pub(super) limits: Limits,
    /// Connections that there may be still.
    free: Arc<Semaphore>,
    pub(super) tracker: TaskTracker,
    /// Ends listeners and connections.
    pub(super) stop: CancellationToken,
}

impl Shared {
    pub(super) fn new(way: Arc<Way>, limits: Limits) -> Self {
        Self {
            way,
            free: Arc::new(Semaphore::new(limits.connections)),
            limits,
            tracker: TaskTracker::new(),
            stop: CancellationToken::new(),
        }
    }
}

/// What the connections of one forward share.
pub(crate) struct Forward {
    shared: Arc<Shared>,
    targets: Mutex<Arc<[GuestTarget]>>,
    tally: Tally,
    free: Arc<Semaphore>,
}

impl std::fmt::Debug for Forward {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Forward")
            .field("targets", &self.targets)
            .field("tally", &self.tally)
            .finish_non_exhaustive()
    }
}

/// The family of addresses over which a client came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum DialError {
    #[error("the guest cannot be reached")]
    NoWay,
    #[error("the guest did not answer a connection to {0} in time")]
    TimedOut(GuestTarget),
    #[error("cannot connect to {0} in the guest")]
    Refused(GuestTarget, #[source] io::Error),
    #[error("nothing listens in the guest")]
    NoTarget,
}

/// There are as many connections as there may be.
#[derive(Debug, thiserror::Error)]
#[error("a connection was refused: there are {0} already")]
pub(super) struct TooMany(usize);

/// A place among a forward's connections, and one among all.
pub(super) type Permit = (OwnedSemaphorePermit, OwnedSemaphorePermit);

impl Forward {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            free: Arc::new(Semaphore::new(shared.limits.connections_per_forward)),
            shared,
            targets: Mutex::new(Arc::new([])),
            tally: Tally::default(),
        }
    }

    pub(crate) fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Where new connections go, the preferred first.
    pub(crate) fn aim(&self, targets: Vec<GuestTarget>) {
        *self.lock() = targets.into();
    }

    fn targets(&self) -> Arc<[GuestTarget]> {
        Arc::clone(&self.lock())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Arc<[GuestTarget]>> {
        // The list is replaced whole.
        self.targets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Carries a client's connection, in a task of its own. One too many is refused.
    pub(super) fn take<L>(self: &Arc<Self>, socket: L, family: Option<Family>)
    where
        L: LocalSocket + Send + 'static,
    {
        let permit = match self.permit() {
            Ok(permit) => permit,
            Err(why) => {
                self.tally.note_error(&why);
                socket.abort();
                return;
            }
        };
        let this = Arc::clone(self);
        let stop = self.shared.stop.clone();
        self.shared.tracker.spawn(async move {
            stop.run_until_cancelled(this.carry(socket, family)).await;
            drop(permit);
        });
    }

    /// Takes a place for one connection.
    pub(super) fn permit(&self) -> Result<Permit, TooMany> {
        let limits = &self.shared.limits;
        let take = |free: &Arc<Semaphore>, most| {
            let permit = Arc::clone(free).try_acquire_owned();
            permit.map_err(|_| TooMany(most))
        };
        let own = take(&self.free, limits.connections_per_forward)?;
        let common = take(&self.shared.free, limits.connections)?;
        Ok((own, common))
    }

    async fn carry<L: LocalSocket>(&self, socket: L, family: Option<Family>) {
        match self.dial(family).await {
            Ok(stream) => {
                if let Err(why) = join(socket, stream, &self.tally).await {
                    tracing::debug!(%why, "a connection ended early");
                }
            }
            Err(why) => {
                tracing::debug!(%why, "a client was refused");
                self.tally.note_error(&why);
                socket.abort();
            }
        }
    }

    /// Connects to the first of the targets that takes the connection; those of the client's family come first, so that `::1` leads
    /// to `::1` where both are listened on.
    async fn dial(&self, family: Option<Family>) -> Result<Box<dyn GuestStream>, DialError> {
        let Shared { way, limits, .. } = &*self.shared;
        if timeout(limits.link, way.dialer.ready()).await.is_err() {
            return Err(DialError::NoWay);
        }
        let deadline = Instant::now() + limits.dial;
        let targets = self.targets();
        let mut refused = DialError::NoTarget;
        for target in in_order(&targets, family) {
            match timeout_at(deadline, way.dialer.dial(target)).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(why)) => refused = DialError::Refused(target.clone(), why),
                Err(_) => return Err(DialError::TimedOut(target.clone())),
            }
        }
        Err(refused)
    }

    pub(super) async fn dial_for_datagrams(&self) -> io::Result<Box<dyn GuestStream>> {
        self.dial(None).await.map_err(io::Error::other)
    }

    /// Ends when everything is to end.
    pub(super) async fn unless_stopped<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        self.shared.stop.run_until_cancelled(work).await
    }
}

impl Family {
    pub(super) fn of(ip: IpAddr) -> Self {
        if ip.to_canonical().is_ipv4() {
            Self::V4
        } else {
            Self::V6
        }
    }

    fn is_of(self, target: &GuestTarget) -> bool {
        match target {
            GuestTarget::Tcp(address) | GuestTarget::Udp(address) => Self::of(address.ip()) == self,
            GuestTarget::Unix { .. } => true,
        }
    }
}

fn in_order(targets: &[GuestTarget], family: Option<Family>) -> impl Iterator<Item = &GuestTarget> {
    let is_first = move |target: &&GuestTarget| family.is_none_or(|family| family.is_of(target));
    let others = targets.iter().filter(move |target| !is_first(target));
    targets.iter().filter(is_first).chain(others)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_of_the_clients_family_come_first_and_the_others_stay_in_order() {
        let targets = ["0.0.0.0:1", "127.0.0.1:1", "[::]:1", "[::1]:1"]
            .map(|text| GuestTarget::Tcp(text.parse().unwrap()));
        let order = |family| {
            let order = in_order(&targets, family).map(ToString::to_string);
            order.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(order(None), "0.0.0.0:1 127.0.0.1:1 [::]:1 [::1]:1");
        assert_eq!(
            order(Some(Family::V4)),
            "0.0.0.0:1 127.0.0.1:1 [::]:1 [::1]:1"
        );
        assert_eq!(
            order(Some(Family::V6)),
            "[::]:1 [::1]:1 0.0.0.0:1 127.0.0.1:1"
        );
    }
}
