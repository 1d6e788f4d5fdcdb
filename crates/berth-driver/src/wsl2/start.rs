//! Booting a distribution, and starting the guest agent in it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use berth_instance::dir::InstanceDir;
use berth_process::exit::gone;
use berth_process::identity::ProcessIdentity;
use berth_process::pidfile;
use tokio::sync::broadcast;

use crate::driver::{RunningVm, VmEvent};
use crate::error::DriverError;
use crate::files::remove_all;
use crate::life::Life;
use crate::process::watch_exit;
use crate::wsl2::NAME;
use crate::wsl2::state::State;
use crate::wsl2::wsl::{QUICK, Wsl};

/// Copying the agent out of a drive of the host.
const INSTALL: Duration = Duration::from_secs(120);
/// Events that may wait for a slow reader, who only needs to know that there were some.
const EVENTS: usize = 16;

/// The guest agent in cidata.
const AGENT: &str = "berth-guestagent";

/// One start.
pub(super) struct Task<'a> {
    pub(super) wsl: &'a Wsl,
    pub(super) dir: &'a InstanceDir,
    pub(super) port: u32,
    /// For the boot.
    pub(super) limit: Duration,
}

impl Task<'_> {
    /// Boots the distribution. What was begun is noted in `life` at once, so that a stop finds it, however far this got.
    pub(super) async fn start(&self, life: &Arc<Life>) -> Result<RunningVm, DriverError> {
        let (wsl, dir) = (self.wsl, self.dir);
        self.require_no_other()?;
        if !matches!(wsl.state().await?, State::Stopped | State::Running) {
            return Err(DriverError::Program {
                program: wsl.distribution().to_owned(),
                why: "there is no such distribution, or it is not whole: start the instance again, which imports it"
                    .to_owned(),
            });
        }
        life.begin();
        remove_all([dir.vm_pid(NAME)])?;
        // Why a distribution does not boot is said here.
        wsl.ask(&["true"], self.limit).await?;
        let vm = life.note_vm(wsl.keep_alive(dir.vm_stderr_log())?);
        pidfile::write(&dir.vm_pid(NAME), vm.pid()).map_err(|error| DriverError::Program {
            program: wsl.distribution().to_owned(),
            why: berth_image::error::with_causes(&error),
        })?;
        let mut exit = vm.exit();
        tokio::select! {
            biased;
            exit = gone(&mut exit) => return Err(DriverError::Died {
                program: format!("the distribution {}", wsl.distribution()),
                how: exit.describe(),
                stderr_tail: vm.stderr_tail(),
            }),
            installed = self.install_agent() => installed?,
        }
        let (tell, events) = broadcast::channel(EVENTS);
        // Nobody waits for it yet but whoever gets these events.
        let _ = tell.send(VmEvent::AgentPort { open: true });
        life.tasks().spawn(async move {
            std::future::pending::<()>().await;
            drop(tell);
        });
        Ok(RunningVm {
            identity: vm.identity().clone(),
            exit: watch_exit(&vm, life.tasks().tracker()),
            events,
        })
    }

    /// An agent that was killed leaves its distribution running.
    fn require_no_other(&self) -> Result<(), DriverError> {
        let pid = pidfile::read(&self.dir.vm_pid(NAME)).ok().flatten();
        let alive = |pid: &u32| ProcessIdentity::of(*pid).is_ok_and(|process| process.is_alive());
        match pid.filter(alive) {
            None => Ok(()),
            Some(pid) => Err(DriverError::Program {
                program: self.wsl.distribution().to_owned(),
                why: format!("the distribution runs already (pid {pid}): stop it first"),
            }),
        }
    }

    /// The agent compares itself with what is installed, and does nothing where it runs already: a boot is provisioned once.
    async fn install_agent(&self) -> Result<(), DriverError> {
        let cidata = guest_path(self.wsl, &self.dir.cidata_dir()).await?;
        let program = format!("{cidata}/{AGENT}");
        let words = [
            &program,
            "install",
            &format!("--from={cidata}"),
            &format!("--port=hvsock:{}", self.port),
        ];
        self.wsl.ask(&words, INSTALL).await.map(drop)
    }
}

/// Where a directory of the host is in the guest, in the guest's own words: they are only told to the guest again.
async fn guest_path(wsl: &Wsl, path: &Path) -> Result<String, DriverError> {
    // Backslashes would have to survive WSL's own reading of the command line.
    let path = path.to_string_lossy().replace('\\', "/");
    let said = wsl.ask(&["wslpath", "-u", &path], QUICK).await?;
    let text = std::str::from_utf8(&said).unwrap_or_default().trim_end();
    let is_path = text.starts_with('/') && !text.contains(char::is_control);
    if is_path {
        return Ok(text.to_owned());
    }
    Err(DriverError::Program {
        program: format!("wslpath in {}", wsl.distribution()),
        why: format!(
            "{path} is not in the guest (is automount off in /etc/wsl.conf?); it says: {:?}",
            text.chars().take(200).collect::<String>()
        ),
    })
}
