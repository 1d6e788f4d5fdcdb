//! Tunnels: the flows that the host opens into the guest, and the sockets that it has the guest listen on.
//!
//! The host says where to, and the guest's kernel decides who may: unix sockets are dialled and listened on with the rights of the
//! instance's user, unless the host's rule says root.

mod descriptors;
mod dial;
mod error;
mod listen;
mod reverse;
mod rights;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use berth_link::event::ReverseListener;
use berth_link::flow::{FlowHeader, FlowKind};
use berth_link::frame::ResetCode;
use berth_link::guest::ReverseOpener;
use berth_link::mux::LinkStream;
use berth_relay::udp::{Patience, carry};
use berth_relay::{LocalSocket, Tally, join};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::args::chain;
use crate::guest::Guest;
use crate::time_sync;
pub(crate) use error::TunnelError;
use reverse::Reverse;
use rights::{LoginUser, Rights, Workers};

/// Flows at a time, of all kinds.
const MOST_FLOWS: usize = 8192;

/// Serves flows and listeners. Dropping it ends them all.
#[derive(Debug)]
pub(crate) struct Tunnels {
    house: Arc<House>,
    reverse: Reverse,
}

/// What every flow uses.
#[derive(Debug)]
struct House {
    user: Arc<LoginUser>,
    workers: Workers,
    places: Arc<Semaphore>,
    tally: Tally,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

impl Tunnels {
    /// Nobody is served with a user's rights before [`Tunnels::set_user`].
    pub(crate) fn new(guest: &Guest) -> Self {
        if let Err(why) = descriptors::raise_limit() {
            tracing::warn!("the limit of open files stays as it is: {why}");
        }
        let house = Arc::new(House {
            user: Arc::new(LoginUser::of(guest)),
            workers: Workers::default(),
            places: Arc::new(Semaphore::new(MOST_FLOWS)),
            tally: Tally::default(),
            tasks: TaskTracker::new(),
            cancel: CancellationToken::new(),
        });
        Self {
            reverse: Reverse::new(house.clone()),
            house,
        }
    }

    /// Tells the name of the instance's user. The first one stays.
    pub(crate) fn set_user(&self, name: &str) {
        self.house.user.set(name);
    }

    /// A session begins: what the host asked for in earlier ones is over.
    pub(crate) fn begin(&self, opener: ReverseOpener) {
        self.reverse.begin(opener);
    }

    /// Serves a stream that the host opened, in a task of its own.
    pub(crate) fn flow(&self, header: FlowHeader, stream: LinkStream) {
        let Some(place) = self.house.place() else {
            tracing::debug!(%header, "flow refused: {MOST_FLOWS} are open");
            return stream.reset(ResetCode::TooMany);
        };
        let (house, own) = (&self.house, self.house.clone());
        // Each kind is a task of its own size.
        match header.kind() {
            FlowKind::Tcp => house.spawn(place, tcp(own, header, stream)),
            FlowKind::Udp => house.spawn(place, udp(header, stream)),
            FlowKind::Unix => house.spawn(place, unix(own, Rights::User, header, stream)),
            FlowKind::UnixAsRoot => house.spawn(place, unix(own, Rights::Agent, header, stream)),
            FlowKind::Time => house.spawn(place, time_sync::serve(stream)),
            FlowKind::Control
            | FlowKind::Reverse
            | FlowKind::Mount
            | FlowKind::MountData
            | FlowKind::Files => stream.reset(ResetCode::Unsupported),
        }
    }

    /// Listens on a unix socket as the user; each connection becomes a stream, until the session ends or [`Tunnels::unlisten`].
    pub(crate) async fn listen(&self, listener: ReverseListener) -> Result<(), TunnelError> {
        self.reverse.listen(listener).await
    }

    /// Ends a listener, and removes its socket. Connections live on.
    pub(crate) async fn unlisten(&self, id: u32) -> Result<(), TunnelError> {
        self.reverse.unlisten(id).await
    }

    /// Ends everything, and waits until the sockets of listeners are removed.
    pub(crate) async fn close(&self) {
        self.house.cancel.cancel();
        self.house.tasks.close();
        self.house.tasks.wait().await;
        self.reverse.close().await;
    }
}

impl Drop for Tunnels {
    fn drop(&mut self) {
        self.house.cancel.cancel();
    }
}

impl House {
    /// A place for one flow, kept as long as the flow lives.
    fn place(&self) -> Option<OwnedSemaphorePermit> {
        self.places.clone().try_acquire_owned().ok()
    }

    fn spawn(&self, place: OwnedSemaphorePermit, flow: impl Future<Output = ()> + Send + 'static) {
        let cancel = self.cancel.clone();
        self.tasks.spawn(async move {
            let _place = place;
            cancel.run_until_cancelled_owned(flow).await;
        });
    }

    /// Joins a connection with its stream until both are over.
    async fn relay(&self, socket: impl LocalSocket, stream: LinkStream) {
        if let Err(why) = join(socket, stream, &self.tally).await {
            tracing::debug!("connection over: {}", chain(&why));
        }
    }
}

async fn tcp(house: Arc<House>, header: FlowHeader, stream: LinkStream) {
    match dial::tcp(header.address()).await {
        Ok(socket) => house.relay(socket, stream).await,
        Err(why) => refuse(&header, stream, &why),
    }
}

async fn udp(header: FlowHeader, stream: LinkStream) {
    let (socket, address) = match dial::udp(header.address()).await {
        Ok(connected) => connected,
        Err(why) => return refuse(&header, stream, &why),
    };
    // The host decides when a flow is over; this is for a host that does not.
    let patience = Patience::of_port(address.port()).twice();
    if let Err(why) = carry(socket, stream, patience).await {
        tracing::debug!(%header, "flow over: {}", chain(&why));
    }
}

async fn unix(house: Arc<House>, rights: Rights, header: FlowHeader, stream: LinkStream) {
    match dial::unix(&house, rights, header.address()).await {
        Ok(socket) => house.relay(socket, stream).await,
        Err(why) => refuse(&header, stream, &why),
    }
}

fn refuse(header: &FlowHeader, stream: LinkStream, why: &TunnelError) {
    tracing::debug!(%header, "flow refused: {}", chain(why));
    stream.reset(why.code());
}
