//! The server's process: starting it, and ending it in every way.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use berth_grpc::client::Client;
use berth_grpc::frame::Limit;
use berth_instance::dir::InstanceDir;
use berth_process::adopt::Adopted;
use berth_process::exit::{Signal, gone};
use berth_process::identity::ProcessIdentity;
use berth_process::ladder::Rung;
use berth_process::pidfile;
use berth_process::spawn::{Child, Spec};

use crate::driver::StopLadder;
use crate::error::DriverError;
use crate::external::discovery::Found;
use crate::external::files;
use crate::external::message::method;
use crate::files::remove_all;
use crate::process::{self, KILL_LIMIT, Target, connect_when_there, land, not_started};
use crate::sys::{self, DirectoryWatch, LocalStream};
use crate::tasks::Tasks;

/// Lima's drivers log every call; the older part is cut.
const STDERR_MAX: u64 = 1 << 20;

/// What a server gets after SIGTERM: Lima's limit.
pub(super) const TERMINATE_LIMIT: Duration = Duration::from_secs(10);

/// How long a server that is already there may take to accept a connection.
const PROBE_LIMIT: Duration = Duration::from_secs(2);

/// A server that this process started, and the connection to it.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) child: Arc<Child>,
    pub(super) client: Client,
    tasks: Tasks,
    _leash: Leash,
}

/// Ends the process when nobody wants it any more, however far its start got.
#[derive(Debug)]
struct Leash(Arc<Child>);

impl Drop for Leash {
    fn drop(&mut self) {
        // In order, because a VM may still run behind it. Nothing happens to one that has ended.
        if let Err(why) = self.0.signal(Signal::Terminate) {
            tracing::warn!(pid = self.0.pid(), error = %why, "cannot end an external driver");
        }
    }
}

impl Server {
    /// Starts the program and connects as soon as its socket is there. On error nothing of it runs.
    pub(super) async fn start(
        driver: &Found,
        dir: &InstanceDir,
        limit: Duration,
    ) -> Result<Self, DriverError> {
        let socket = files::socket(dir, &driver.name);
        end_another(dir, &driver.name, &driver.path).await?;
        remove_all([socket.clone()])?;
        let watch = DirectoryWatch::new(dir.path());
        let mut watch = watch.map_err(DriverError::io("watch", dir.path()))?;
        let child = Arc::new(spawn(&driver.path, dir)?);
        let leash = Leash(Arc::clone(&child));
        let begun = Begun {
            child: &child,
            driver,
            dir,
        };
        let tasks = Tasks::default();
        let connecting = async {
            let stream = begun.connect(&socket, &mut watch, limit).await?;
            let greeting = method("the HTTP/2 preface");
            let (tracker, cancel) = (tasks.tracker(), tasks.cancellation());
            let client = Client::begin(stream, greeting, Limit::Mib16, tracker, cancel);
            client.await.map_err(|why| begun.fault(why.to_string()))
        };
        match connecting.await {
            Ok(client) => Ok(Self {
                child,
                client,
                tasks,
                _leash: leash,
            }),
            Err(error) => {
                give_up(&child, driver, dir).await;
                Err(error)
            }
        }
    }

    /// Ends a server that serves no VM, and removes its files.
    pub(super) async fn give_up(&self, driver: &Found, dir: &InstanceDir) {
        give_up(&self.child, driver, dir).await;
    }

    /// The last words of the process.
    pub(super) fn stderr_tail(&self) -> String {
        self.child.stderr_tail()
    }

    pub(super) fn signal(&self, signal: Signal) -> Result<(), String> {
        let sent = self.child.signal(signal);
        sent.map_err(|why| why.to_string())
    }

    /// Lets go of the connection and what runs on it; the server then counts this client as gone.
    pub(super) async fn disconnect(&self) {
        self.tasks.end().await;
    }
}

/// A session of its own, like every engine's: a Ctrl-C in the terminal is for us, and we stop the VM in order. It does not keep
/// the VM beyond our end, since the server ends the VM when its client is gone.
fn spawn(program: &Path, dir: &InstanceDir) -> Result<Child, DriverError> {
    Spec::new(program)
        .arg("--inst-dir")
        .arg(dir.path())
        .new_session()
        .stderr_capped_file(dir.driver_stderr_log(), STDERR_MAX)
        .spawn()
        .map_err(|error| not_started(program, error))
}

/// A process that does not serve yet.
struct Begun<'a> {
    child: &'a Arc<Child>,
    driver: &'a Found,
    dir: &'a InstanceDir,
}

impl Begun<'_> {
    async fn connect(
        &self,
        socket: &Path,
        watch: &mut DirectoryWatch,
        limit: Duration,
    ) -> Result<LocalStream, DriverError> {
        let pid_file = files::server_pid(self.dir, &self.driver.name);
        pidfile::write(&pid_file, self.child.pid())
            .map_err(|error| self.fault(berth_image::error::with_causes(&error)))?;
        let mut exit = self.child.exit();
        tokio::select! {
            biased;
            exit = gone(&mut exit) => Err(DriverError::Died {
                program: self.driver.path.display().to_string(),
                how: format!("{}, before it made {}", exit.describe(), socket.display()),
                stderr_tail: self.child.stderr_tail(),
            }),
            stream = connect_when_there(socket, watch) => {
                stream.map_err(DriverError::io("connect to", socket))
            }
            () = tokio::time::sleep(limit) => Err(DriverError::Timeout {
                what: format!(
                    "{} to make {} (see {})",
                    self.driver.path.display(), socket.display(), self.dir.driver_stderr_log().display(),
                ),
                seconds: limit.as_secs(),
            }),
        }
    }

    fn fault(&self, why: String) -> DriverError {
        DriverError::Program {
            program: self.driver.path.display().to_string(),
            why,
        }
    }
}

/// Ends a process on which nothing depends yet.
async fn give_up(child: &Child, driver: &Found, dir: &InstanceDir) {
    let ended = end(Target::Child(child), &driver.path, &StopLadder::at_once()).await;
    let cleared = ended.and_then(|()| clear(dir, &driver.name));
    if let Err(error) = cleared {
        tracing::error!(%error, "An external driver that failed left something behind.");
    }
}

/// Ends a process by SIGTERM, then SIGKILL.
pub(super) async fn end(
    target: Target<'_>,
    program: &Path,
    steps: &StopLadder,
) -> Result<(), DriverError> {
    let rungs = vec![
        Rung::new("SIGTERM", TERMINATE_LIMIT, async {
            target.signal(Signal::Terminate)
        }),
        Rung::new("SIGKILL", KILL_LIMIT, async { target.signal(Signal::Kill) }),
    ];
    descend(program, target, steps, rungs).await
}

/// Goes down the ladder, and tells of it to developers only: that a VM is gone is told by its stream.
pub(super) async fn descend(
    program: &Path,
    target: Target<'_>,
    steps: &StopLadder,
    rungs: Vec<Rung<'_>>,
) -> Result<(), DriverError> {
    let name = program.display().to_string();
    let landing = land("the external driver", &name, target, steps, rungs).await?;
    tracing::debug!(step = landing.rung, exit = %landing.exit, "The external driver has ended.");
    Ok(())
}

/// Ends a server that serves the instance already: it was left by an agent that was killed, or by Lima's command line. Its pid is
/// asked of the kernel, not of a file, whose number may be another's by now.
pub(super) async fn end_another(
    dir: &InstanceDir,
    name: &str,
    program: &Path,
) -> Result<(), DriverError> {
    let socket = files::socket(dir, name);
    let probe = tokio::time::timeout(PROBE_LIMIT, sys::connect(&socket)).await;
    let Ok(Ok(stream)) = probe else {
        return Ok(());
    };
    let Some(pid) = listener(&stream) else {
        return Err(DriverError::Program {
            program: program.display().to_string(),
            why: format!(
                "somebody listens on {} already, and the system does not say who: end it first",
                socket.display()
            ),
        });
    };
    drop(stream);
    let Ok(identity) = ProcessIdentity::of(pid) else {
        return Ok(());
    };
    let Some(other) = process::adopt(name, &identity)? else {
        return Ok(());
    };
    tracing::warn!(
        pid,
        driver = name,
        "Ending an external driver that was left behind."
    );
    let (_patience, hurry) = tokio::sync::watch::channel(false);
    let steps = StopLadder {
        hurry,
        ..StopLadder::at_once()
    };
    end(Target::Adopted(&other), program, &steps).await
}

fn listener(stream: &LocalStream) -> Option<u32> {
    sys::peer_pid(stream).filter(|pid| *pid != std::process::id())
}

/// The process that the pid file of the VM names, if it was started after the server: one that is older is somebody else, to
/// whom the number was given since.
pub(super) fn vm_of(
    server: &ProcessIdentity,
    dir: &InstanceDir,
    name: &str,
) -> Option<ProcessIdentity> {
    let pid = pidfile::read(&dir.vm_pid(name)).ok().flatten()?;
    let vm = ProcessIdentity::of(pid).ok()?;
    let after = vm.start_time >= server.start_time && vm.boot_id == server.boot_id;
    (after && vm.pid != server.pid && vm.is_alive()).then_some(vm)
}

/// Kills a VM that its server has left behind.
pub(super) async fn end_vm(vm: Option<ProcessIdentity>, program: &Path) -> Result<(), DriverError> {
    let Some(identity) = vm.filter(ProcessIdentity::is_alive) else {
        return Ok(());
    };
    let name = program.display().to_string();
    let Some(vm) = &process::adopt(&name, &identity)? else {
        return Ok(());
    };
    tracing::warn!(
        pid = identity.pid,
        "The external driver left its VM behind: killing it."
    );
    end(Target::Adopted(vm), program, &StopLadder::at_once()).await
}

/// Removes what belongs to a life, when everything of it is gone.
pub(super) fn clear(dir: &InstanceDir, name: &str) -> Result<(), DriverError> {
    let files = [
        files::socket(dir, name),
        files::server_pid(dir, name),
        dir.vm_pid(name),
        dir.ga_sock(),
    ];
    remove_all(files)
}

/// Takes hold of a process that somebody recorded.
pub(super) fn adopt(
    program: &Path,
    identity: &ProcessIdentity,
) -> Result<Option<Adopted>, DriverError> {
    process::adopt(&program.display().to_string(), identity)
}
