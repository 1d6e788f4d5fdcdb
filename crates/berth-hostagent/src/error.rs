//! What ends an agent before or after its time.

use std::path::{Path, PathBuf};

use berth_driver::error::DriverError;

/// A failure of the host agent. Messages say what failed and what to do; causes are sources.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AgentError {
    /// A file operation failed.
    #[error("cannot {verb} {}", .path.display())]
    Io {
        /// What was being done.
        verb: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A port of the host cannot be used.
    #[error(
        "cannot listen on {address} (from {key} in lima.yaml): free the port or choose another"
    )]
    Port {
        /// The address.
        address: std::net::SocketAddr,
        /// The key of lima.yaml that asks for it.
        key: &'static str,
        /// Why.
        source: std::io::Error,
    },
    /// Another agent serves this instance.
    #[error("instance {name:?} already has a host agent{}; stop it with `berth stop {name}`", of(*.pid))]
    AlreadyRunning {
        /// Instance.
        name: String,
        /// Pid of the other agent, where it says.
        pid: Option<u32>,
    },
    /// There is no such instance.
    #[error("there is no instance {name:?}: {} has no lima.yaml", .dir.display())]
    NoInstance {
        /// Instance.
        name: String,
        /// Where it would be.
        dir: PathBuf,
    },
    /// The VM of an earlier agent is still alive.
    #[error(
        "the VM of instance {name:?} is alive (pid {pid}) without a host agent; \
         stop it with `berth stop {name}`, then start again"
    )]
    Orphan {
        /// Instance.
        name: String,
        /// Pid of the VM.
        pid: u32,
    },
    /// The configuration cannot be used.
    #[error("{}", .0.join("\n"))]
    Config(Vec<String>),
    /// The driver refused or failed.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// A part of the agent could not be set up.
    #[error("cannot {what}")]
    SetUp {
        /// What was being done.
        what: &'static str,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The VM ended although nobody asked it to.
    #[error("the VM ended by itself: {0}")]
    VmDied(String),
    /// Something could not be taken down.
    #[error("the instance could not be stopped cleanly:\n{}", .0.join("\n"))]
    Stop(Vec<String>),
    /// Somebody asked to stop before the VM was started.
    #[error("stopped by {0} before the VM was started")]
    Interrupted(&'static str),
}

impl AgentError {
    /// A failed file operation.
    pub(crate) fn io(verb: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self::Io {
            verb,
            path: path.to_owned(),
            source,
        }
    }

    /// A failed part of the set-up; used as `.map_err(AgentError::set_up("make the SSH keys"))`.
    pub(crate) fn set_up<E>(what: &'static str) -> impl FnOnce(E) -> Self
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        move |source| Self::SetUp {
            what,
            source: source.into(),
        }
    }
}

fn of(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (pid {pid})"))
}

/// The messages of an error and its causes in one line.
#[must_use]
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}
