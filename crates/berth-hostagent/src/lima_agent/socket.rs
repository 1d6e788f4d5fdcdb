//! The way to the agent: `ga.sock`, which the ControlMaster forwards, or the driver's own carrier.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use berth_driver::driver::Driver;
use berth_ssh::forward::{Direction, Endpoint, Forward};
use berth_ssh::session::Session;
use tokio::io::{AsyncRead, AsyncWrite};

use super::FORWARD;
use crate::error::chain;
use crate::sys;

/// Where Lima's guest agent listens in the guest.
const GUEST_SOCKET: &str = "/run/lima-guestagent.sock";

/// A connection to the agent.
pub(super) trait Carrier: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Carrier for T {}

/// The host's socket that leads to the agent. Every method must end by itself within some seconds.
#[async_trait]
pub(super) trait AgentSocket: Send + Sync + 'static {
    /// Takes a forward back, and removes the socket. An error if there was none.
    async fn cancel(&self) -> Result<(), String>;

    /// Makes the socket lead to the agent. A forward that the ControlMaster has already is an error, after which it is gone.
    async fn forward(&self) -> Result<(), String>;

    /// Connects to the socket. Says nothing about the agent behind it.
    async fn connect(&self) -> io::Result<Box<dyn Carrier>>;
}

/// Over the driver's own carrier, where nothing has to be forwarded.
pub(super) struct DriverSocket(pub(super) Arc<dyn Driver>);

#[async_trait]
impl AgentSocket for DriverSocket {
    async fn cancel(&self) -> Result<(), String> {
        Ok(())
    }

    async fn forward(&self) -> Result<(), String> {
        Ok(())
    }

    async fn connect(&self) -> io::Result<Box<dyn Carrier>> {
        match self.0.guest_agent_conn().await {
            Ok(Some(stream)) => Ok(Box::new(stream)),
            Ok(None) => Err(io::ErrorKind::Unsupported.into()),
            Err(why) => Err(io::Error::other(why)),
        }
    }
}

/// Through the ControlMaster.
pub(super) struct SshSocket {
    session: Arc<Session>,
    forward: Forward,
    path: PathBuf,
}

impl SshSocket {
    pub(super) fn new(session: Arc<Session>, path: PathBuf) -> Self {
        let forward = Forward {
            direction: Direction::FromHost,
            listen: Endpoint::Socket(path.clone()),
            connect: Endpoint::Socket(GUEST_SOCKET.into()),
        };
        Self {
            session,
            forward,
            path,
        }
    }
}

#[async_trait]
impl AgentSocket for SshSocket {
    async fn cancel(&self) -> Result<(), String> {
        let cancelled = self.session.cancel(&self.forward, FORWARD).await;
        cancelled.map_err(|why| chain(&why))
    }

    async fn forward(&self) -> Result<(), String> {
        let forwarded = self.session.forward(&self.forward, FORWARD).await;
        forwarded.map_err(|why| chain(&why))
    }

    async fn connect(&self) -> io::Result<Box<dyn Carrier>> {
        Ok(Box::new(sys::connect_local(&self.path).await?))
    }
}
