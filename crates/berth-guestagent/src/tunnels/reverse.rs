//! Sockets that the guest listens on for the host.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use berth_link::event::ReverseListener;
use berth_link::guest::ReverseOpener;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::House;
use super::dial::check_path;
use super::error::TunnelError;
use super::listen::{Bound, SocketFile, bind_unix};
use super::rights::Rights;
use crate::args::chain;

/// Listeners of one session.
const MOST_LISTENERS: usize = 64;

/// How long it may take to listen. The host waits little longer for an answer.
const LIMIT: Duration = Duration::from_millis(2_500);

/// The listeners that the host asked for.
#[derive(Debug)]
pub(super) struct Reverse {
    house: Arc<House>,
    session: Mutex<Option<Arc<Session>>>,
}

/// The listeners of one session.
#[derive(Debug)]
struct Session {
    opener: ReverseOpener,
    listeners: Mutex<HashMap<u32, Handle>>,
    /// Tasks of the listeners, which end with the session.
    tasks: TaskTracker,
    /// Those of the sessions before, which may still hold sockets.
    earlier: Vec<TaskTracker>,
}

/// How to end a listener, and to know that it has.
#[derive(Debug, Clone, Default)]
struct Handle {
    stop: CancellationToken,
    ended: CancellationToken,
}

impl Reverse {
    pub(super) fn new(house: Arc<House>) -> Self {
        Self {
            house,
            session: Mutex::new(None),
        }
    }

    /// A session begins. The listeners of the one before end by themselves.
    pub(super) fn begin(&self, opener: ReverseOpener) {
        let mut session = lock(&self.session);
        let mut earlier = Vec::new();
        if let Some(last) = session.take() {
            last.tasks.close();
            earlier.clone_from(&last.earlier);
            earlier.push(last.tasks.clone());
            earlier.retain(|tasks| !tasks.is_empty());
        }
        *session = Some(Arc::new(Session {
            opener,
            listeners: Mutex::default(),
            tasks: TaskTracker::new(),
            earlier,
        }));
    }

    pub(super) async fn listen(&self, listener: ReverseListener) -> Result<(), TunnelError> {
        let ReverseListener { id, path } = listener;
        check_path(&path)?;
        let session = self.session()?;
        let handle = session.reserve(id)?;
        let ended = handle.ended.clone().drop_guard();
        let bound = timeout(LIMIT, self.bind(&session, &path)).await;
        let bound = bound.unwrap_or_else(|_| Err(timed_out(&path)));
        let (file, listener) = bound.inspect_err(|_| drop(session.forget(id)))?;
        tracing::info!("listening on {path:?} for the host");
        let house = self.house.clone();
        let opener = session.opener.clone();
        session.tasks.spawn(async move {
            let _ended = ended;
            tokio::select! {
                () = accept_all(&house, &listener, &opener, id) => {}
                () = opener.over() => {}
                () = handle.stop.cancelled() => {}
                () = house.cancel.cancelled() => {}
            }
            remove(&house, file).await;
            // Only now: as long as the socket is open, no other file has its number.
            drop(listener);
        });
        Ok(())
    }

    /// Listens, once those are gone who may have the path from earlier sessions.
    async fn bind(
        &self,
        session: &Session,
        path: &str,
    ) -> Result<(SocketFile, UnixListener), TunnelError> {
        for tasks in &session.earlier {
            tasks.wait().await;
        }
        let target = path.to_owned();
        let user = self.house.user.clone();
        let workers = &self.house.workers;
        let binding = workers.run(user, Rights::User, move || bind_unix(&target));
        let Bound { file, listener } = binding.await??;
        let listener = UnixListener::from_std(listener);
        Ok((file, listener.map_err(TunnelError::io("listen on", path))?))
    }

    pub(super) async fn unlisten(&self, id: u32) -> Result<(), TunnelError> {
        let handle = self.session()?.forget(id);
        let handle = handle.ok_or(TunnelError::Unknown(id))?;
        handle.stop.cancel();
        handle.ended.cancelled().await;
        Ok(())
    }

    /// Waits until the sockets of all listeners are removed, which have been told to end.
    pub(super) async fn close(&self) {
        if let Ok(session) = self.session() {
            session.tasks.close();
            session.tasks.wait().await;
        }
    }

    fn session(&self) -> Result<Arc<Session>, TunnelError> {
        lock(&self.session).clone().ok_or(TunnelError::NoSession)
    }
}

impl Session {
    fn reserve(&self, id: u32) -> Result<Handle, TunnelError> {
        let mut listeners = lock(&self.listeners);
        if listeners.contains_key(&id) {
            return Err(TunnelError::Duplicate(id));
        }
        if listeners.len() >= MOST_LISTENERS {
            return Err(TunnelError::TooMany(MOST_LISTENERS));
        }
        Ok(listeners.entry(id).or_default().clone())
    }

    fn forget(&self, id: u32) -> Option<Handle> {
        lock(&self.listeners).remove(&id)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn timed_out(path: &str) -> TunnelError {
    TunnelError::TimedOut {
        verb: "listen on",
        what: path.to_owned(),
        limit: LIMIT,
    }
}

/// Accepts connections for as long as it is polled.
async fn accept_all(house: &Arc<House>, listener: &UnixListener, opener: &ReverseOpener, id: u32) {
    let told = |why| tracing::debug!("a connection could not be accepted: {why}");
    loop {
        let (socket, _) = berth_relay::accept::next(|| listener.accept(), told).await;
        pass_on(house, socket, opener, id);
    }
}

/// Gives a connection a stream to the host, or lets it go.
fn pass_on(house: &Arc<House>, socket: UnixStream, opener: &ReverseOpener, id: u32) {
    let Some(place) = house.place() else {
        tracing::debug!("connection refused: too many flows are open");
        return;
    };
    match opener.open(id) {
        Ok(stream) => {
            let relaying = house.clone();
            house.spawn(place, async move { relaying.relay(socket, stream).await });
        }
        Err(why) => tracing::debug!("connection refused: {why}"),
    }
}

/// Removes the file of a listener as the user, who may remove no more than that.
async fn remove(house: &House, file: SocketFile) {
    let workers = &house.workers;
    let removing = workers.run(house.user.clone(), Rights::User, move || drop(file));
    match timeout(LIMIT, removing).await {
        Ok(Ok(())) => {}
        Ok(Err(why)) => tracing::warn!("the socket of a listener may be left: {}", chain(&why)),
        Err(_) => tracing::warn!("the socket of a listener may be left: it took too long"),
    }
}
