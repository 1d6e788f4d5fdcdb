//! SSH over vsock: the host's connections to port 22 of vsock lead to sshd.
//!
//! systemd does the same since version 256, and then has the port already.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use berth_link::guest::VsockListener;
use berth_relay::{Copied, RelayError, Tally, join};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::args::chain;

/// sshd's port, of vsock and of TCP.
const PORT: u16 = 22;
/// Connections at a time; more wait.
const CONNECTIONS: usize = 256;

/// Passes connections on until `cancel`.
pub(crate) async fn serve(device: &Path, cancel: CancellationToken) {
    let listener = match VsockListener::bind(device, PORT.into()) {
        Ok(listener) => listener,
        Err(why) if why.kind() == io::ErrorKind::AddrInUse => {
            tracing::debug!("sshd has its port of vsock by itself");
            return;
        }
        Err(why) => {
            tracing::error!("sshd cannot be reached over vsock: {why}");
            return;
        }
    };
    let (places, tasks) = (Arc::new(Semaphore::new(CONNECTIONS)), TaskTracker::new());
    let passing_on = async {
        // Closed never.
        while let Ok(place) = Arc::clone(&places).acquire_owned().await {
            let host = listener.accept().await;
            let cancel = cancel.clone();
            tasks.spawn(async move {
                let _place = place;
                if let Some(Err(why)) = cancel.run_until_cancelled(pass_on(host)).await {
                    tracing::debug!("a connection to sshd has ended: {}", chain(&why));
                }
            });
        }
    };
    cancel.run_until_cancelled(passing_on).await;
}

async fn pass_on(host: impl AsyncRead + AsyncWrite + Unpin) -> Result<(), RelayError> {
    let addresses = [
        SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)),
        SocketAddr::from((Ipv6Addr::LOCALHOST, PORT)),
    ];
    let sshd = TcpStream::connect(&addresses[..]).await;
    let sshd = sshd.map_err(RelayError::Local)?;
    join(sshd, Copied(host), &Tally::default()).await
}
