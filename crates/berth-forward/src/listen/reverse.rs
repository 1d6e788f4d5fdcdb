//! Connections that the guest accepted for the host.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use berth_relay::join;

use crate::guest::{GuestStream, ReverseListeners};
use crate::sys::connect_unix;

use super::connection::{Forward, Shared};

/// How long a listener on the host may take to accept.
const CONNECT: Duration = Duration::from_secs(10);

/// Which listener in the guest leads where.
type Routes = Arc<Mutex<BTreeMap<u32, Route>>>;

#[derive(Debug, Clone)]
struct Route {
    socket: PathBuf,
    forward: Arc<Forward>,
}

#[derive(Debug, thiserror::Error)]
#[error("cannot connect to {} on the host", .path.display())]
struct ConnectError {
    path: PathBuf,
    source: io::Error,
}

/// Hands connections from the guest to the sockets of the host that they are meant for.
#[derive(Debug)]
pub(super) struct Incoming {
    routes: Routes,
}

impl Incoming {
    /// Starts the task that takes connections.
    pub(super) fn start(shared: &Arc<Shared>, listeners: Arc<dyn ReverseListeners>) -> Self {
        let routes = Routes::default();
        let (known, stop) = (Arc::clone(&routes), shared.stop.clone());
        let (tracker, context) = (&shared.tracker, Arc::clone(shared));
        tracker.spawn(async move {
            stop.run_until_cancelled(take(listeners, known, context))
                .await;
        });
        Self { routes }
    }

    /// Connections of the listener `id` go to `socket` from now on.
    pub(super) fn expect(&self, id: u32, socket: PathBuf, forward: Arc<Forward>) {
        lock(&self.routes).insert(id, Route { socket, forward });
    }

    /// Connections of the listener `id` are refused from now on.
    pub(super) fn forget(&self, id: u32) {
        lock(&self.routes).remove(&id);
    }
}

fn lock(routes: &Routes) -> MutexGuard<'_, BTreeMap<u32, Route>> {
    // Each change is one call.
    routes.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn take(listeners: Arc<dyn ReverseListeners>, routes: Routes, shared: Arc<Shared>) {
    while let Some((id, stream)) = listeners.accept().await {
        // Dropping the stream resets it: the guest names a listener that there is not, or not any more.
        let Some(route) = lock(&routes).get(&id).cloned() else {
            continue;
        };
        let permit = match route.forward.permit() {
            Ok(permit) => permit,
            Err(why) => {
                route.forward.tally().note_error(&why);
                continue;
            }
        };
        shared.tracker.spawn(async move {
            let Route { socket, forward } = &route;
            forward.unless_stopped(carry(stream, socket, forward)).await;
            drop(permit);
        });
    }
}

async fn carry(stream: Box<dyn GuestStream>, path: &Path, forward: &Forward) {
    let connected = match tokio::time::timeout(CONNECT, connect_unix(path)).await {
        Ok(connected) => connected,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    };
    match connected {
        Ok(socket) => {
            if let Err(why) = join(socket, stream, forward.tally()).await {
                tracing::debug!(%why, "a connection from the guest ended early");
            }
        }
        Err(source) => {
            let path = path.to_owned();
            forward.tally().note_error(&ConnectError { path, source });
        }
    }
}
