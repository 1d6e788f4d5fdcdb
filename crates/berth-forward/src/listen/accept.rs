//! Taking connections, whatever happens.

use std::io;
use std::sync::Arc;

use berth_relay::{LocalSocket, accept};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::sys::{UnixListening, UnixStream};

use super::connection::{Family, Forward};
use super::plan::is_loopback;

/// A listening socket.
pub(super) trait Accept: Send + Sync + 'static {
    type Socket: LocalSocket + Send + 'static;

    /// Waits for a connection, and says over which family it came.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Socket, Option<Family>)>> + Send;
}

/// A TCP listener.
#[derive(Debug)]
pub(super) struct TcpAccept {
    pub(super) listener: TcpListener,
    /// Whether peers that are not on this host are turned away, before a byte of theirs is read.
    pub(super) only_loopback: bool,
}

impl Accept for TcpAccept {
    type Socket = TcpStream;

    async fn accept(&self) -> io::Result<(TcpStream, Option<Family>)> {
        loop {
            let (socket, peer) = self.listener.accept().await?;
            if self.only_loopback && !is_loopback(&peer) {
                socket.abort();
                continue;
            }
            return Ok((socket, Some(Family::of(peer.ip()))));
        }
    }
}

impl Accept for UnixListening {
    type Socket = UnixStream;

    async fn accept(&self) -> io::Result<(UnixStream, Option<Family>)> {
        Ok((self.accept().await?, None))
    }
}

/// Takes connections until `stop`. No error ends it.
pub(super) async fn run<A: Accept>(
    listener: Arc<A>,
    forward: Arc<Forward>,
    stop: CancellationToken,
) {
    let told = |why| forward.tally().note_error(&AcceptError(why));
    let taking = async {
        loop {
            let (socket, family) = accept::next(|| Accept::accept(&*listener), told).await;
            forward.take(socket, family);
        }
    };
    stop.run_until_cancelled(taking).await;
}

#[derive(Debug, thiserror::Error)]
#[error("cannot accept a connection")]
struct AcceptError(#[source] io::Error);
