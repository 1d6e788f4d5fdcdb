//! One client of a listening socket, and its stream.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::Notify;

use super::activity::{Activity, Sender};
use super::backlog::{Backlog, Total};
use super::framing::Datagrams;
use super::socket::Listening;
use super::{FlowError, Patience};
use crate::sys::Destination;
use crate::tally::Tally;

/// A client, and the address that it wrote to: its answers come from there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Client {
    pub(super) address: SocketAddr,
    pub(super) wrote_to: Option<Destination>,
}

/// What the listening socket knows of a client.
#[derive(Debug)]
pub(super) struct Flow {
    pub(super) client: Client,
    pub(super) backlog: Backlog,
    pub(super) activity: Activity,
    evicted: Notify,
}

impl Flow {
    pub(super) fn new(client: Client, total: Total) -> Self {
        Self {
            client,
            backlog: Backlog::new(total),
            activity: Activity::new(),
            evicted: Notify::new(),
        }
    }

    /// Makes the flow end.
    pub(super) fn evict(&self) {
        self.evicted.notify_one();
    }

    /// Serves the client until it is idle, evicted, or its stream ends.
    pub(super) async fn run<S>(
        &self,
        dialled: impl Future<Output = io::Result<S>>,
        socket: &Listening,
        patience: Patience,
        tally: &Tally,
    ) -> Result<(), FlowError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let _open = tally.connection();
        let serving = async {
            let stream = dialled.await.map_err(FlowError::Dial)?;
            let (read, write) = tokio::io::split(stream);
            tokio::select! {
                ended = self.pass_on(write) => ended,
                ended = self.answer(read, socket, tally) => ended,
            }
        };
        tokio::select! {
            ended = serving => ended,
            () = self.activity.idle(patience) => Ok(()),
            () = self.evicted.notified() => Ok(()),
        }
    }

    /// Writes what the client sent to the stream.
    async fn pass_on(&self, mut stream: impl AsyncWrite + Unpin) -> Result<(), FlowError> {
        let mut framed = Vec::new();
        loop {
            self.backlog.take(&mut framed).await;
            let written = async {
                stream.write_all(&framed).await?;
                stream.flush().await
            };
            written.await.map_err(FlowError::Stream)?;
        }
    }

    /// Sends what comes from the stream to the client.
    async fn answer(
        &self,
        stream: impl AsyncRead + Unpin,
        socket: &Listening,
        tally: &Tally,
    ) -> Result<(), FlowError> {
        let mut datagrams = Datagrams::new(stream);
        let more = |datagram: &[u8]| {
            self.activity.note(Sender::Server);
            match socket.send(datagram, self.client.address, self.client.wrote_to) {
                Ok(()) => tally.to_host.add(datagram.len()),
                Err(why) => {
                    tracing::trace!("datagram to {} dropped: {why}", self.client.address);
                    tally.dropped.add(1);
                }
            }
        };
        while datagrams.receive(more).await? {}
        Ok(())
    }
}
