//! The VM that runs, and everything that ends with it.

use std::sync::Arc;

use berth_instance::dir::InstanceDir;
use berth_process::pidfile;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::PATIENCE;
use super::configure::Configured;
use crate::driver::{Driver, RunningVm, SshPort, StopLadder, VmExit};
use crate::error::DriverError;
use crate::files::remove_all;

/// A VM from the beginning of its start to its end.
pub(super) struct Vm {
    pub(super) driver: Arc<dyn Driver>,
    ssh_port: u16,
    name: String,
    dir: InstanceDir,
    /// Cancelled when the VM is gone.
    pub(super) over: CancellationToken,
    /// Never told: a client that is in a hurry ends this process.
    hurry: watch::Sender<bool>,
}

impl Vm {
    pub(super) fn new(configured: Configured, name: &str, dir: &InstanceDir) -> Self {
        Self {
            driver: configured.driver,
            ssh_port: configured.ssh_port,
            name: name.to_owned(),
            dir: dir.clone(),
            over: CancellationToken::new(),
            hurry: watch::channel(false).0,
        }
    }

    /// Starts it with SSH where the client wants it. On error nothing of it runs.
    pub(super) async fn start(&self) -> Result<RunningVm, DriverError> {
        let vm = self.driver.start().await?;
        let port = match self.ssh_port {
            0 => SshPort::Any,
            port => SshPort::Configured(port),
        };
        let ready = match self.driver.ssh_address(port).await {
            Ok(_) => self.write_pid(&vm),
            Err(error) => Err(error),
        };
        if let Err(error) = ready {
            if let Err(left) = self.stop(StopLadder::at_once()).await {
                tracing::error!(error = %left, "A failed start left something behind.");
            }
            return Err(error);
        }
        Ok(vm)
    }

    /// The pid file that the status is told by has the name that the client knows.
    fn write_pid(&self, vm: &RunningVm) -> Result<(), DriverError> {
        if self.driver.info().name == self.name {
            return Ok(());
        }
        pidfile::write(&self.dir.vm_pid(&self.name), vm.identity.pid).map_err(|error| {
            DriverError::Program {
                program: self.name.clone(),
                why: berth_image::error::with_causes(&error),
            }
        })
    }

    /// Waits until it is gone, and clears up after it.
    pub(super) async fn end_of(&self, mut vm: RunningVm) -> VmExit {
        let exit = match vm
            .exit
            .wait_for(Option::is_some)
            .await
            .map(|exit| exit.clone())
        {
            Ok(Some(exit)) => exit,
            _ => VmExit {
                failure: Some("the driver lost sight of it".to_owned()),
                stderr_tail: String::new(),
            },
        };
        if let Err(error) = self.stop(StopLadder::at_once()).await {
            tracing::warn!(%error, "The VM left something behind.");
        }
        exit
    }

    /// Ends it as gently as `ladder` says. Idempotent.
    pub(super) async fn stop(&self, ladder: StopLadder) -> Result<(), DriverError> {
        self.driver.stop(ladder).await?;
        self.over.cancel();
        if self.driver.info().name == self.name {
            return Ok(());
        }
        remove_all([self.dir.vm_pid(&self.name)])
    }

    /// Ends it for a client that is gone.
    pub(super) async fn stop_alone(&self) {
        let ladder = self.ladder(PATIENCE.0, PATIENCE.1);
        if let Err(error) = self.stop(ladder).await {
            tracing::error!(%error, "The VM could not be stopped.");
        }
    }

    pub(super) fn ladder(
        &self,
        power_down: std::time::Duration,
        quit: std::time::Duration,
    ) -> StopLadder {
        StopLadder {
            power_down,
            quit,
            hurry: self.hurry.subscribe(),
        }
    }
}
