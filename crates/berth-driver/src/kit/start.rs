//! Starting the program, until its VM runs.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use berth_instance::dir::InstanceDir;
use berth_process::exit::gone;
use berth_process::pidfile;
use berth_process::spawn::{Child, Spec};
use tokio::sync::broadcast;

use crate::driver::RunningVm;
use crate::error::DriverError;
use crate::kit::rest::Rest;
use crate::kit::{Flavour, Words, bell, files};
use crate::life::Life;
use crate::process::{not_started, watch_exit};
use crate::sys::{self, DirectoryWatch};

/// The program says little; what it repeats for ever is cut.
const STDERR_MAX: u64 = 1 << 20;
/// Events that may wait for a slow reader, who only needs to know that there were some.
const EVENTS: usize = 16;

/// One start.
pub(super) struct Task<'a> {
    pub(super) flavour: &'static dyn Flavour,
    pub(super) program: &'a Path,
    pub(super) words: Words,
    pub(super) dir: &'a InstanceDir,
    pub(super) limit: Duration,
}

impl Task<'_> {
    /// Starts the VM. What was begun is noted in `life` at once, so that a stop finds it, however far this got.
    pub(super) async fn start(&self, life: &Arc<Life>) -> Result<RunningVm, DriverError> {
        let (dir, driver) = (self.dir, self.flavour.name());
        self.require_no_other().await?;
        life.begin();
        files::clear_before_start(dir, driver)?;
        let (tell, events) = broadcast::channel(EVENTS);
        let bell = files::bell_sock(dir);
        bell::hang(&bell, tell, life).map_err(DriverError::io("listen on", &bell))?;
        let watch = DirectoryWatch::new(dir.path());
        let mut watch = watch.map_err(DriverError::io("watch", dir.path()))?;
        let vm = life.note_vm(self.spawn()?);
        // Ours, and not the program's `--pidfile`: no version lacks it, and it is there at once.
        let pid_file = dir.vm_pid(driver);
        pidfile::write(&pid_file, vm.pid()).map_err(|error| DriverError::Program {
            program: self.flavour.program().to_owned(),
            why: berth_image::error::with_causes(&error),
        })?;
        self.wait_until_running(&vm, &mut watch).await?;
        Ok(RunningVm {
            identity: vm.identity().clone(),
            exit: watch_exit(&vm, life.tasks().tracker()),
            events,
        })
    }

    /// An agent that was killed leaves its VM running: its sockets must not be taken from it.
    async fn require_no_other(&self) -> Result<(), DriverError> {
        let (dir, flavour) = (self.dir, self.flavour);
        if sys::connect(&files::rest_sock(dir)).await.is_err() {
            return Ok(());
        }
        let pid = pidfile::read(&dir.vm_pid(flavour.name())).ok().flatten();
        Err(DriverError::Program {
            program: flavour.program().to_owned(),
            why: format!(
                "a VM of this instance runs already (pid {}): stop it first",
                pid.unwrap_or_default()
            ),
        })
    }

    fn spawn(&self) -> Result<Child, DriverError> {
        Spec::new(self.program)
            .args(self.words.as_slice())
            .new_session()
            .kill_on_drop()
            .stderr_capped_file(self.dir.vm_stderr_log(), STDERR_MAX)
            .spawn()
            .map_err(|error| not_started(self.program, error))
    }

    /// The vsock ports appear when the VM runs, and not before; then its state must say so, too.
    async fn wait_until_running(
        &self,
        vm: &Child,
        watch: &mut DirectoryWatch,
    ) -> Result<(), DriverError> {
        let (dir, program) = (self.dir, self.flavour.program());
        let agent = dir.ga_sock();
        let running = async {
            while !agent.exists() {
                let changed = watch.changed().await;
                changed.map_err(DriverError::io("watch", dir.path()))?;
            }
            match Rest::new(files::rest_sock(dir)).state().await?.as_str() {
                "Running" => Ok(()),
                other => Err(DriverError::Monitor {
                    command: "GET /vm/state".to_owned(),
                    why: format!("the VM is not running, but {other:?}"),
                }),
            }
        };
        let mut exit = vm.exit();
        tokio::select! {
            biased;
            exit = gone(&mut exit) => Err(DriverError::Died {
                program: self.program.display().to_string(),
                how: exit.describe(),
                stderr_tail: vm.stderr_tail(),
            }),
            running = running => running,
            () = tokio::time::sleep(self.limit) => Err(DriverError::Timeout {
                what: format!("{program} to make {} (see {})", agent.display(), dir.vm_stderr_log().display()),
                seconds: self.limit.as_secs(),
            }),
        }
    }
}
