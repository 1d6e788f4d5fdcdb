//! The whole life of an agent process: `berth hostagent`.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use berth_config::name::InstanceName;
use berth_config::platform::HostPlatform;
use berth_driver::external::discovery::ExternalDrivers;
use berth_events::board::Board;
use berth_events::clock::Clock;
use berth_events::writer::EventWriter;
use berth_instance::dir::InstanceDir;
use berth_instance::home::LimaHome;
use berth_instance::lock::{InstanceLock, LockError};
use berth_instance::pids::Processes;
use berth_process::pidfile;
use tokio::sync::watch;

use crate::agent::{HostAgent, Tasks};
use crate::api::{self, ApiState, Parts};
use crate::error::{AgentError, chain};
use crate::signals::StopRequests;

/// What the command line, and nobody else, knows.
#[derive(Debug)]
pub struct ServeOptions {
    /// `$LIMA_HOME`.
    pub home: LimaHome,
    /// The instance.
    pub name: InstanceName,
    /// `--pidfile`.
    pub pidfile: Option<PathBuf>,
    /// `--socket`.
    pub socket: PathBuf,
    /// `--guestagent`: ours or Lima's, told apart by the file name.
    pub guest_agent: Option<PathBuf>,
    /// `--nerdctl-archive`.
    pub nerdctl_archive: Option<PathBuf>,
    /// `--progress`: report cloud-init's log in events.
    pub progress: bool,
    /// `--debug`: verbose logs in the guest, too.
    pub debug: bool,
    /// The host.
    pub platform: Arc<HostPlatform>,
    /// The process environment.
    pub env: Arc<Vec<(String, String)>>,
    /// Lima's external drivers on this machine.
    pub external_drivers: Arc<ExternalDrivers>,
    /// Where probes of programs and downloads are cached.
    pub cache_dir: PathBuf,
    /// Where events go.
    pub stdout: File,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// The service manager's name for us, if it started us.
    pub auto_started_identifier: String,
}

impl ServeOptions {
    /// A variable of the environment.
    pub(crate) fn variable(&self, name: &str) -> Option<&str> {
        self.env
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }
}

/// Runs one agent from start to exit.
///
/// The order at the end is the one Lima's CLI waits for: the `exiting` event, then the socket, then the pid file; the lock goes last,
/// with the process.
///
/// # Errors
/// What made the start fail, why the VM ended, or what was left behind. It is also in the `exiting` event.
pub async fn serve(options: ServeOptions) -> Result<(), AgentError> {
    let tasks = Tasks::default();
    let mut stop = StopRequests::listen(&tasks.tracker, tasks.cancel.clone())
        .map_err(AgentError::set_up("take over signals"))?;
    let dir = options.home.instance(&options.name);
    let _lock = lock(&dir, &options)?;
    let _pidfile = PidFile::write(options.pidfile.as_deref())?;
    let stdout = options
        .stdout
        .try_clone()
        .map_err(AgentError::set_up("use standard output"))?;
    let board = Board::new(EventWriter::new(stdout), Arc::clone(&options.clock));
    let (parts_known, parts) = watch::channel(None);
    let socket = ApiSocket::listen(&options, &board, parts)?;

    let result = tokio::select! {
        biased;
        signal = stop.stop() => Err(AgentError::Interrupted(signal)),
        constructed = HostAgent::new(&options, dir, Arc::clone(&board), tasks.clone()) => constructed,
    };
    let result = match result {
        Ok(agent) => {
            parts_known.send_replace(Some(Parts::of(&agent)));
            agent.run(stop).await
        }
        // Asked to stop before anything ran: that is no failure.
        Err(AgentError::Interrupted(signal)) => {
            tracing::info!(signal, "stopped before the VM was started");
            Ok(())
        }
        Err(why) => Err(why),
    };
    parts_known.send_replace(None);
    board.exiting(
        result
            .as_ref()
            .err()
            .map(|why| chain(why))
            .into_iter()
            .collect(),
    );
    socket.close().await;
    result
}

/// Makes sure that we are the only agent, and that no VM of an earlier one still has the disk.
fn lock(dir: &InstanceDir, options: &ServeOptions) -> Result<InstanceLock, AgentError> {
    let name = options.name.to_string();
    if !dir.lima_yaml().exists() {
        return Err(AgentError::NoInstance {
            name,
            dir: dir.path().to_owned(),
        });
    }
    // Before locking: Lima's agent holds no lock, so only its pid file tells of it; afterwards, we would find ourselves.
    let found = Processes::look(dir, None);
    if found.agent.is_some_and(|pid| pid != std::process::id()) {
        let pid = found.agent;
        return Err(AgentError::AlreadyRunning { name, pid });
    }
    let lock = InstanceLock::try_acquire(dir).map_err(|refused| match refused {
        LockError::Held { pid, .. } => AgentError::AlreadyRunning {
            name: name.clone(),
            pid,
        },
        other => AgentError::set_up("lock the instance")(other),
    })?;
    // An agent that was killed leaves its VM alive; until such a VM can be adopted, a second one must not touch its disk.
    match found.vm {
        Some(pid) => Err(AgentError::Orphan { name, pid }),
        None => Ok(lock),
    }
}

/// The pid file, for as long as this value lives.
struct PidFile<'a>(Option<&'a Path>);

impl<'a> PidFile<'a> {
    fn write(path: Option<&'a Path>) -> Result<Self, AgentError> {
        if let Some(path) = path {
            pidfile::write(path, std::process::id())
                .map_err(AgentError::set_up("write the pid file"))?;
        }
        Ok(Self(path))
    }
}

impl Drop for PidFile<'_> {
    fn drop(&mut self) {
        let removed = self
            .0
            .map(|path| pidfile::remove_if_names(path, std::process::id()));
        if let Some(Err(why)) = removed {
            tracing::warn!(error = %why, "the pid file stays behind");
        }
    }
}

/// `ha.sock`, from before construction until after the last event.
struct ApiSocket {
    path: PathBuf,
    tasks: Tasks,
}

impl ApiSocket {
    fn listen(
        options: &ServeOptions,
        board: &Arc<Board>,
        parts: watch::Receiver<Option<Parts>>,
    ) -> Result<Self, AgentError> {
        let listener = api::listen(&options.socket)?;
        let state = ApiState {
            board: Arc::clone(board),
            auto_started_identifier: options.auto_started_identifier.clone(),
            parts,
        };
        // Its own tasks: the API answers until after the agent's tasks have ended.
        let tasks = Tasks::default();
        let served = api::serve(listener, state, tasks.tracker.clone(), tasks.cancel.clone());
        tasks.tracker.spawn(served);
        Ok(Self {
            path: options.socket.clone(),
            tasks,
        })
    }

    async fn close(self) {
        self.tasks.cancel.cancel();
        self.tasks.tracker.close();
        self.tasks.tracker.wait().await;
        if let Err(why) = std::fs::remove_file(&self.path) {
            tracing::warn!(error = %why, socket = %self.path.display(), "the socket stays behind");
        }
    }
}
