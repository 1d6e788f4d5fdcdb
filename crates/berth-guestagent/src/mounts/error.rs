//! Why a directory of the host is not mounted.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::files::FileError;
use crate::watch::WaitError;

/// Why a directory of the host is not mounted. Goes to the host as text.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MountError {
    /// Another mount of this session has the place.
    #[error("it is ordered twice")]
    Twice,
    /// Whatever is mounted is being unmounted.
    #[error("the guest agent is ending")]
    Ending,
    /// The host has not told, or the volume has not been read.
    #[error("the instance's user is not known yet")]
    NoUser,
    /// Nobody has made the user yet.
    #[error("there is no user {0:?} in the guest")]
    NoAccount(String),
    /// The boot step that prepares it has failed.
    #[error(
        "the guest did not get ready for sshfs: see the boot steps \"packages\" and \"fuse\" (`berth status`)"
    )]
    NotPrepared,
    /// Nobody installed it.
    #[error("there is no program `sshfs` in the guest: install it there (package `sshfs`)")]
    NoSshfs,
    /// The boot takes too long.
    #[error(transparent)]
    Wait(#[from] WaitError),
    /// The accounts or the table cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The kernel refused.
    #[error("could not {verb} {}", .path.display())]
    Io {
        /// What was tried.
        verb: &'static str,
        /// With what.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Something that is not ours.
    #[error("a file system of type {0:?} is mounted there already: unmount it in the guest")]
    Occupied(String),
    /// It took too long.
    #[error("waited {} s in vain to {what}", limit.as_secs())]
    TimedOut {
        /// What was to be done.
        what: &'static str,
        /// How long.
        limit: Duration,
    },
    /// The process could not be started.
    #[error("could not start sshfs")]
    Start(#[source] io::Error),
    /// The process ended.
    #[error("sshfs {how}{}", and_said(.said))]
    Ended {
        /// Exit code or signal.
        how: String,
        /// Its last words.
        said: String,
    },
    /// The table has it no more.
    #[error("it was unmounted in the guest")]
    Unmounted,
    /// What is mounted there is something else.
    #[error("what is mounted there is no sshfs")]
    Foreign,
    /// The host ended the data.
    #[error("the connection to the host's files was lost")]
    Lost,
}

fn and_said(words: &str) -> String {
    match words.trim() {
        "" => String::new(),
        words => format!(": {words}"),
    }
}
