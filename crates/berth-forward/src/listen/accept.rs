//! Taking connections, whatever happens.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use berth_relay::LocalSocket;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::sys::{UnixListening, UnixStream};

use super::connection::{Family, Forward};
use super::plan::is_loopback;

/// First and longest pause after an error that does not concern one connection only, such as too many open files.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

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

/// Takes connections until `stop`. No error ends it: a listener that is gone would be missed by nobody but its users.
pub(super) async fn run<A: Accept>(
    listener: Arc<A>,
    forward: Arc<Forward>,
    stop: CancellationToken,
) {
    let mut pause = FIRST_PAUSE;
    let taking = async {
        loop {
            match Accept::accept(&*listener).await {
                Ok((socket, family)) => {
                    pause = FIRST_PAUSE;
                    forward.take(socket, family);
                }
                // The client was gone before its turn.
                Err(why) if is_of_one_connection(&why) => {}
                Err(why) => {
                    forward.tally().note_error(&AcceptError(why));
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    };
    stop.run_until_cancelled(taking).await;
}

fn is_of_one_connection(why: &io::Error) -> bool {
    matches!(
        why.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

#[derive(Debug, thiserror::Error)]
#[error("cannot accept a connection")]
struct AcceptError(#[source] io::Error);

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn only_errors_of_one_connection_need_no_pause() {
        for (code, is_passing) in [
            (libc::ECONNABORTED, true),
            (libc::EINTR, true),
            (libc::EMFILE, false),
            (libc::ENFILE, false),
            (libc::ENOBUFS, false),
            (libc::EPERM, false),
            (libc::EINVAL, false),
        ] {
            let why = io::Error::from_raw_os_error(code);
            assert_eq!(is_of_one_connection(&why), is_passing, "{why}");
        }
    }
}
