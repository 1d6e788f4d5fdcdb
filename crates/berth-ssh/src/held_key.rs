//! A key whose signatures can be put off, so that a login is all but done before the guest lets people in.
//!
//! `ssh` is given an agent (`IdentityAgent`) that has the key. That agent is OpenSSH's own `ssh-agent`, a child for as long as the
//! login takes; between it and `ssh` stands this, which passes every message on at once but for requests to sign.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::process::Stdio;
use std::time::Duration;

use berth_process::escape::escape_untrusted_lines;
use berth_process::spawn::{Child, SpawnError, Spec};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::run::{RunError, run};
use crate::sys::{Listener, connect};
use crate::tool::{SshTool, beside};

/// Sockets beside the `ControlMaster`'s: the one that `ssh` is told, and the real agent's.
const HELD: &str = "ssh-key.sock";
const AGENT: &str = "ssh-agent.sock";

/// How long the agent may take to start, and to take the key.
const LIMIT: Duration = Duration::from_secs(10);

/// After so many seconds the agent forgets the key by itself, should nobody be left to end it.
const KEY_LIFE: &str = "600";

/// `SSH_AGENTC_SIGN_REQUEST` of the agent protocol.
const SIGN_REQUEST: u8 = 13;

/// Longest message of the agent protocol that OpenSSH takes, in bytes.
const LONGEST: u32 = 256 * 1024;

/// Why a key cannot be held back.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HeldKeyError {
    /// It is not where `ssh` is.
    #[error("there is no {program} beside {}", .ssh.display())]
    NoProgram {
        /// Its name.
        program: &'static str,
        /// The `ssh` that is used.
        ssh: PathBuf,
    },
    /// `ssh-agent` could not be started.
    #[error("cannot run ssh-agent")]
    Spawn(#[from] SpawnError),
    /// `ssh-agent` did not begin to listen.
    #[error("ssh-agent does not answer")]
    Silent,
    /// `ssh-add` failed.
    #[error("ssh-agent does not take the key: {why}")]
    Refused {
        /// Its words, escaped.
        why: String,
    },
    /// A socket failed.
    #[error("cannot {verb} {}", .path.display())]
    Socket {
        /// What was tried.
        verb: &'static str,
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The agent with the key, and the socket in front of it. Dropping it ends both.
#[derive(Debug)]
pub(crate) struct HeldKey {
    listener: Listener,
    agent_socket: PathBuf,
    _agent: Child,
}

impl HeldKey {
    /// Starts an agent that has the private key in `key`. Its sockets are made in `directory`, which is the caller's alone.
    pub(crate) async fn new(
        ssh: &SshTool,
        key: &Path,
        directory: &Path,
    ) -> Result<Self, HeldKeyError> {
        let find = |program| {
            beside(ssh, program).ok_or_else(|| HeldKeyError::NoProgram {
                program,
                ssh: ssh.program().to_path_buf(),
            })
        };
        let (agent, add) = (find("ssh-agent")?, find("ssh-add")?);
        let held = directory.join(HELD);
        let listener =
            Listener::bind(&held).map_err(|source| socket_error("listen on", &held, source))?;
        let agent_socket = directory.join(AGENT);
        remove(&agent_socket)?;
        let child = start_agent(&agent, &agent_socket).await?;
        // From here on its socket is ours to remove.
        let held = Self {
            listener,
            agent_socket,
            _agent: child,
        };
        add_key(&add, key, &held.agent_socket).await?;
        Ok(held)
    }

    /// The socket to tell `ssh`.
    pub(crate) fn socket(&self) -> &Path {
        self.listener.path()
    }

    /// Serves `ssh`; signatures wait for `release`. Returns only when no more `ssh` can be served.
    pub(crate) async fn serve(&self, release: impl Future<Output = ()>) -> HeldKeyError {
        let mut release = Some(pin!(release));
        loop {
            let client = match self.listener.accept().await {
                Ok(client) => client,
                Err(why) => return socket_error("accept on", self.socket(), why),
            };
            let agent = match connect(&self.agent_socket).await {
                Ok(agent) => agent,
                Err(why) => return socket_error("connect to", &self.agent_socket, why),
            };
            if let Err(why) = relay(client, agent, &mut release).await {
                tracing::debug!(error = %why, "ssh and its agent do not understand each other");
            }
        }
    }
}

impl Drop for HeldKey {
    fn drop(&mut self) {
        // A killed agent cannot remove it.
        let _ = std::fs::remove_file(&self.agent_socket);
    }
}

fn socket_error(verb: &'static str, path: &Path, source: io::Error) -> HeldKeyError {
    HeldKeyError::Socket {
        verb,
        path: path.to_path_buf(),
        source,
    }
}

fn remove(socket: &Path) -> Result<(), HeldKeyError> {
    match std::fs::remove_file(socket) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => {
            Err(socket_error("remove", socket, why))
        }
        _ => Ok(()),
    }
}

/// It says where it listens once it does.
async fn start_agent(program: &Path, socket: &Path) -> Result<Child, HeldKeyError> {
    let mut agent = Spec::new(program)
        .args(["-D", "-t", KEY_LIFE, "-a"])
        .arg(socket)
        .stdout(Stdio::piped())
        .new_session()
        .kill_on_drop()
        .spawn()?;
    let Ok(Some(mut stdout)) = agent.take_stdout() else {
        return Err(HeldKeyError::Silent);
    };
    match timeout(LIMIT, stdout.read_u8()).await {
        Ok(Ok(_)) => Ok(agent),
        _ => Err(HeldKeyError::Silent),
    }
}

async fn add_key(program: &Path, key: &Path, socket: &Path) -> Result<(), HeldKeyError> {
    let add = Spec::new(program)
        .arg("-q")
        .arg(key)
        .env("SSH_AUTH_SOCK", socket);
    let refused = |why: String| Err(HeldKeyError::Refused { why });
    match run(add, b"", LIMIT).await {
        Ok(ran) if ran.exit.success() => Ok(()),
        Ok(ran) => refused(escape_untrusted_lines(ran.stderr.trim_ascii())),
        Err(RunError::Spawn(why)) => Err(why.into()),
        Err(why) => refused(why.to_string()),
    }
}

/// Passes requests to the agent and its answers back, one after the other, until `ssh` hangs up. The first signature waits for
/// `release`, which is taken then.
async fn relay<F: Future<Output = ()>>(
    mut client: impl AsyncRead + AsyncWrite + Unpin,
    mut agent: impl AsyncRead + AsyncWrite + Unpin,
    release: &mut Option<Pin<&mut F>>,
) -> io::Result<()> {
    while let Some(request) = read_message(&mut client).await? {
        if request.first() == Some(&SIGN_REQUEST)
            && let Some(release) = release.take()
        {
            release.await;
        }
        write_message(&mut agent, &request).await?;
        let answer = read_message(&mut agent).await?;
        write_message(&mut client, &answer.ok_or(io::ErrorKind::UnexpectedEof)?).await?;
    }
    Ok(())
}

/// A message without its length; `None` at the end.
async fn read_message(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
    let length = match stream.read_u32().await {
        Ok(length @ 1..=LONGEST) => length,
        Ok(length) => return Err(io::Error::other(format!("a message of {length} bytes"))),
        Err(why) if why.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(why) => return Err(why),
    };
    let mut message = vec![0; length as usize];
    stream.read_exact(&mut message).await?;
    Ok(Some(message))
}

async fn write_message(stream: &mut (impl AsyncWrite + Unpin), message: &[u8]) -> io::Result<()> {
    let length = u32::try_from(message.len()).map_err(io::Error::other)?;
    stream
        .write_all(&[&length.to_be_bytes(), message].concat())
        .await
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;
    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn only_signatures_wait() {
        let (mut ssh, client) = duplex(64);
        let (mut agent, server) = duplex(64);
        let release = Notify::new();
        let mut notified = Some(pin!(release.notified()));
        let relayed = relay(client, server, &mut notified);
        let talk = async {
            write_message(&mut ssh, b"\x0b").await.unwrap();
            assert_eq!(read_message(&mut agent).await.unwrap().unwrap(), b"\x0b");
            write_message(&mut agent, b"\x0ckeys").await.unwrap();
            assert_eq!(read_message(&mut ssh).await.unwrap().unwrap(), b"\x0ckeys");

            write_message(&mut ssh, b"\x0dsign this").await.unwrap();
            {
                let mut asked = pin!(read_message(&mut agent));
                let early = timeout(Duration::from_millis(50), &mut asked).await;
                assert!(early.is_err(), "it was not held back");
                release.notify_one();
                assert_eq!(asked.await.unwrap().unwrap(), b"\x0dsign this");
            }
            write_message(&mut agent, b"\x0esignature").await.unwrap();
            let signature = read_message(&mut ssh).await.unwrap().unwrap();
            assert_eq!(signature, b"\x0esignature");
            drop(ssh);
        };
        let (relayed, ()) = tokio::join!(relayed, talk);
        relayed.unwrap();
    }

    #[tokio::test]
    async fn a_message_of_impossible_length_is_refused() {
        for length in [0, LONGEST + 1, u32::MAX] {
            let why = read_message(&mut &length.to_be_bytes()[..])
                .await
                .unwrap_err();
            assert_eq!(why.to_string(), format!("a message of {length} bytes"));
        }
        assert!(read_message(&mut &[0_u8, 0, 0, 9, 1][..]).await.is_err());
    }
}
