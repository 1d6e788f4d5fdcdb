//! The way into the guest, whichever carries it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::address::GuestTarget;
use crate::guest::{Access, Dialer, Reverse, SshForwarding};
use crate::listen::{Failure, FailureKind};
use crate::ssh::SshTunnels;

/// How long the guest, or `ssh`, may take to begin or end listening.
const LISTEN: Duration = Duration::from_secs(10);

/// How connections get into the guest and out of it.
pub(crate) struct Way {
    pub(crate) dialer: Arc<dyn Dialer>,
    pub(crate) reverse: Reverse,
    ssh: Option<Arc<SshTunnels>>,
}

impl Way {
    /// `own` is the instance's own directory of sockets.
    pub(crate) fn new(access: Access, own: &Path, tracker: &TaskTracker) -> Self {
        match access {
            Access::Agent { dialer, reverse } => Self {
                dialer,
                reverse,
                ssh: None,
            },
            Access::Ssh(control) => {
                let tunnels = SshTunnels::start(Arc::clone(&control), own, tracker);
                let tunnels = Arc::new(tunnels);
                Self {
                    dialer: Arc::clone(&tunnels) as Arc<dyn Dialer>,
                    reverse: Reverse::Ssh(control),
                    ssh: Some(tunnels),
                }
            }
        }
    }

    /// Whether UDP can be carried.
    pub(crate) fn carries_udp(access: &Access) -> bool {
        matches!(access, Access::Agent { .. })
    }

    /// Takes down what was set up outside of this process.
    pub(crate) async fn end(&self) {
        if let Some(ssh) = &self.ssh {
            ssh.end().await;
        }
    }

    /// Whether it wants to know of targets that are [released](Self::release).
    pub(crate) fn counts_targets(&self) -> bool {
        self.ssh.is_some()
    }

    /// Takes note that no new connection goes to a target.
    pub(crate) fn release(&self, target: &GuestTarget) {
        if let Some(ssh) = &self.ssh {
            ssh.release(target);
        }
    }

    /// The number of the session that listeners in the guest belong to.
    pub(crate) fn session(&self) -> Option<watch::Receiver<Option<u64>>> {
        match &self.reverse {
            Reverse::None => None,
            Reverse::Agent(listeners) => Some(listeners.session()),
            Reverse::Ssh(control) => Some(control.master()),
        }
    }

    /// Has the guest listen, and says in which session; the listener ends with that.
    pub(crate) async fn listen_in_guest(
        &self,
        id: u32,
        path: &str,
        socket: &Path,
    ) -> Result<u64, Failure> {
        let Some(current) = self.session() else {
            let why = "the guest's agent cannot listen for the host";
            return Err(Failure::new(FailureKind::Denied, why));
        };
        let no_way = || {
            Failure::new(
                FailureKind::NoWay,
                "waiting for the connection to the guest",
            )
        };
        let session = (*current.borrow()).ok_or_else(no_way)?;
        self.ask_to_listen(id, path, socket).await?;
        if *current.borrow() != Some(session) {
            // In one of both; the owner is woken by the new one, and tries again.
            self.unlisten_in_guest(id, path, socket).await;
            return Err(no_way());
        }
        Ok(session)
    }

    async fn ask_to_listen(&self, id: u32, path: &str, socket: &Path) -> Result<(), Failure> {
        let asked = async {
            match &self.reverse {
                Reverse::None => Ok(()),
                Reverse::Agent(listeners) => {
                    let asked = listeners.listen(id, path).await;
                    asked.map_err(|why| why.to_string())
                }
                Reverse::Ssh(control) => control.forward(&from_guest(path, socket)).await,
            }
        };
        match timeout(LISTEN, asked).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(why)) => Err(Failure::new(FailureKind::Other, why)),
            Err(_) => {
                let why = format!("no answer within {} s", LISTEN.as_secs());
                Err(Failure::new(FailureKind::Other, why))
            }
        }
    }

    pub(crate) async fn unlisten_in_guest(&self, id: u32, path: &str, socket: &Path) {
        let asked = async {
            match &self.reverse {
                Reverse::None => Ok(()),
                Reverse::Agent(listeners) => {
                    let asked = listeners.unlisten(id).await;
                    asked.map_err(|why| why.to_string())
                }
                Reverse::Ssh(control) => control.cancel(&from_guest(path, socket)).await,
            }
        };
        match timeout(LISTEN, asked).await {
            Ok(Ok(())) => {}
            Ok(Err(why)) => tracing::debug!(why, path, "the guest may still listen"),
            Err(_) => tracing::debug!(path, "the guest may still listen: no answer"),
        }
    }
}

fn from_guest(path: &str, socket: &Path) -> SshForwarding {
    SshForwarding::FromGuest {
        guest: path.to_owned(),
        socket: PathBuf::from(socket),
    }
}
