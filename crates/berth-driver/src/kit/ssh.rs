//! SSH: a TCP port of the host whose connections lead to sshd's vsock port in the guest.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener as StdListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use berth_image::error::with_causes;
use berth_relay::{Copied, Tally, accept};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::driver::SshPort;
use crate::error::DriverError;
use crate::kit::rest::ANSWER_LIMIT;
use crate::life::Life;
use crate::process::connect_within;

/// Connections at a time; more wait. sshd has limits of its own.
const CONNECTIONS: usize = 256;

/// Listens on the port that is wanted, and relays until the life is over.
pub(super) fn listen(
    port: SshPort,
    socket: PathBuf,
    life: &Arc<Life>,
) -> Result<SocketAddr, DriverError> {
    let (listener, address) = bind(port)?;
    let weak = Arc::downgrade(life);
    life.tasks().spawn(async move {
        let places = Arc::new(Semaphore::new(CONNECTIONS));
        // Closed never.
        while let Ok(place) = Arc::clone(&places).acquire_owned().await {
            let told = |error| tracing::warn!(%error, "A connection to the guest's sshd was not accepted.");
            let (near, _) = accept::next(|| listener.accept(), told).await;
            let Some(life) = weak.upgrade() else { return };
            let socket = socket.clone();
            life.tasks().spawn(async move {
                let _place = place;
                if let Err(error) = relay(near, &socket).await {
                    tracing::debug!(error, "A connection to the guest's sshd has ended.");
                }
            });
        }
    });
    Ok(address)
}

fn bind(port: SshPort) -> Result<(TcpListener, SocketAddr), DriverError> {
    let bind = |port: u16| -> io::Result<_> {
        let listener = StdListener::bind((Ipv4Addr::LOCALHOST, port))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        Ok((TcpListener::from_std(listener)?, address))
    };
    let wanted = match port {
        SshPort::Configured(port) | SshPort::Preferred(port) => port,
        SshPort::Any => 0,
    };
    bind(wanted)
        .or_else(|why| match port {
            SshPort::Preferred(_) => bind(0),
            _ => Err(why),
        })
        .map_err(|why| DriverError::Port {
            address: format!("{}:{wanted}", Ipv4Addr::LOCALHOST),
            why: why.to_string(),
        })
}

/// The error is for people.
async fn relay(near: TcpStream, socket: &Path) -> Result<(), String> {
    let far = connect_within(socket, ANSWER_LIMIT).await;
    let far = far.map_err(|error| with_causes(&error))?;
    let joined = berth_relay::join(near, Copied(far), &Tally::default()).await;
    joined.map_err(|error| with_causes(&error))
}
