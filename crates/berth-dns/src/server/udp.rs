//! Questions by datagram.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::Interest;
use tokio::net::UdpSocket;

use super::Shared;
use crate::resolver::{Place, Resolver, Verdict};
use crate::sys::{BATCH, Batch};
use crate::wire::query::{Query, Transport};

/// Questions of one client that may wait for somebody else's answer. A client is a socket in the guest: QEMU's user network
/// gives each a socket on the host.
const MAX_OF_CLIENT: u32 = 64;

/// Answers until cancelled.
pub(super) async fn serve(socket: UdpSocket, (resolver, tracker, cancel): Shared) {
    let server = Arc::new(Server {
        socket,
        resolver,
        clients: Mutex::default(),
    });
    let work = async {
        let mut batch = Batch::new();
        loop {
            match server.turn(&mut batch, &tracker, &cancel).await {
                Ok(count) if count < BATCH => {}
                // There is more: others have their turn after each batch.
                Ok(_) => tokio::task::yield_now().await,
                Err(why) => {
                    // An error of the socket, such as a client's that has gone, was taken with this call.
                    tracing::debug!(%why, "a datagram was not read");
                    tokio::task::yield_now().await;
                }
            }
        }
    };
    cancel.run_until_cancelled(work).await;
}

#[derive(Debug)]
struct Server {
    socket: UdpSocket,
    resolver: Arc<Resolver>,
    clients: Mutex<HashMap<SocketAddr, u32>>,
}

impl Server {
    /// Answers a batch, as far as nobody has to be waited for; returns how many there were.
    async fn turn(
        self: &Arc<Self>,
        batch: &mut Batch,
        tracker: &tokio_util::task::TaskTracker,
        cancel: &tokio_util::sync::CancellationToken,
    ) -> io::Result<usize> {
        let socket = &self.socket;
        let receive = socket.async_io(Interest::READABLE, || batch.receive(socket));
        let count = receive.await?;
        self.resolver.counters.udp_queries.add(count as u64);
        for at in 0..count {
            let (packet, out) = batch.query(at);
            match self
                .resolver
                .answer(Query::read(packet, Transport::Udp), out)
            {
                Verdict::Answered => batch.reply_to(at),
                Verdict::Ignored => {}
                Verdict::Ask(query) => {
                    let client = batch.from(at);
                    if let Some(places) = self.place_for(client) {
                        let (server, cancel) = (Arc::clone(self), cancel.clone());
                        tracker.spawn(async move {
                            // Pinned here, so that the task holds it once: a future that is passed on is held by both.
                            let asked = pin!(server.ask(query, client, places));
                            cancel.run_until_cancelled(asked).await;
                        });
                    } else {
                        let (_, out) = batch.query(at);
                        self.resolver.fail(&query, out);
                        batch.reply_to(at);
                    }
                }
            }
        }
        self.send(batch).await;
        Ok(count)
    }

    async fn send(&self, batch: &mut Batch) {
        let mut sent = 0;
        while sent < batch.replies() {
            let socket = &self.socket;
            let written = socket.async_io(Interest::WRITABLE, || batch.send(socket, sent));
            match written.await {
                Ok(count) => sent += count,
                // It is the first one's failure: the others are not to suffer from it.
                Err(why) => {
                    tracing::debug!(%why, "an answer was not sent");
                    self.resolver.counters.unsent.one();
                    sent += 1;
                }
            }
        }
    }

    fn place_for(self: &Arc<Self>, client: SocketAddr) -> Option<(Place, ClientPlace)> {
        let place = self.resolver.place()?;
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = clients.entry(client).or_default();
        if *waiting >= MAX_OF_CLIENT {
            self.resolver.counters.over_limit.one();
            return None;
        }
        *waiting += 1;
        let server = Arc::clone(self);
        Some((place, ClientPlace { server, client }))
    }

    async fn ask(
        &self,
        query: Box<Query<'static>>,
        client: SocketAddr,
        places: (Place, ClientPlace),
    ) {
        let mut reply = Vec::new();
        self.resolver.resolve(&query, &mut reply).await;
        if let Err(why) = self.socket.send_to(&reply, client).await {
            tracing::debug!(%why, "an answer was not sent");
            self.resolver.counters.unsent.one();
        }
        drop(places);
    }
}

/// A place among those of one client who wait.
struct ClientPlace {
    server: Arc<Server>,
    client: SocketAddr,
}

impl Drop for ClientPlace {
    fn drop(&mut self) {
        let mut clients = self
            .server
            .clients
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(waiting) = clients.get_mut(&self.client) {
            *waiting -= 1;
            if *waiting == 0 {
                clients.remove(&self.client);
            }
        }
    }
}
