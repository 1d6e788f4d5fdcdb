//! From "everything is bound" to "the VM is gone".

use std::time::Duration;

use berth_driver::driver::{RunningVm, StopLadder, VmExit};
use berth_events::timeline::Outcome;
use tokio::sync::watch;

use crate::agent::HostAgent;
use crate::cleanup::hurried;
use crate::cloud_init;
use crate::error::AgentError;
use crate::phases;
use crate::signals::StopRequests;

/// How long the guest may take to power itself off (Lima's limit), and QEMU to end after `quit`.
const POWER_DOWN: Duration = Duration::from_secs(180);
const QUIT: Duration = Duration::from_secs(5);

/// Why the agent leaves its running state.
#[derive(Debug)]
enum End {
    /// Somebody asked, with this signal.
    Asked(&'static str),
    /// The VM ended.
    Vm(VmExit),
}

impl HostAgent {
    /// Runs the VM until it ends or somebody asks to stop, then takes everything down.
    ///
    /// # Errors
    /// The failure of the start, the unexpected end of the VM, or what could not be taken down. Whatever is returned, no VM is
    /// left behind.
    pub async fn run(mut self, mut stop: StopRequests) -> Result<(), AgentError> {
        berth_process::limits::raise_open_files();
        self.start_names();
        let ended = tokio::select! {
            biased;
            signal = stop.stop() => Ok(End::Asked(signal)),
            result = self.start_and_wait() => result.map(End::Vm),
        };
        match &ended {
            Ok(End::Asked(signal)) => tracing::info!(signal, "stopping"),
            Ok(End::Vm(exit)) => tracing::info!(failure = ?exit.failure, "the VM has ended"),
            Err(why) => tracing::error!(error = crate::error::chain(why), "the start failed"),
        }
        self.board.stopping();
        let left = self.take_down(stop.hurry()).await;
        match ended {
            Err(why) => Err(why),
            Ok(End::Vm(exit)) if exit.failure.is_some() => Err(AgentError::VmDied(describe(&exit))),
            Ok(_) if left.is_empty() => Ok(()),
            Ok(_) => Err(AgentError::Stop(left)),
        }
    }

    /// Starts everything, then waits for the VM's end. Cancelled by dropping the future, at any point.
    async fn start_and_wait(&mut self) -> Result<VmExit, AgentError> {
        let mut vm = self.start_vm().await?;
        let mut exit = vm.exit.clone();
        self.open_ssh().await?;
        self.set_up_vnc().await?;
        self.connect_guest(&mut vm);
        cloud_init::start(self);
        tokio::select! {
            gone = gone(&mut exit) => return Ok(gone),
            causes = phases::run(self) => self.board.ready(causes),
        }
        self.save_timeline();
        // Two thirds of the code in memory are for starts. From here on days may pass.
        if let Err(why) = crate::sys::let_go_of_code() {
            tracing::debug!(%why, "the code of the start stays in memory");
        }
        Ok(gone(&mut exit).await)
    }

    async fn start_vm(&mut self) -> Result<RunningVm, AgentError> {
        let shown = self.board.phase_started("start the VM");
        self.lock_disks()?;
        match self.driver.start().await {
            Ok(vm) => {
                self.remember_vm(&vm)?;
                crate::mounts::watch_helpers(self);
                shown.finish(Outcome::Ok);
                Ok(vm)
            }
            Err(why) => {
                shown.finish(Outcome::Failed(crate::error::chain(&why)));
                Err(why.into())
            }
        }
    }

    /// Cleanups, then the VM, then what only the VM needed.
    async fn take_down(&self, hurry: watch::Receiver<bool>) -> Vec<String> {
        let mut errors = self.cleanups.run_all(hurry.clone()).await;
        let ladder = StopLadder {
            power_down: POWER_DOWN,
            quit: QUIT,
            hurry: hurry.clone(),
        };
        if let Err(why) = self.driver.stop(ladder).await {
            errors.push(crate::error::chain(&why));
        }
        self.end_tasks(hurry).await;
        // Whatever a task registered in its last moments.
        errors.extend(self.cleanups.run_all(watch::channel(true).1).await);
        errors.extend(self.forget_vm());
        self.save_timeline();
        for why in &errors {
            tracing::warn!(error = why, "left behind");
        }
        errors
    }

    /// Cancels the agent's tasks and waits for them, for as long as a person would.
    async fn end_tasks(&self, mut hurry: watch::Receiver<bool>) {
        const PATIENCE: Duration = Duration::from_secs(5);
        self.tasks.cancel.cancel();
        self.tasks.tracker.close();
        tokio::select! {
            () = self.tasks.tracker.wait() => {}
            () = tokio::time::sleep(PATIENCE) => {
                tracing::warn!("some tasks did not end within {} s", PATIENCE.as_secs());
            }
            () = hurried(&mut hurry) => {}
        }
    }
}

/// Waits for the VM's end.
async fn gone(exit: &mut watch::Receiver<Option<VmExit>>) -> VmExit {
    match exit
        .wait_for(Option::is_some)
        .await
        .map(|exit| exit.clone())
    {
        Ok(Some(exit)) => exit,
        // The driver let go of the channel without a word; the VM counts as gone, for a reason unknown.
        _ => VmExit {
            failure: Some("the driver lost sight of it".into()),
            stderr_tail: String::new(),
        },
    }
}

fn describe(exit: &VmExit) -> String {
    let how = exit.failure.as_deref().unwrap_or("a clean end");
    if exit.stderr_tail.is_empty() {
        how.to_owned()
    } else {
        format!("{how}; its last words:\n{}", exit.stderr_tail)
    }
}
