//! A listening socket, and a flow for each of its clients.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UdpSocket;
use tokio_util::sync::CancellationToken;

use super::activity::Sender;
use super::backlog::Total;
use super::flow::{Client, Flow};
use super::socket::{Arrival, Listening};
use super::{FlowError, Limits, is_passing};
use crate::buffers::{Buffer, User};
use crate::tally::Tally;

/// Datagrams that are taken before flows have their turn.
const BATCH: usize = 32;

/// Errors in a row, each of no known kind, after which the socket counts as broken.
const MOST_ERRORS: usize = 16;

/// Serves the clients of `socket` until `cancel`: each gets a stream from `dial`, and its answers come from the address that it
/// wrote to.
///
/// Everything happens in the returned future, so that nothing is left when it is dropped. The error is that of a socket that does not
/// work at all; those of single flows are noted in `tally`.
pub async fn serve<D, F, S>(
    socket: UdpSocket,
    dial: D,
    limits: Limits,
    tally: &Tally,
    cancel: CancellationToken,
) -> io::Result<()>
where
    D: Fn() -> F,
    F: Future<Output = io::Result<S>>,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let _user = User::new();
    let socket = Listening::new(socket).await?;
    let mut clients = Clients::new(limits);
    let mut flows = FuturesUnordered::new();
    let mut errors = 0;
    loop {
        tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            Some((flow, outcome)) = flows.next() => {
                note(&outcome, tally);
                clients.forget(&flow);
            }
            readable = socket.readable() => {
                readable?;
                let received = receive(&socket, &mut clients, tally, |flow| {
                    let dialled = dial();
                    let (socket, patience) = (&socket, limits.patience);
                    flows.push(async move {
                        let outcome = flow.run(dialled, socket, patience, tally).await;
                        (flow, outcome)
                    });
                });
                match received {
                    Ok(More::No) => errors = 0,
                    // Whoever sends without end does so beside others.
                    Ok(More::Perhaps) => tokio::task::yield_now().await,
                    Err(why) if errors == MOST_ERRORS => return Err(why),
                    Err(_) => errors += 1,
                }
            }
        }
    }
}

/// Whether the socket has more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum More {
    No,
    Perhaps,
}

/// Takes what has come, and gives it to the flows of its clients; `begin` is told of new ones.
fn receive(
    socket: &Listening,
    clients: &mut Clients,
    tally: &Tally,
    mut begin: impl FnMut(Arc<Flow>),
) -> io::Result<More> {
    let mut buffer = Buffer::take_large();
    let room = buffer.room();
    for _ in 0..BATCH {
        let arrival = match socket.receive(room) {
            Ok(arrival) => arrival,
            Err(why) if why.kind() == io::ErrorKind::WouldBlock => return Ok(More::No),
            Err(why) if is_passing(&why) => continue,
            Err(why) => return Err(why),
        };
        if clients.only_loopback && !arrival.from.ip().to_canonical().is_loopback() {
            continue;
        }
        let datagram = &room[..arrival.length];
        let (flow, is_new) = clients.flow(arrival);
        flow.activity.note(Sender::Client);
        if flow.backlog.push(datagram) {
            tally.to_guest.add(datagram.len());
        } else {
            tally.dropped.add(1);
        }
        if is_new {
            begin(flow);
        }
    }
    Ok(More::Perhaps)
}

fn note(outcome: &Result<(), FlowError>, tally: &Tally) {
    match outcome {
        Ok(()) => {}
        Err(why) if why.is_reset() => {}
        Err(why) => tally.note_error(why),
    }
}

/// The clients that have a flow.
#[derive(Debug)]
struct Clients {
    flows: HashMap<Client, Arc<Flow>>,
    most: usize,
    waiting: Total,
    only_loopback: bool,
}

impl Clients {
    fn new(limits: Limits) -> Self {
        Self {
            flows: HashMap::new(),
            most: limits.flows,
            waiting: Total::new(limits.backlog),
            only_loopback: limits.only_loopback,
        }
    }

    /// The flow of whoever sent a datagram, and whether it is a new one, for which the longest silent one had to go if there were
    /// too many.
    fn flow(&mut self, arrival: Arrival) -> (Arc<Flow>, bool) {
        let client = Client {
            address: arrival.from,
            wrote_to: arrival.to,
        };
        if let Some(flow) = self.flows.get(&client) {
            return (flow.clone(), false);
        }
        if self.flows.len() >= self.most {
            self.evict();
        }
        let flow = Arc::new(Flow::new(client, self.waiting.clone()));
        self.flows.insert(client, flow.clone());
        (flow, true)
    }

    fn evict(&mut self) {
        let longest_silent = self.flows.values().min_by_key(|flow| flow.activity.at());
        if let Some(client) = longest_silent.map(|flow| flow.client)
            && let Some(flow) = self.flows.remove(&client)
        {
            flow.evict();
        }
    }

    /// Removes a flow that has ended, unless its client has another one by now.
    fn forget(&mut self, ended: &Arc<Flow>) {
        let current = self.flows.get(&ended.client);
        if current.is_some_and(|flow| Arc::ptr_eq(flow, ended)) {
            self.flows.remove(&ended.client);
        }
    }
}
