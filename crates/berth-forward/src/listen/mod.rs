//! What listens: one [`Listening`] for each forward, and the tasks that it needs.

mod accept;
mod connection;
pub(crate) mod plan;
mod reverse;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use berth_config::platform::HostOs;
use berth_relay::udp;
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::address::{HostAddr, Transport};
use crate::desired::Key;
use crate::guest::Reverse;
use crate::limits::Limits;
use crate::sys::{self, UnixListening};
use crate::way::Way;

use accept::TcpAccept;
pub(crate) use connection::Forward;
use connection::Shared;
use plan::{PRIVILEGED, Planned};
use reverse::Incoming;

/// How long the tasks of a listener may take to end. They have nothing to wait for.
const END: Duration = Duration::from_secs(2);

/// Something that listens. Dropping it ends it; [`Listeners::close`] also waits for the end.
#[derive(Debug)]
pub(crate) struct Listening {
    serial: u64,
    tasks: Vec<JoinHandle<()>>,
    file: Option<Arc<UnixListening>>,
    in_guest: Option<InGuest>,
    _stop: DropGuard,
}

/// A listener in the guest.
#[derive(Debug, Clone, Copy)]
struct InGuest {
    id: u32,
    session: u64,
}

/// Why something does not listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) kind: FailureKind,
    /// Safe to print.
    pub(crate) why: String,
}

/// What has to happen before another attempt can succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FailureKind {
    /// Somebody else lets go.
    Taken,
    /// A person changes what may be done.
    Denied,
    /// The way into the guest comes back, which is told.
    NoWay,
    /// Something that is not told.
    Other,
}

/// Makes listeners and ends them.
pub(crate) struct Listeners {
    shared: Arc<Shared>,
    os: HostOs,
    own: PathBuf,
    incoming: Option<Incoming>,
    ended: mpsc::UnboundedSender<u64>,
    made: u64,
}

impl Listeners {
    /// `own` is the instance's own directory of sockets. `ended` is told the serial number of a listener that ended by itself.
    pub(crate) fn new(
        way: Arc<Way>,
        os: HostOs,
        own: PathBuf,
        limits: Limits,
        ended: mpsc::UnboundedSender<u64>,
    ) -> Self {
        let shared = Arc::new(Shared::new(way, limits));
        let incoming = match &shared.way.reverse {
            Reverse::Agent(listeners) => Some(Incoming::start(&shared, Arc::clone(listeners))),
            Reverse::Ssh(_) | Reverse::None => None,
        };
        Self {
            shared,
            os,
            own,
            incoming,
            ended,
            made: 0,
        }
    }

    /// What connections through one forward share; it outlives the listener.
    pub(crate) fn forward(&self) -> Arc<Forward> {
        Arc::new(Forward::new(Arc::clone(&self.shared)))
    }

    /// Names the next listener.
    pub(crate) fn next_serial(&mut self) -> u64 {
        self.made += 1;
        self.made
    }

    /// Starts to listen: on every socket that the key needs, or on none.
    pub(crate) async fn open(
        &self,
        key: &Key,
        forward: &Arc<Forward>,
        serial: u64,
    ) -> Result<Listening, Failure> {
        let stop = self.shared.stop.child_token();
        let mut listening = Listening {
            serial,
            tasks: Vec::new(),
            file: None,
            in_guest: None,
            _stop: stop.clone().drop_guard(),
        };
        match key {
            Key::Host {
                host: HostAddr::Socket(path),
                ..
            } => {
                let socket =
                    UnixListening::bind(path, &self.own).map_err(|why| Failure::of_socket(&why))?;
                let socket = Arc::new(socket);
                listening.file = Some(Arc::clone(&socket));
                let task = accept::run(socket, Arc::clone(forward), stop.clone());
                listening.tasks.push(self.spawn(serial, &stop, task));
            }
            Key::Host { transport, host } => {
                let planned = plan::sockets(host, self.os).unwrap_or_default();
                listening.tasks = self.open_ports(&planned, *transport, forward, serial, &stop)?;
            }
            Key::Guest { path, socket } => {
                let in_guest = self.listen_in_guest(path, socket, forward, serial).await?;
                listening.in_guest = Some(in_guest);
            }
        }
        Ok(listening)
    }

    fn open_ports(
        &self,
        planned: &[Planned],
        transport: Transport,
        forward: &Arc<Forward>,
        serial: u64,
        stop: &CancellationToken,
    ) -> Result<Vec<JoinHandle<()>>, Failure> {
        let mut bound = Vec::new();
        for planned in planned {
            let failed = |why| Failure::of_port(&why, planned.address.port());
            if let Some(socket) = sys::bind(planned, transport).map_err(failed)? {
                bound.push((planned, socket));
            }
        }
        let port = planned.first().map_or(0, |planned| planned.address.port());
        let failed = |why: io::Error| Failure::of_port(&why, port);
        let mut tasks = Vec::new();
        for (planned, socket) in bound {
            let (forward, ending) = (Arc::clone(forward), stop.clone());
            tasks.push(match transport {
                Transport::Tcp => {
                    let listener = TcpListener::from_std(socket.into()).map_err(failed)?;
                    let accept = TcpAccept {
                        listener,
                        only_loopback: planned.only_loopback,
                    };
                    let task = accept::run(Arc::new(accept), forward, ending);
                    self.spawn(serial, stop, task)
                }
                Transport::Udp => {
                    let socket = UdpSocket::from_std(socket.into()).map_err(failed)?;
                    let limits = udp::Limits {
                        only_loopback: planned.only_loopback,
                        ..udp::Limits::of_port(port)
                    };
                    let task = serve_datagrams(socket, limits, forward, ending);
                    self.spawn(serial, stop, task)
                }
            });
        }
        Ok(tasks)
    }

    /// Spawns a task of a listener.
    fn spawn(
        &self,
        serial: u64,
        stop: &CancellationToken,
        task: impl Future<Output = ()> + Send + 'static,
    ) -> JoinHandle<()> {
        let told = Ended {
            serial,
            stop: stop.clone(),
            told: self.ended.clone(),
        };
        self.shared.tracker.spawn(async move {
            // Told when dropped, so also when the task panics.
            let _told = told;
            task.await;
        })
    }

    async fn listen_in_guest(
        &self,
        path: &str,
        socket: &std::path::Path,
        forward: &Arc<Forward>,
        serial: u64,
    ) -> Result<InGuest, Failure> {
        let id = u32::try_from(serial).unwrap_or(u32::MAX);
        if let Some(incoming) = &self.incoming {
            incoming.expect(id, socket.to_owned(), Arc::clone(forward));
        }
        let listening = self.shared.way.listen_in_guest(id, path, socket).await;
        if listening.is_err()
            && let Some(incoming) = &self.incoming
        {
            incoming.forget(id);
        }
        listening.map(|session| InGuest { id, session })
    }

    /// Ends a listener and waits until it is gone, so that its address is free. Its connections live on.
    pub(crate) async fn close(&self, key: &Key, listening: Listening) {
        let Listening {
            tasks,
            in_guest,
            _stop: stop,
            file,
            ..
        } = listening;
        drop((stop, file));
        if let (Some(InGuest { id, .. }), Key::Guest { path, socket }) = (in_guest, key) {
            self.forget_in_guest(id);
            self.shared.way.unlisten_in_guest(id, path, socket).await;
        }
        let all = futures_util::future::join_all(tasks);
        if tokio::time::timeout(END, all).await.is_err() {
            tracing::warn!(?key, "a listener did not end within {} s", END.as_secs());
        }
    }

    /// Takes note that the guest has lost a listener.
    pub(crate) fn lost_in_guest(&self, listening: &Listening) {
        if let Some(lost) = listening.in_guest {
            self.forget_in_guest(lost.id);
        }
    }

    fn forget_in_guest(&self, id: u32) {
        if let Some(incoming) = &self.incoming {
            incoming.forget(id);
        }
    }

    /// Ends all connections and waits for them, not longer than `limit`; says whether they have ended.
    pub(crate) async fn end_connections(&self, limit: Duration) -> bool {
        self.shared.stop.cancel();
        self.shared.tracker.close();
        let ended = tokio::time::timeout(limit, self.shared.tracker.wait()).await;
        ended.is_ok()
    }

    /// The tasks of everything that listens, and of connections.
    pub(crate) fn tracker(&self) -> &TaskTracker {
        &self.shared.tracker
    }
}

impl Drop for Listeners {
    fn drop(&mut self) {
        self.shared.stop.cancel();
    }
}

impl Listening {
    pub(crate) fn serial(&self) -> u64 {
        self.serial
    }

    /// Whether the guest listened in an earlier session, and so does not any more.
    pub(crate) fn is_of_earlier_session(&self, session: u64) -> bool {
        self.in_guest.is_some_and(|it| it.session != session)
    }

    /// Whether it can still be found: somebody may have removed the file of a unix socket.
    pub(crate) fn is_in_place(&self) -> bool {
        self.file.as_ref().is_none_or(|file| file.is_in_place())
    }
}

impl Failure {
    pub(crate) fn new(kind: FailureKind, why: impl Into<String>) -> Self {
        let why = why.into();
        Self { kind, why }
    }

    fn of_port(why: &io::Error, port: u16) -> Self {
        match why.kind() {
            io::ErrorKind::AddrInUse => {
                Self::new(FailureKind::Taken, format!("port {port} is taken"))
            }
            io::ErrorKind::PermissionDenied if port < PRIVILEGED => {
                let hint = sys::denied_hint(port);
                Self::new(FailureKind::Denied, format!("permission denied: {hint}"))
            }
            io::ErrorKind::PermissionDenied => Self::new(FailureKind::Denied, why.to_string()),
            _ => Self::new(FailureKind::Other, why.to_string()),
        }
    }

    fn of_socket(why: &io::Error) -> Self {
        match why.kind() {
            io::ErrorKind::AddrInUse => {
                Self::new(FailureKind::Taken, "another process listens there")
            }
            _ => Self::new(FailureKind::Other, why.to_string()),
        }
    }
}

/// Serves a UDP port. Its flows end with it: the answers have nowhere to come from.
async fn serve_datagrams(
    socket: UdpSocket,
    limits: udp::Limits,
    forward: Arc<Forward>,
    stop: CancellationToken,
) {
    let dial = || forward.dial_for_datagrams();
    if let Err(why) = udp::serve(socket, dial, limits, forward.tally(), stop).await {
        forward.tally().note_error(&why);
    }
}

/// Tells the end of a task of a listener, unless it was asked for.
struct Ended {
    serial: u64,
    stop: CancellationToken,
    told: mpsc::UnboundedSender<u64>,
}

impl Drop for Ended {
    fn drop(&mut self) {
        if !self.stop.is_cancelled() {
            // Nobody listens any more when everything ends.
            let _ = self.told.send(self.serial);
        }
    }
}
