//! The driver `wsl2`: a distribution of the Windows Subsystem for Linux, through `wsl.exe`.
//!
//! | module | owns |
//! |---|---|
//! | `wsl` | running `wsl.exe`: environment, deadlines, how much it may print |
//! | `text` | what it prints, whatever the encoding |
//! | `state` | whether the distribution is there and runs, in no language |
//! | `import` | making the distribution of an image, and removing it |
//! | `start`, `stop` | one life of it |
//! | `address` | where its sshd is |
//! | `hvsock` | the way to its guest agent |
//! | `checks` | what cannot be expressed, by key of lima.yaml |
//!
//! What a distribution prints is the guest's. It is read into types, capped, and shown escaped.

mod address;
mod checks;
mod hvsock;
mod import;
mod start;
mod state;
mod stop;
mod text;
mod wsl;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use berth_config::model::{Config, MountType};
use berth_instance::dir::InstanceDir;
use berth_process::identity::ProcessIdentity;

use crate::driver::{
    Carrier, DefaultNetwork, Driver, DriverContext, DriverFeatures, DriverInfo, RunningVm,
    SnapshotAction, SshPort, StopLadder,
};
use crate::error::DriverError;
use crate::life::Life;
pub(crate) use crate::wsl2::hvsock::Guid;
use crate::wsl2::hvsock::HvSocket;
use crate::wsl2::wsl::Wsl;

/// The word of `vmType`.
pub(crate) const NAME: &str = "wsl2";

/// sshd's usual port.
const SSH_PORT: u16 = 22;
/// For a machine that boots on a busy host, and its systemd, for which WSL waits.
const BOOT: Duration = Duration::from_secs(180);
/// How long a guest that has booted may take to get an address.
const ADDRESS: Duration = Duration::from_secs(30);

/// One distribution.
#[derive(Debug)]
pub struct Wsl2Driver {
    context: DriverContext,
    config: Arc<Config>,
    info: DriverInfo,
    agent: HvSocket,
    life: Mutex<Arc<Life>>,
    patience: Duration,
}

/// The name of an instance's distribution. Lima's.
fn distribution(dir: &InstanceDir) -> String {
    let name = dir.path().file_name().unwrap_or_default();
    format!("lima-{}", name.to_string_lossy())
}

impl Wsl2Driver {
    /// Fills the driver's defaults. Runs nothing and writes nothing.
    #[must_use]
    pub fn new(context: DriverContext) -> Self {
        let mut config = Config::clone(&context.config);
        config.mount_type.get_or_insert(MountType::Wsl2);
        config.ssh.over_vsock.get_or_insert(false);
        let port = hvsock::port(&context.dir);
        let info = DriverInfo {
            name: NAME.to_owned(),
            vsock_port: port,
            virtio_port: String::new(),
            network: DefaultNetwork::Ready,
            features: DriverFeatures {
                dynamic_ssh_address: true,
                static_ssh_port: true,
                skip_socket_forwarding: true,
                no_cloud_init: true,
                ..DriverFeatures::default()
            },
        };
        Self {
            agent: HvSocket::new(port, &context.env),
            config: Arc::new(config),
            context,
            info,
            life: Mutex::default(),
            patience: BOOT,
        }
    }

    /// Sets how long a boot, and then the guest's address, may take, instead of three minutes and half a minute.
    #[must_use]
    pub fn with_patience(mut self, limit: Duration) -> Self {
        self.patience = limit;
        self
    }

    fn wsl(&self) -> Result<Wsl, DriverError> {
        Wsl::find(distribution(&self.context.dir), &self.context.env)
    }

    fn life(&self) -> Arc<Life> {
        Arc::clone(&self.life.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A new life, unless the last one is not over.
    fn begin_life(&self) -> Result<Arc<Life>, DriverError> {
        let mut life = self.life.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(vm) = life.vm()
            && vm.exit().borrow().is_none()
        {
            return Err(DriverError::Program {
                program: distribution(&self.context.dir),
                why: format!(
                    "the distribution runs already (pid {}): stop it first",
                    vm.pid()
                ),
            });
        }
        *life = Arc::default();
        Ok(Arc::clone(&life))
    }
}

fn unsupported(what: &str) -> DriverError {
    DriverError::refuse(what, "WSL cannot do that")
}

#[async_trait]
impl Driver for Wsl2Driver {
    fn info(&self) -> &DriverInfo {
        &self.info
    }

    fn config(&self) -> &Arc<Config> {
        &self.config
    }

    fn validate(&self) -> Result<Vec<String>, DriverError> {
        let mut errors = checks::problems(&self.config);
        errors.extend(self.wsl().err());
        DriverError::of_all(errors)?;
        Ok(checks::warnings(&self.config))
    }

    async fn holds_system(&self) -> Result<Option<bool>, DriverError> {
        let holds = import::holds_system(&self.wsl()?, &self.context.dir).await?;
        Ok(Some(holds))
    }

    async fn prepare_disk(&self) -> Result<(), DriverError> {
        import::ensure(&self.wsl()?, &self.context.dir).await
    }

    async fn start(&self) -> Result<RunningVm, DriverError> {
        let wsl = self.wsl()?;
        let life = self.begin_life()?;
        self.agent.forget();
        let task = start::Task {
            wsl: &wsl,
            dir: &self.context.dir,
            port: self.info.vsock_port,
            limit: self.patience,
        };
        let started = task.start(&life).await;
        if started.is_err()
            && let Err(error) = self.stop(StopLadder::at_once()).await
        {
            tracing::error!(%error, "A failed start left something behind.");
        }
        started
    }

    /// The port is sshd's in the guest, which cidata has told it.
    async fn ssh_address(&self, port: SshPort) -> Result<SocketAddr, DriverError> {
        let life = self.life();
        if let Some(address) = life.ssh() {
            return Ok(address);
        }
        let port = match port {
            SshPort::Configured(port) | SshPort::Preferred(port) => port,
            SshPort::Any => SSH_PORT,
        };
        let address = address::find(&self.wsl()?, ADDRESS.min(self.patience)).await?;
        let address = SocketAddr::from((address, port));
        life.note_ssh(address);
        Ok(address)
    }

    async fn guest_agent_conn(&self) -> Result<Option<Box<dyn Carrier>>, DriverError> {
        self.agent.connect().await.map(Some)
    }

    async fn change_display_password(&self, _password: &str) -> Result<(), DriverError> {
        Err(unsupported("video.vnc"))
    }

    async fn display_port(&self) -> Result<u16, DriverError> {
        Err(unsupported("video.vnc"))
    }

    async fn screenshot(&self) -> Result<Vec<u8>, DriverError> {
        Err(DriverError::NoDisplay)
    }

    async fn stop(&self, ladder: StopLadder) -> Result<(), DriverError> {
        let life = self.life();
        let stopped = match self.wsl() {
            Ok(wsl) => stop::stop(&wsl, &self.context.dir, &life, &ladder).await,
            Err(_) if !life.began() => Ok(()),
            Err(error) => Err(error),
        };
        self.agent.forget();
        life.tasks().end().await;
        stopped
    }

    async fn snapshot(&self, _action: SnapshotAction) -> Result<String, DriverError> {
        Err(unsupported("snapshot"))
    }
}

/// Whether a directory is that of a distribution, whole or half imported, whatever its configuration says now.
pub(crate) fn has_distribution(dir: &InstanceDir) -> bool {
    // Not an import that was begun: a name alone may be somebody else's by now.
    import::vhdx(dir).exists()
}

/// Ends a distribution whose agent is gone.
pub(crate) async fn stop_orphan(
    dir: &InstanceDir,
    identity: &ProcessIdentity,
    steps: &StopLadder,
    env: &[(String, String)],
) -> Result<(), DriverError> {
    let wsl = Wsl::find(distribution(dir), env)?;
    stop::stop_orphan(&wsl, dir, identity, steps).await
}

/// Ends a distribution whose process was killed.
pub(crate) async fn end(dir: &InstanceDir, env: &[(String, String)]) -> Result<(), DriverError> {
    stop::end(&Wsl::find(distribution(dir), env)?, dir).await
}

/// Removes the distribution that a directory has.
pub(crate) async fn delete(dir: &InstanceDir, env: &[(String, String)]) -> Result<(), DriverError> {
    import::unregister(&Wsl::find(distribution(dir), env)?).await
}
