//! Who serves a share's files: SFTP on a pair of byte streams.

mod openssh;

use std::ffi::OsStr;
use std::path::PathBuf;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use crate::share::Share;

/// `sshfs.sftpDriver`, decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Server {
    /// Our own, confined to the shared directory.
    Builtin,
    /// OpenSSH's program, at this path.
    OpenSsh(PathBuf),
}

/// A driver that cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServerError {
    /// No such word.
    #[error("sshfs.sftpDriver: {0:?} is unknown: use \"builtin\" or \"openssh-sftp-server\"")]
    Unknown(String),
    /// Not installed.
    #[error(
        "sshfs.sftpDriver: there is no program `sftp-server` on this host: install OpenSSH's server, or use \"builtin\""
    )]
    NoOpenSsh,
}

impl Server {
    /// Decides by the word of `sshfs.sftpDriver`. `path` is the variable PATH.
    pub fn choose(word: &str, path: &OsStr) -> Result<Self, ServerError> {
        match word {
            "" | "auto" | "builtin" => Ok(Self::Builtin),
            "openssh-sftp-server" => openssh::find(path)
                .map(Self::OpenSsh)
                .ok_or(ServerError::NoOpenSsh),
            other => Err(ServerError::Unknown(other.to_owned())),
        }
    }

    /// What its user should know.
    #[must_use]
    pub fn warning(&self) -> Option<&'static str> {
        match self {
            Self::Builtin => None,
            Self::OpenSsh(_) => Some(
                "sftpDriver \"openssh-sftp-server\" is not confined to the shared directory: a hostile guest can use every file that you can; \"builtin\" is confined",
            ),
        }
    }

    /// The path that sshfs asks for.
    pub(crate) fn source(&self, share: &Share) -> String {
        match self {
            // There, paths begin at the shared directory.
            Self::Builtin => "/".to_owned(),
            Self::OpenSsh(_) => {
                let path = share.directory.to_string_lossy();
                if cfg!(windows) {
                    path.replace('\\', "/")
                } else {
                    path.into_owned()
                }
            }
        }
    }

    /// Serves until the client or the server ends, and tells why. Neither stream is shut down: a client must take an end for
    /// a failure.
    pub(crate) async fn serve<R, W>(
        &self,
        share: &Share,
        reader: R,
        writer: W,
        cancel: &CancellationToken,
    ) -> String
    where
        R: AsyncRead + Unpin + Send,
        W: AsyncWrite + Unpin + Send,
    {
        let serving = async {
            match self {
                Self::Builtin => builtin(share, reader, writer, cancel.clone()).await,
                Self::OpenSsh(program) => openssh::serve(program, share, reader, writer).await,
            }
        };
        cancel
            .run_until_cancelled(serving)
            .await
            .unwrap_or_else(|| "it was stopped".to_owned())
    }
}

/// Our own server.
async fn builtin<R, W>(share: &Share, reader: R, writer: W, cancel: CancellationToken) -> String
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let served = berth_sftp::Share {
        writable: share.writable,
        follow_symlinks: share.follow_symlinks,
        touch: share.touch,
        ..berth_sftp::Share::new(&share.directory)
    };
    match berth_sftp::serve(served, reader, writer, cancel).await {
        Ok(_) => "the client is gone".to_owned(),
        Err(why) => crate::error::chain(&why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_is_the_default_and_only_the_other_is_not_confined() {
        let nowhere = OsStr::new("");
        for word in ["", "auto", "builtin"] {
            let server = Server::choose(word, nowhere).unwrap();
            assert_eq!((&server, server.warning()), (&Server::Builtin, None));
            let share = crate::share::tests::share("/mnt");
            assert_eq!(server.source(&share), "/");
        }
        let other = Server::OpenSsh("/usr/lib/openssh/sftp-server".into());
        assert!(other.warning().unwrap().contains("not confined"));
    }

    #[test]
    fn only_known_drivers_are_chosen() {
        let why = Server::choose("samba", OsStr::new("")).unwrap_err();
        assert_eq!(why, ServerError::Unknown("samba".to_owned()));
        assert!(why.to_string().contains("\"builtin\""), "{why}");
    }
}
