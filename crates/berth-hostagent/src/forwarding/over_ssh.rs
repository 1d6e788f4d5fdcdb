//! Forwards that OpenSSH's ControlMaster carries: for guests without an agent, and where the user asked for it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use berth_forward::address::GuestTarget;
use berth_forward::guest::{SshControl, SshForwarding};
use berth_ssh::forward::{Direction, Endpoint, Forward};
use berth_ssh::session::Session;
use tokio::sync::watch;

use crate::agent::Tasks;
use crate::error::chain;
use crate::master::{MasterHandle, MasterState};

/// Limit of one request to the master.
const REQUEST: Duration = Duration::from_secs(5);

/// The ControlMaster as a carrier of forwards.
pub(crate) struct SshCarrier {
    session: Arc<Session>,
    generation: watch::Receiver<Option<u64>>,
}

impl SshCarrier {
    pub(crate) fn new(session: Arc<Session>, master: &MasterHandle, tasks: &Tasks) -> Arc<Self> {
        let generation = super::mapped(&master.state, tasks, |state| match state {
            MasterState::Up { generation } => Some(*generation),
            MasterState::Down { .. } => None,
        });
        Arc::new(Self {
            session,
            generation,
        })
    }
}

#[async_trait]
impl SshControl for SshCarrier {
    async fn forward(&self, forwarding: &SshForwarding) -> Result<(), String> {
        let forward = forward(forwarding)?;
        let done = self.session.forward(&forward, REQUEST).await;
        done.map_err(|why| chain(&why))
    }

    async fn cancel(&self, forwarding: &SshForwarding) -> Result<(), String> {
        let forward = forward(forwarding)?;
        let done = self.session.cancel(&forward, REQUEST).await;
        done.map_err(|why| chain(&why))
    }

    fn master(&self) -> watch::Receiver<Option<u64>> {
        self.generation.clone()
    }
}

fn forward(forwarding: &SshForwarding) -> Result<Forward, String> {
    Ok(match forwarding {
        SshForwarding::FromHost { socket, guest } => Forward {
            direction: Direction::FromHost,
            listen: Endpoint::Socket(socket.clone()),
            connect: match guest {
                GuestTarget::Tcp(address) => Endpoint::Tcp(*address),
                GuestTarget::Unix { path, .. } => Endpoint::Socket(path.into()),
                GuestTarget::Udp(_) => return Err("ssh carries no UDP".to_owned()),
            },
        },
        SshForwarding::FromGuest { guest, socket } => Forward {
            direction: Direction::FromGuest,
            listen: Endpoint::Socket(guest.into()),
            connect: Endpoint::Socket(socket.clone()),
        },
    })
}
