//! Why a share is not mounted.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use berth_link::host::LinkError;
use berth_link::mount::TalkError;
use berth_process::spawn::SpawnError;

/// Why a share is not mounted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MountError {
    /// The host directory is not there, and was not made.
    #[error("the host directory {} does not exist: create it", .0.display())]
    Missing(PathBuf),
    /// The host directory cannot be made.
    #[error("cannot create the host directory {}", .directory.display())]
    Create {
        /// Which one.
        directory: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is no way into the guest.
    #[error("the guest is not connected")]
    NoGuest,
    /// The mount that this one lies in is not there.
    #[error("it lies within the mount {0:?}, which is not there")]
    Parent(String),
    /// The link refused.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The guest's agent does not know of mounts.
    #[error(
        "the guest agent is too old to mount anything: restart the instance, which brings it a new one"
    )]
    TooOld,
    /// The conversation about the mount ended.
    #[error("the connection about it to the guest agent ended")]
    Talk(#[source] TalkError),
    /// The guest says why not. Its words are capped and escaped.
    #[error("the guest says: {0}")]
    Guest(String),
    /// The guest says something that it should not say now.
    #[error("the guest agent does not keep to the protocol of mounts")]
    Protocol,
    /// It takes too long.
    #[error("it was not mounted after {} s", .0.as_secs())]
    TimedOut(Duration),
    /// The server of the files ended.
    #[error("the host's SFTP server ended: {0}")]
    Server(String),
    /// No `ssh`.
    #[error("cannot run ssh for it")]
    Spawn(#[from] SpawnError),
    /// The pipes to `ssh` failed.
    #[error("cannot talk to ssh")]
    Pipes(#[source] io::Error),
    /// sshfs in the guest, or `ssh`, ended.
    #[error("sshfs in the guest ended: {0}")]
    SshEnded(String),
    /// A path that cannot be said over SSH.
    #[error("its path has a line break, which needs berth's guest agent")]
    LineBreak,
}

impl MountError {
    /// Whether the guest, or a person, must do something before it can work: it is told at once. Everything else happens every day,
    /// and is told when it lasts.
    #[must_use]
    pub(crate) fn is_lasting(&self) -> bool {
        !matches!(
            self,
            Self::NoGuest | Self::Parent(_) | Self::Link(_) | Self::Talk(_)
        )
    }
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
