//! The `ControlMaster`: one `ssh` that holds the login which all others share, as a child of ours.
//!
//! It runs without a terminal, a command or a life of its own (`ControlPersist=no`), and sends keep-alives, so that a dead
//! guest ends it. That it is ready it says itself: once the login has succeeded and the socket listens, OpenSSH runs its
//! `LocalCommand`, which writes one line to us. That is the same on every system, and needs no look at the file system.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use berth_process::escape::escape_untrusted_lines;
use berth_process::exit::{Exit, Signal};
use berth_process::ladder::{Rung, StillAlive, descend};
use berth_process::spawn::{Child, SpawnError};
use tokio::io::AsyncReadExt;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::held_key::HeldKey;
pub use crate::held_key::HeldKeyError;
use crate::login::{LoginError, Stage};
use crate::options::{OptionsError, quoted_path};
use crate::run::{RunError, run};
use crate::session::Session;
use crate::sys;

/// What the master writes when it is ready.
const READY: &str = "berth-master-ready";

/// How long a request to a master may take: it is answered by a process of this host.
pub(crate) const REQUEST: Duration = Duration::from_secs(3);

/// Waits of the rungs on which a master is stopped.
const EXIT_WAIT: Duration = Duration::from_secs(3);
const SIGNAL_WAIT: Duration = Duration::from_secs(2);

/// How much of its messages is kept in a file beside the socket.
const STDERR_MAX: u64 = 64 * 1024;

/// What the master does differently from the instance's other `ssh` processes. A guest that says nothing for 90 s is gone.
const OPTIONS: [(&str, &str); 6] = [
    ("ControlMaster", "yes"),
    ("ControlPersist", "no"),
    ("ServerAliveInterval", "30"),
    ("ServerAliveCountMax", "3"),
    ("PermitLocalCommand", "yes"),
    ("LocalCommand", "echo berth-master-ready"),
];

/// OpenSSH's own first choice costs 0.2 s of arithmetic. Nobody can listen between us and a guest on this machine, so there is
/// nothing to keep from a later quantum computer.
const KEY_EXCHANGE: (&str, &str) = ("KexAlgorithms", "^curve25519-sha256");

/// Why there is no master.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MasterError {
    /// This host's OpenSSH has no control sockets.
    #[error("OpenSSH on this host has no ControlMaster; commands use connections of their own")]
    Unsupported,
    /// sshd was not reached in time.
    #[error("cannot log in")]
    Login(#[from] LoginError),
    /// `ssh` ended before the login.
    #[error("ssh ended ({exit}): {stage}")]
    Ended {
        /// How.
        exit: Exit,
        /// How far it came.
        stage: Stage,
    },
    /// `ssh` did not log in in time.
    #[error("ssh did not log in within {} s{}", .limit.as_secs(), said(.stderr))]
    TimedOut {
        /// How long was waited.
        limit: Duration,
        /// Its last words, escaped.
        stderr: String,
    },
    /// Another master has the socket and keeps it.
    #[error("another ssh has {} and does not give it up: end it, or remove the file", .path.display())]
    SocketTaken {
        /// The socket.
        path: PathBuf,
    },
    /// The socket's path is blocked.
    #[error("cannot make {} free for the ssh master", .path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// `ssh` could not be started.
    #[error("cannot run ssh")]
    Spawn(#[from] SpawnError),
    /// The key cannot be held back.
    #[error("cannot begin a login early")]
    HeldKey(#[from] HeldKeyError),
    /// The directory's path cannot be told to `ssh`.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// The pipe to `ssh` failed.
    #[error("cannot talk to ssh")]
    Pipe(#[source] std::io::Error),
    /// It cannot be stopped.
    #[error("cannot stop the ssh master")]
    Stop(#[from] StillAlive),
}

fn said(stderr: &str) -> String {
    if stderr.is_empty() {
        String::new()
    } else {
        format!(": {stderr}")
    }
}

impl MasterError {
    /// Whether sshd answered and refused us: trying again will not help by itself.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        let stage = match self {
            Self::Login(error) => &error.stage,
            Self::Ended { stage, .. } => stage,
            _ => return false,
        };
        matches!(stage, Stage::KeyRefused(_) | Stage::WrongHostKey(_))
    }
}

/// A living `ControlMaster`. Dropping it kills the process; [`Master::stop`] ends it in order.
#[derive(Debug)]
pub struct Master {
    session: Session,
    socket: PathBuf,
    child: Child,
}

impl Master {
    /// Logs in, and returns once others can use the login. A socket that an earlier master left is taken over: a dead one is
    /// removed, a living one is asked to give it up (its sessions go on).
    pub async fn start(session: &Session, limit: Duration) -> Result<Self, MasterError> {
        Self::launch(session, &[], limit).await
    }

    /// The same, but begun before the guest lets anybody in: everything up to the signature with `key` is done at once, and the
    /// signature is given when `may_log_in` says so.
    ///
    /// Agent forwarding is not possible over such a master: `ssh` knows only one agent, and has ours.
    pub async fn start_early(
        session: &Session,
        key: &Path,
        limit: Duration,
        may_log_in: impl Future<Output = ()>,
    ) -> Result<Self, MasterError> {
        let Some(directory) = session.control_path().and_then(Path::parent) else {
            return Err(MasterError::Unsupported);
        };
        let held = HeldKey::new(session.tool(), key, directory).await?;
        let agent = quoted_path(held.socket())?;
        let options = [("IdentityAgent", agent.as_str())];
        tokio::select! {
            master = Self::launch(session, &options, limit) => master,
            why = held.serve(may_log_in) => Err(why.into()),
        }
    }

    async fn launch(
        session: &Session,
        more: &[(&str, &str)],
        limit: Duration,
    ) -> Result<Self, MasterError> {
        let Some(socket) = session.control_path().map(Path::to_path_buf) else {
            return Err(MasterError::Unsupported);
        };
        free_socket(session, &socket).await?;
        let mut options = [&OPTIONS, more].concat();
        if session.options().takes_preferences() {
            options.push(KEY_EXCHANGE);
        }
        let mut child = session
            .become_master(&options)
            .arg("-N")
            // OpenSSH runs LocalCommand with the user's shell, which may be anything.
            .env("SHELL", "/bin/sh")
            .stdout(Stdio::piped())
            .stderr_capped_file(socket.with_extension("stderr.log"), STDERR_MAX)
            .new_session()
            .kill_on_drop()
            .spawn()?;
        match timeout(limit, ready(&mut child)).await {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => {
                let exit = child.wait().await;
                let stage = Stage::of_failed_ssh("no banner known".to_owned(), &last_words(&child));
                return Err(MasterError::Ended { exit, stage });
            }
            Ok(Err(error)) => return Err(MasterError::Pipe(error)),
            Err(_) => {
                let stderr = child.stderr_tail();
                return Err(MasterError::TimedOut { limit, stderr });
            }
        }
        // OpenSSH goes on without a socket when somebody was faster.
        if child.stderr_tail().contains("disabling multiplexing") {
            return Err(MasterError::SocketTaken { path: socket });
        }
        Ok(Self {
            session: session.clone(),
            socket,
            child,
        })
    }

    /// Waits until it ends, and says how, with its last words. May be called and cancelled any number of times.
    pub async fn ended(&mut self) -> String {
        let exit = self.child.wait().await;
        let words = self.child.stderr_tail();
        if words.is_empty() {
            exit.describe()
        } else {
            format!("{exit}: {words}")
        }
    }

    /// Becomes `Some` when it has ended.
    #[must_use]
    pub fn exit(&self) -> watch::Receiver<Option<Exit>> {
        self.child.exit()
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.pid()
    }

    /// Ends it: by request, then by signal. Within seven seconds it is gone, or the error says so.
    pub async fn stop(self) -> Result<(), MasterError> {
        let (_never, hurry) = watch::channel(false);
        let (session, child) = (&self.session, &self.child);
        let signal =
            |signal| async move { child.signal(signal).map_err(|error| error.to_string()) };
        let rungs = vec![
            Rung::new("ssh -O exit", EXIT_WAIT, request(session, "exit")),
            Rung::new("SIGTERM", SIGNAL_WAIT, signal(Signal::Terminate)),
            Rung::new("SIGKILL", SIGNAL_WAIT, signal(Signal::Kill)),
        ];
        descend(self.child.exit(), hurry, rungs).await?;
        // A killed one cannot remove it.
        sys::remove_stale_socket(&self.socket)
            .await
            .map_err(|source| MasterError::Socket {
                path: self.socket.clone(),
                source,
            })?;
        Ok(())
    }
}

/// Reads until the ready line; `false` when the output ended without it.
async fn ready(child: &mut Child) -> std::io::Result<bool> {
    let mut seen = Vec::new();
    let Some(stdout) = child.take_stdout()? else {
        return Ok(false);
    };
    let mut stdout = stdout.take(4096);
    while stdout.read_buf(&mut seen).await? > 0 {
        if seen
            .split(|byte| *byte == b'\n')
            .any(|line| line == READY.as_bytes())
        {
            return Ok(true);
        }
    }
    Ok(false)
}

fn last_words(child: &Child) -> Vec<u8> {
    child.stderr_tail().into_bytes()
}

/// Makes room for a socket of our own.
async fn free_socket(session: &Session, socket: &Path) -> Result<(), MasterError> {
    let blocked = |source| MasterError::Socket {
        path: socket.to_path_buf(),
        source,
    };
    if !sys::remove_stale_socket(socket).await.map_err(blocked)? {
        return Ok(());
    }
    if let Err(why) = request(session, "stop").await {
        tracing::warn!(why, "another ssh master does not answer");
    }
    if sys::remove_stale_socket(socket).await.map_err(blocked)? {
        return Err(MasterError::SocketTaken {
            path: socket.to_path_buf(),
        });
    }
    Ok(())
}

/// Sends a request to the master that listens on the session's socket. The error is in words.
async fn request(session: &Session, what: &str) -> Result<(), String> {
    match run(session.control(&["-O", what]), b"", REQUEST).await {
        Ok(ran) if ran.exit.success() => Ok(()),
        Ok(ran) => Err(format!(
            "{}: {}",
            ran.exit,
            escape_untrusted_lines(ran.stderr.trim_ascii())
        )),
        Err(RunError::Spawn(error)) => Err(error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}
