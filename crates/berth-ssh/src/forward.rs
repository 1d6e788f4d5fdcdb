//! Sockets and ports that the `ControlMaster` forwards.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use berth_process::escape::escape_untrusted_lines;

use crate::exec::{ExecError, Script};
use crate::run::{RunError, run};
use crate::session::Session;
use crate::sys;

/// One end of a forward.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// A unix socket, absolute.
    Socket(PathBuf),
    /// A TCP address.
    Tcp(SocketAddr),
}

/// Which side listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The host (`-L`).
    FromHost,
    /// The guest (`-R`).
    FromGuest,
}

/// One forward.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Forward {
    /// Which side listens.
    pub direction: Direction,
    /// What the listening side listens on.
    pub listen: Endpoint,
    /// What the other side connects to.
    pub connect: Endpoint,
}

/// Why a forward could not be made or ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ForwardError {
    /// The paths cannot be told to `ssh`.
    #[error("cannot forward {forward}: a socket's path must be absolute text without \":\"")]
    Path {
        /// The forward.
        forward: String,
    },
    /// Somebody listens on the host's socket, or something else is in its place.
    #[error("cannot listen on {}", .path.display())]
    Socket {
        /// The host's socket.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Somebody listens on the guest's socket, or it could not be removed.
    #[error("cannot make room for the guest's socket: {why}")]
    GuestSocket {
        /// Why.
        why: String,
    },
    /// The master refused, or there is none.
    #[error("ssh does not {verb} {forward}: {why}")]
    Refused {
        /// `forward` or `cancel`.
        verb: &'static str,
        /// The forward.
        forward: String,
        /// What it said, escaped.
        why: String,
    },
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(path) => write!(f, "{}", path.display()),
            Self::Tcp(address) => write!(f, "{address}"),
        }
    }
}

impl fmt::Display for Forward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (from, to) = match self.direction {
            Direction::FromHost => ("host", "guest"),
            Direction::FromGuest => ("guest", "host"),
        };
        write!(f, "{} ({from}) to {} ({to})", self.listen, self.connect)
    }
}

impl Forward {
    fn arguments(&self) -> Result<[String; 2], ForwardError> {
        let flag = match self.direction {
            Direction::FromHost => "-L",
            Direction::FromGuest => "-R",
        };
        let ends = [&self.listen, &self.connect];
        let plain = ends.into_iter().all(|end| match end {
            Endpoint::Tcp(_) => true,
            Endpoint::Socket(path) => path
                .to_str()
                .is_some_and(|text| text.starts_with('/') && !text.contains([':', '\n'])),
        });
        if !plain {
            return Err(ForwardError::Path {
                forward: self.to_string(),
            });
        }
        Ok([flag.to_owned(), format!("{}:{}", self.listen, self.connect)])
    }

    /// The socket that listens on the host.
    fn host_socket(&self) -> Option<&Path> {
        match (self.direction, &self.listen) {
            (Direction::FromHost, Endpoint::Socket(path)) => Some(path),
            _ => None,
        }
    }

    /// The socket that listens in the guest.
    fn guest_socket(&self) -> Option<&str> {
        match (self.direction, &self.listen) {
            (Direction::FromGuest, Endpoint::Socket(path)) => path.to_str(),
            _ => None,
        }
    }
}

impl Session {
    /// Has the master forward. A socket that nobody listens on any more is removed first, on either side.
    ///
    /// There must be a master: this never starts one.
    pub async fn forward(&self, forward: &Forward, limit: Duration) -> Result<(), ForwardError> {
        let arguments = forward.arguments()?;
        if let Some(socket) = forward.host_socket() {
            make_room(socket)
                .await
                .map_err(|source| ForwardError::Socket {
                    path: socket.to_path_buf(),
                    source,
                })?;
        }
        if let Some(socket) = forward.guest_socket() {
            self.remove_in_guest(socket, limit).await?;
        }
        self.ask_master("forward", forward, &arguments, limit).await
    }

    /// Has the master end a forward, and removes the socket that listened.
    pub async fn cancel(&self, forward: &Forward, limit: Duration) -> Result<(), ForwardError> {
        let arguments = forward.arguments()?;
        let asked = self.ask_master("cancel", forward, &arguments, limit).await;
        if let Some(socket) = forward.host_socket() {
            // OpenSSH leaves the file behind.
            sys::remove_stale_socket(socket)
                .await
                .map_err(|source| ForwardError::Socket {
                    path: socket.to_path_buf(),
                    source,
                })?;
        }
        if let Some(socket) = forward.guest_socket() {
            self.remove_in_guest(socket, limit).await?;
        }
        asked
    }

    async fn ask_master(
        &self,
        verb: &'static str,
        forward: &Forward,
        arguments: &[String; 2],
        limit: Duration,
    ) -> Result<(), ForwardError> {
        let [flag, ends] = arguments;
        let command = self.control(&["-T", "-O", verb, flag, ends]);
        let why = match run(command, b"", limit).await {
            Ok(ran) if ran.exit.success() => return Ok(()),
            Ok(ran) => {
                format!(
                    "{}, {}",
                    ran.exit,
                    escape_untrusted_lines(ran.stderr.trim_ascii())
                )
            }
            Err(RunError::Spawn(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        Err(ForwardError::Refused {
            verb,
            forward: forward.to_string(),
            why,
        })
    }

    async fn remove_in_guest(&self, socket: &str, limit: Duration) -> Result<(), ForwardError> {
        let script = Script::new(REMOVE_STALE).with_env("SOCKET", socket);
        let why = match self.run(&script, limit).await {
            Ok(output) if output.success() => return Ok(()),
            Ok(output) => output.describe(),
            Err(ExecError::Spawn(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        Err(ForwardError::GuestSocket { why })
    }
}

/// Removes a socket of the guest that nobody listens on. What somebody uses stays: Lima removed sockets of its users so.
///
/// In `/proc/net/unix` (`proc_net(5)`) the fourth field of a listener is the flag `__SO_ACCEPTCON`, and the line ends with the path.
const REMOVE_STALE: &str = r#"#!/bin/sh
[ -e "$SOCKET" ] || [ -L "$SOCKET" ] || exit 0
if [ ! -S "$SOCKET" ] || [ -L "$SOCKET" ]; then
    echo "there is something else than a socket in its place" >&2
    exit 1
fi
if awk '{ at = length($0) - length(ENVIRON["SOCKET"]) }
    $4 == "00010000" && substr($0, at) == " " ENVIRON["SOCKET"] { found = 1 }
    END { exit !found }' /proc/net/unix; then
    echo "a program listens there" >&2
    exit 1
fi
exec rm -f -- "$SOCKET"
"#;

async fn make_room(socket: &Path) -> std::io::Result<()> {
    if let Some(parent) = socket.parent() {
        sys::make_private_dir(parent)?;
    }
    if sys::remove_stale_socket(socket).await? {
        return Err(std::io::Error::other("another process listens there"));
    }
    Ok(())
}
