//! Starting a program and watching it until its end.
//!
//! A child is waited for by an event of the kernel, and always reaped, also after its [`Child`] was dropped. Dropping a
//! [`Child`] does not end the process unless [`Spec::kill_on_drop`] was asked: a VM outlives its agent.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use tokio::process::{ChildStderr, ChildStdin, ChildStdout};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;

use crate::exit::{self, Exit, Signal};
use crate::identity::ProcessIdentity;
use crate::stderr_log::StderrLog;
use crate::sys;

/// Why a program could not be started. Nothing of it runs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpawnError {
    /// There is no such program.
    #[error("program {program:?} was not found{}; install it or correct its name", in_path(.program))]
    NotFound {
        /// Name or path.
        program: String,
    },
    /// The program's file is not executable for this user.
    #[error("program {program:?} may not be executed{}", or_searched(.program))]
    NotExecutable {
        /// Name or path.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// The directory it should run in cannot be used.
    #[error("cannot run {program:?} in the directory {}", .directory.display())]
    Directory {
        /// Name or path of the program.
        program: String,
        /// The directory.
        directory: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Its stderr file cannot be written.
    #[error("cannot create {} for the messages of {program:?}", .path.display())]
    StderrFile {
        /// Name or path of the program.
        program: String,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The system refused for another reason.
    #[error("cannot start {program:?}")]
    Start {
        /// Name or path.
        program: String,
        /// Why.
        source: io::Error,
    },
    /// It was started, could not be watched, and was killed.
    #[error("cannot watch {program:?} (it was killed again)")]
    Watch {
        /// Name or path.
        program: String,
        /// Why.
        source: io::Error,
    },
}

fn is_bare_name(program: &str) -> bool {
    Path::new(program).components().count() <= 1
}

fn in_path(program: &str) -> &'static str {
    if is_bare_name(program) {
        " in PATH"
    } else {
        ""
    }
}

/// The system says the same of a directory of `PATH` that this user may not look into.
fn or_searched(program: &str) -> &'static str {
    if is_bare_name(program) {
        ", or a directory of PATH may not be searched"
    } else {
        ""
    }
}

/// Which process group and session a child belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Grouping {
    /// Those of this process.
    #[default]
    Ours,
    /// A group of its own: terminal signals do not reach it.
    NewGroup,
    /// A session of its own: it has no terminal, and does not end with it.
    NewSession,
}

/// What to start, and how. Standard streams lead nowhere unless said otherwise.
#[derive(Debug)]
pub struct Spec {
    command: Command,
    grouping: Grouping,
    /// Filled by `Spec::inherit_fd`, where the system has descriptors.
    pub(crate) inherited: Vec<sys::InheritedFd>,
    stderr_file: Option<(PathBuf, u64)>,
    kill_on_drop: bool,
}

impl Spec {
    /// Names the program: a path, or a name to look for in `PATH`.
    #[must_use]
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(program);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        Self {
            command,
            grouping: Grouping::Ours,
            inherited: Vec::new(),
            stderr_file: None,
            kill_on_drop: false,
        }
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    /// Sets one variable beside those of this process.
    #[must_use]
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    /// Forgets every variable of this process, and those set so far.
    #[must_use]
    pub fn env_clear(mut self) -> Self {
        self.command.env_clear();
        self
    }

    /// Sets the working directory.
    #[must_use]
    pub fn cwd(mut self, directory: impl AsRef<Path>) -> Self {
        self.command.current_dir(directory);
        self
    }

    /// Connects standard input. With [`Stdio::piped`]: [`Child::take_stdin`].
    #[must_use]
    pub fn stdin(mut self, stdin: impl Into<Stdio>) -> Self {
        self.command.stdin(stdin);
        self
    }

    /// Connects standard output. With [`Stdio::piped`]: [`Child::take_stdout`].
    #[must_use]
    pub fn stdout(mut self, stdout: impl Into<Stdio>) -> Self {
        self.command.stdout(stdout);
        self
    }

    /// Connects standard error. With [`Stdio::piped`]: [`Child::take_stderr`].
    #[must_use]
    pub fn stderr(mut self, stderr: impl Into<Stdio>) -> Self {
        self.command.stderr(stderr);
        self
    }

    /// Lets the child write standard error to this file, emptied first. While the child is watched, the older part is dropped
    /// when the file takes more space than `max_bytes`.
    #[must_use]
    pub fn stderr_capped_file(mut self, path: impl Into<PathBuf>, max_bytes: u64) -> Self {
        self.stderr_file = Some((path.into(), max_bytes));
        self
    }

    /// Gives it a session of its own: it survives this process, its terminal and its process group.
    #[must_use]
    pub fn new_session(mut self) -> Self {
        self.grouping = Grouping::NewSession;
        self
    }

    /// Gives it a process group of its own: terminal signals (Ctrl-C) do not reach it.
    #[must_use]
    pub fn new_group(mut self) -> Self {
        self.grouping = Grouping::NewGroup;
        self
    }

    /// Kills the process when its [`Child`] is dropped.
    #[must_use]
    pub fn kill_on_drop(mut self) -> Self {
        self.kill_on_drop = true;
        self
    }

    /// Starts it. Needs a tokio runtime.
    pub fn spawn(mut self) -> Result<Child, SpawnError> {
        let program = self.command.get_program().to_string_lossy().into_owned();
        let stderr_log = self.open_stderr(&program)?;
        sys::set_up(
            &mut self.command,
            self.grouping,
            std::mem::take(&mut self.inherited),
        );
        let child = self
            .command
            .spawn()
            .map_err(|why| self.explain(program.clone(), why))?;
        Child::watch(child, stderr_log, self.kill_on_drop)
            .map_err(|source| SpawnError::Watch { program, source })
    }

    fn open_stderr(&mut self, program: &str) -> Result<Option<StderrLog>, SpawnError> {
        let Some((path, max_bytes)) = self.stderr_file.take() else {
            return Ok(None);
        };
        let (log, file): (_, File) =
            StderrLog::create(path.clone(), max_bytes).map_err(|source| {
                SpawnError::StderrFile {
                    program: program.to_owned(),
                    path,
                    source,
                }
            })?;
        self.command.stderr(file);
        Ok(Some(log))
    }

    /// The system gives one error number for a missing program and for a missing directory.
    fn explain(&self, program: String, source: io::Error) -> SpawnError {
        if let Some(directory) = self.command.get_current_dir()
            && !directory.is_dir()
        {
            return SpawnError::Directory {
                program,
                directory: directory.to_owned(),
                source,
            };
        }
        let exists = !is_bare_name(&program) && Path::new(&program).exists();
        match source.kind() {
            // A file that is there and "not found" has an interpreter that is not.
            io::ErrorKind::NotFound if !exists => SpawnError::NotFound { program },
            io::ErrorKind::PermissionDenied => SpawnError::NotExecutable { program, source },
            _ => SpawnError::Start { program, source },
        }
    }
}

/// A program that was started.
#[derive(Debug)]
pub struct Child {
    identity: ProcessIdentity,
    handle: Arc<sys::Handle>,
    exit: watch::Receiver<Option<Exit>>,
    stderr_log: Option<StderrLog>,
    stdin: Option<std::process::ChildStdin>,
    stdout: Option<std::process::ChildStdout>,
    stderr: Option<std::process::ChildStderr>,
    kill_on_drop: bool,
}

impl Child {
    fn watch(
        mut child: std::process::Child,
        stderr_log: Option<StderrLog>,
        kill_on_drop: bool,
    ) -> io::Result<Self> {
        let watched = ProcessIdentity::of(child.id())
            .and_then(|identity| Ok((identity, sys::Handle::open(child.id())?)));
        let (identity, handle) = match watched {
            Ok(watched) => watched,
            Err(why) => {
                // Out of descriptors, most likely. A process that nobody watches must not stay.
                let _ = child.kill();
                let _ = child.wait();
                return Err(why);
            }
        };
        let handle = Arc::new(handle);
        let exit = watch_until_end(Arc::clone(&handle), stderr_log.clone());
        Ok(Self {
            identity,
            handle,
            exit,
            stderr_log,
            stdin: child.stdin.take(),
            stdout: child.stdout.take(),
            stderr: child.stderr.take(),
            kill_on_drop,
        })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.identity.pid
    }

    /// How to recognise it later.
    #[must_use]
    pub fn identity(&self) -> &ProcessIdentity {
        &self.identity
    }

    /// Becomes `Some` when it is gone.
    #[must_use]
    pub fn exit(&self) -> watch::Receiver<Option<Exit>> {
        self.exit.clone()
    }

    /// Waits for its end. May be called, and cancelled, any number of times.
    pub async fn wait(&mut self) -> Exit {
        exit::gone(&mut self.exit).await
    }

    /// Sends a signal. One that is gone already needs none, and gives no error.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        if self.exit.borrow().is_some() {
            return Ok(());
        }
        self.handle.signal(signal)
    }

    /// The last lines of its stderr file (at most 4 KiB), escaped; empty when it has none.
    #[must_use]
    pub fn stderr_tail(&self) -> String {
        self.stderr_log
            .as_ref()
            .map(StderrLog::tail)
            .unwrap_or_default()
    }

    /// Its stderr file.
    #[must_use]
    pub fn stderr_log(&self) -> Option<&StderrLog> {
        self.stderr_log.as_ref()
    }

    /// The writing end of its piped standard input; `None` when it is not piped, or was taken.
    pub fn take_stdin(&mut self) -> io::Result<Option<ChildStdin>> {
        self.stdin.take().map(ChildStdin::from_std).transpose()
    }

    /// The reading end of its piped standard output; `None` when it is not piped, or was taken.
    pub fn take_stdout(&mut self) -> io::Result<Option<ChildStdout>> {
        self.stdout.take().map(ChildStdout::from_std).transpose()
    }

    /// The reading end of its piped standard error; `None` when it is not piped, or was taken.
    pub fn take_stderr(&mut self) -> io::Result<Option<ChildStderr>> {
        self.stderr.take().map(ChildStderr::from_std).transpose()
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.kill_on_drop
            && let Err(why) = self.signal(Signal::Kill)
        {
            tracing::warn!(pid = self.pid(), error = %why, "cannot kill a child");
        }
    }
}

/// Starts the task that waits for the end of a process, reaps it, and keeps its stderr file small meanwhile.
///
/// The task belongs to the process, not to whoever started it: it ends with the process or with the runtime. No tracker waits
/// for it, since a VM may outlive us.
pub(crate) fn watch_until_end(
    handle: Arc<sys::Handle>,
    stderr_log: Option<StderrLog>,
) -> watch::Receiver<Option<Exit>> {
    let (tell, exit) = watch::channel(None);
    TaskTracker::new().spawn(async move {
        let small = async {
            match &stderr_log {
                Some(log) => log.keep_small().await,
                None => std::future::pending().await,
            }
        };
        let ended = tokio::select! {
            ended = handle.end() => ended,
            () = small => return,
        };
        if let Some(Err(why)) = stderr_log.as_ref().map(StderrLog::close_gap) {
            tracing::debug!(error = %why, "cannot cut a stderr log");
        }
        tell.send_replace(Some(ended.unwrap_or_else(|why| {
            tracing::warn!(error = %why, "cannot wait for a process");
            Exit::Unknown
        })));
    });
    exit
}
