//! The host's directories through sshfs: the host serves SFTP on a stream of the link, and here sshfs mounts it.
//!
//! One task per mount, which begins with the host's order and ends with its session. What ends without being asked leaves the
//! dead mount where it was: programs get `ENOTCONN` there, and nothing is written to the directory beneath it. The next
//! order for the same place takes it away, right before it mounts anew.
//!
//! | module | owns |
//! |---|---|
//! | `events` | file events: touching what has changed on the host |
//! | `life` | one mount, from the order to its end |
//! | `place` | the mount point: making it, and taking away what is mounted there |
//! | `sshfs` | the process |
//! | `table` | changes of the kernel's table of mounts |
//!
//! Nothing here touches a path of the guest on the agent's own thread: it may lie in a share whose bytes that very thread carries.

mod error;
mod events;
mod life;
mod place;
mod sshfs;
mod table;

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use berth_link::flow::{FlowHeader, FlowKind};
use berth_link::frame::ResetCode;
use berth_link::mux::LinkStream;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::guest::Guest;

/// Mounts of one session, each with its file events; no configuration has so many.
const MOST_MOUNTS: usize = 64;

/// How long the agent's end may wait for all mounts to be written out and unmounted.
const CLOSE_LIMIT: Duration = Duration::from_secs(8);

/// Serves the host's orders.
#[derive(Debug)]
pub(crate) struct Mounts {
    house: Arc<House>,
    session: Mutex<Arc<Session>>,
}

/// What every mount uses.
#[derive(Debug)]
struct House {
    root: PathBuf,
    user: OnceLock<String>,
    /// The agent ends: whatever is mounted is written out and unmounted.
    closing: CancellationToken,
    /// Ways into the mounts, by mount point, that stay open where programs may only read.
    views: Mutex<HashMap<String, Arc<OwnedFd>>>,
    /// Threads that raise file events.
    touching: Arc<Semaphore>,
}

/// The mounts of one session of the link.
#[derive(Debug, Default)]
struct Session {
    over: CancellationToken,
    tasks: TaskTracker,
    /// Those of the session before, which may still be ending.
    before: TaskTracker,
    claims: Mutex<Claims>,
}

/// What belongs to one mount only.
#[derive(Debug, Default)]
struct Claims {
    points: HashSet<String>,
    /// Mounts that wait for the stream with their data.
    awaited: HashMap<u32, oneshot::Sender<LinkStream>>,
}

impl Mounts {
    /// Nothing is mounted before [`Mounts::set_user`].
    pub(crate) fn new(guest: &Guest) -> Self {
        let house = House {
            root: guest.path("/"),
            user: OnceLock::new(),
            closing: CancellationToken::new(),
            views: Mutex::default(),
            touching: Arc::new(Semaphore::new(events::MOST_THREADS)),
        };
        Self {
            house: Arc::new(house),
            session: Mutex::default(),
        }
    }

    /// Tells the name of the instance's user, as whom sshfs runs. The first one stays.
    pub(crate) fn set_user(&self, name: &str) {
        self.house.user.get_or_init(|| name.to_owned());
    }

    /// A session begins: the mounts of the earlier one are over.
    pub(crate) fn begin(&self) {
        let mut session = self.session();
        session.over.cancel();
        session.tasks.close();
        *session = Arc::new(Session {
            before: session.tasks.clone(),
            ..Session::default()
        });
    }

    /// Serves a stream of a mount, or of file events, that the host opened.
    pub(crate) fn flow(&self, header: &FlowHeader, stream: LinkStream) {
        let session = Arc::clone(&self.session());
        if header.kind() == FlowKind::Files {
            return self.spawn(&session, stream, |house, _, stream| {
                events::serve(house, stream)
            });
        }
        let Some(id) = header.mount_id() else {
            return stream.reset(ResetCode::Unsupported);
        };
        match header.kind() {
            FlowKind::Mount => {
                self.spawn(&session, stream, move |house, session, stream| async move {
                    life::live(&house, &session, id, stream).await;
                });
            }
            FlowKind::MountData => match session.claims().awaited.remove(&id) {
                // Whoever waited may have given up meanwhile; dropping the stream says so.
                Some(waiting) => drop(waiting.send(stream)),
                None => stream.reset(ResetCode::Unsupported),
            },
            _ => stream.reset(ResetCode::Unsupported),
        }
    }

    fn spawn<F>(
        &self,
        session: &Arc<Session>,
        stream: LinkStream,
        serve: impl FnOnce(Arc<House>, Arc<Session>, LinkStream) -> F,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        if session.tasks.len() >= 2 * MOST_MOUNTS {
            tracing::warn!("a mount was refused: there are {MOST_MOUNTS}");
            return stream.reset(ResetCode::TooMany);
        }
        let serving = serve(Arc::clone(&self.house), Arc::clone(session), stream);
        let over = session.over.clone();
        session.tasks.spawn(async move {
            over.run_until_cancelled(Box::pin(serving)).await;
        });
    }

    /// Writes everything out, unmounts, and waits for that, within limits. The link must be served meanwhile.
    pub(crate) async fn close(&self) {
        let session = Arc::clone(&self.session());
        self.house.closing.cancel();
        session.tasks.close();
        if timeout(CLOSE_LIMIT, session.tasks.wait()).await.is_err() {
            tracing::warn!("some mounts did not end within {CLOSE_LIMIT:?}");
        }
        session.over.cancel();
    }

    /// Held for the length of a few assignments.
    fn session(&self) -> MutexGuard<'_, Arc<Session>> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Mounts {
    fn drop(&mut self) {
        self.session().over.cancel();
    }
}

impl House {
    /// Where an absolute path of the guest is.
    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// Held for the length of a few assignments.
    fn views(&self) -> MutexGuard<'_, HashMap<String, Arc<OwnedFd>>> {
        self.views.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Session {
    /// Held for the length of a few assignments.
    fn claims(&self) -> MutexGuard<'_, Claims> {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
