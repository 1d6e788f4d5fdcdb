//! The guest's sshd on a port of the host, through QEMU's user network.
//!
//! The forward is added when QEMU runs, not on its command line: only so is a busy port an answer instead of QEMU's end.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use crate::driver::SshPort;
use crate::error::DriverError;
use crate::qemu::argv::USER_NETWORK;
use crate::qemu::qmp::{Qmp, words};

/// Ports that are tried when any will do. Each was free a moment before.
const ATTEMPTS: u32 = 16;

/// Adds the forward, and says where it is.
pub(super) async fn forward_ssh(monitor: &Qmp, wanted: SshPort) -> Result<SocketAddr, DriverError> {
    match wanted {
        SshPort::Configured(port) => {
            let refused = add(monitor, port).await?;
            let Some(why) = refused else {
                return Ok(address(port));
            };
            Err(DriverError::Port {
                address: address(port).to_string(),
                why: format!(
                    "{why}; `ssh.localPort` of lima.yaml asks for this port: free it, or choose another there"
                ),
            })
        }
        SshPort::Preferred(port) => match add(monitor, port).await? {
            None => Ok(address(port)),
            Some(why) => {
                tracing::info!(
                    port,
                    why,
                    "The SSH port of the last start is taken; another one is used."
                );
                forward_any(monitor).await
            }
        },
        SshPort::Any => forward_any(monitor).await,
    }
}

async fn forward_any(monitor: &Qmp) -> Result<SocketAddr, DriverError> {
    let mut last = String::new();
    for _ in 0..ATTEMPTS {
        let port = free_port()?;
        match add(monitor, port).await? {
            None => return Ok(address(port)),
            Some(why) => last = why,
        }
    }
    Err(DriverError::Port {
        address: "any port of 127.0.0.1".to_owned(),
        why: last,
    })
}

/// Asks QEMU to listen. `Some`: it refused, in these words.
async fn add(monitor: &Qmp, port: u16) -> Result<Option<String>, DriverError> {
    let line = format!("hostfwd_add {USER_NETWORK} tcp:{}-:22", address(port));
    let answer = monitor.human(&line).await?;
    let answer = answer.trim();
    Ok((!answer.is_empty()).then(|| words(answer.as_bytes())))
}

/// A port that is free now. It may be taken by the time QEMU asks for it, which QEMU then says.
fn free_port() -> Result<u16, DriverError> {
    let port = TcpListener::bind(address(0)).and_then(|listener| listener.local_addr());
    port.map(|address| address.port())
        .map_err(|error| DriverError::Port {
            address: address(0).to_string(),
            why: error.to_string(),
        })
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}
