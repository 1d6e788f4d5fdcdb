//! Why a flow or a listener is refused.

use std::io;
use std::time::Duration;

use berth_link::frame::ResetCode;
use rustix::io::Errno;

use crate::files::FileError;

/// Why a flow or a listener is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TunnelError {
    /// Not an address that is dialled.
    #[error("{0:?} is not an IP address with a port")]
    Address(String),
    /// Not a path that a socket can have.
    #[error("{0:?} is not an absolute path of less than 108 bytes")]
    Path(String),
    /// The host has not told, or the volume has not been read.
    #[error("the instance's user is not known yet")]
    NoUser,
    /// Nobody has made the user yet.
    #[error("there is no user {0:?} yet")]
    NoAccount(String),
    /// The accounts cannot be read.
    #[error(transparent)]
    Accounts(#[from] FileError),
    /// The kernel does not let the agent be the user.
    #[error("could not take on the rights of the user")]
    Rights(#[source] io::Error),
    /// There is no thread for it.
    #[error("could not start a thread")]
    Thread(#[source] io::Error),
    /// It took too long.
    #[error("could not {verb} {what} within {} s", limit.as_secs())]
    TimedOut {
        /// What was tried.
        verb: &'static str,
        /// With what.
        what: String,
        /// How long.
        limit: Duration,
    },
    /// The kernel refused.
    #[error("could not {verb} {what}")]
    Io {
        /// What was tried.
        verb: &'static str,
        /// With what.
        what: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The path of a listener is taken.
    #[error("{path:?} {why}")]
    Taken {
        /// The path.
        path: String,
        /// What it is.
        why: &'static str,
    },
    /// There is no session to which the connections of a listener could go.
    #[error("the session is over")]
    NoSession,
    /// The id of a listener is used.
    #[error("there is a listener {0} already")]
    Duplicate(u32),
    /// The id of a listener is not used.
    #[error("there is no listener {0}")]
    Unknown(u32),
    /// There are too many listeners.
    #[error("there are {0} listeners already")]
    TooMany(usize),
}

impl TunnelError {
    /// What the host is told of a refused flow.
    pub(crate) fn code(&self) -> ResetCode {
        match self {
            Self::Address(_) | Self::Path(_) => ResetCode::Unsupported,
            Self::NoUser | Self::NoAccount(_) => ResetCode::NotReady,
            Self::Accounts(_) | Self::Rights(_) | Self::Taken { .. } => ResetCode::Denied,
            Self::TimedOut { .. } => ResetCode::TimedOut,
            Self::Thread(_) => ResetCode::TooMany,
            Self::Io { source, .. } => code_of(source),
            Self::NoSession | Self::Duplicate(_) | Self::Unknown(_) | Self::TooMany(_) => {
                ResetCode::Cancelled
            }
        }
    }

    pub(super) fn io(verb: &'static str, what: &str) -> impl FnOnce(io::Error) -> Self {
        let what = what.to_owned();
        move |source| Self::Io { verb, what, source }
    }
}

/// What a failed connect means.
fn code_of(why: &io::Error) -> ResetCode {
    match Errno::from_io_error(why) {
        // Nobody made the socket, or nobody listens on it any more.
        Some(Errno::CONNREFUSED | Errno::NOENT | Errno::NOTDIR) => ResetCode::Refused,
        // The server has accepted, and thought better of it.
        Some(Errno::CONNRESET) => ResetCode::Cancelled,
        Some(Errno::TIMEDOUT) => ResetCode::TimedOut,
        Some(Errno::ACCESS | Errno::PERM) => ResetCode::Denied,
        // A socket for datagrams.
        Some(Errno::PROTOTYPE) => ResetCode::Unsupported,
        Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => ResetCode::TooMany,
        _ => ResetCode::Unreachable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_told_what_the_kernel_said() {
        for (errno, code) in [
            (Errno::CONNREFUSED, ResetCode::Refused),
            (Errno::NOENT, ResetCode::Refused),
            (Errno::HOSTUNREACH, ResetCode::Unreachable),
            (Errno::NETUNREACH, ResetCode::Unreachable),
            (Errno::ADDRNOTAVAIL, ResetCode::Unreachable),
            (Errno::CONNRESET, ResetCode::Cancelled),
            (Errno::TIMEDOUT, ResetCode::TimedOut),
            (Errno::ACCESS, ResetCode::Denied),
            (Errno::MFILE, ResetCode::TooMany),
        ] {
            let error = TunnelError::io("connect to", "[::1]:80")(errno.into());
            assert_eq!(error.code(), code, "{errno:?}");
        }
    }
}
