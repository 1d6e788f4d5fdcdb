//! Connections into the guest through the agent's tunnels.

use std::io;

use async_trait::async_trait;
use berth_forward::address::GuestTarget;
use berth_forward::guest::{Dialer, GuestStream};
use berth_guest_api::error::{CallError, GuestApiError};
use berth_guest_api::tunnel::{SocketPath, TunnelTarget};
use berth_relay::Copied;

use super::LimaAgent;

#[async_trait]
impl Dialer for LimaAgent {
    /// Opens a tunnel on the present connection; without one it fails at once. Whether the guest accepts shows in the first read.
    ///
    /// Lima's agent dials unix sockets with the rights of root, whatever the target says: its protocol cannot ask for less.
    async fn dial(&self, target: &GuestTarget) -> io::Result<Box<dyn GuestStream>> {
        let session = self.current.borrow().session.clone();
        let session = session.ok_or_else(|| {
            let why = "Lima's guest agent is not connected";
            io::Error::new(io::ErrorKind::NotConnected, why)
        })?;
        let target = match target {
            GuestTarget::Tcp(address) => TunnelTarget::Tcp(*address),
            GuestTarget::Udp(address) => TunnelTarget::Udp(*address),
            GuestTarget::Unix { path, .. } => TunnelTarget::Unix(SocketPath::new(path)?),
        };
        match session.tunnels.tunnel(&target).await {
            Ok(tunnel) => Ok(Box::new(Copied(tunnel))),
            Err(why) => {
                if matches!(why, GuestApiError::Call(CallError::Lost { .. })) {
                    // It may live on for the tunnels that it has, without a word to its owner.
                    session.condemned.cancel();
                }
                Err(why.into())
            }
        }
    }

    async fn ready(&self) {
        if self.answered().await.is_err() {
            // Nobody connects any more.
            std::future::pending::<()>().await;
        }
    }
}
