//! Over SSH, for guests without our agent: `ssh … sshfs`, with its standard streams led to the server, as Lima does it.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use berth_process::escape::escape_untrusted_lines;
use berth_process::exit::Exit;
use berth_process::spawn::Child;
use berth_ssh::exec::{Output, Script};
use berth_ssh::session::{Session, Via};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::process::ChildStderr;
use tokio::sync::watch;

use super::{Live, Serving, Tasks, Way};
use crate::error::MountError;
use crate::server::Server;
use crate::share::Share;

/// From the login to the first answer of the mount.
const MOUNT_LIMIT: Duration = Duration::from_secs(60);
const UNMOUNT_LIMIT: Duration = Duration::from_secs(8);
/// Most that is kept of what sshfs says.
const MOST_WORDS: usize = 2048;

/// What runs in the guest, in front of sshfs's own arguments. Values come as lines on standard input, where no shell reads them
/// in its own way; what follows them there is SFTP. No single quotes.
const MOUNT: &str = concat!(
    "while IFS= read -r line && test -n \"$line\"; do export \"$line\"; done; ",
    // A dead mount, or one of an earlier host agent.
    "case \"$(stat -f -c %t \"$POINT\" 2>/dev/null)\" in 65735546|\"\") ",
    "fusermount3 -u -z \"$POINT\" || fusermount -u -z \"$POINT\" || sudo -n umount -l \"$POINT\";; esac >/dev/null 2>&1; ",
    "test -d \"$POINT\" || mkdir -p \"$POINT\" 2>/dev/null || sudo -n mkdir -p \"$POINT\" || exit 1; ",
    "test -w \"$POINT\" || sudo -n chown \"$(id -u)\" \"$POINT\"; ",
    "exec sshfs -f -o \"$OPTIONS\" \":$SOURCE\" \"$POINT\"",
);

/// Whether it is mounted. Nothing tells a shell when that becomes true.
const IS_MOUNTED: &str = "#!/bin/sh
while test \"$(stat -f -c %t \"$POINT\" 2>/dev/null)\" != 65735546; do
  sleep 0.1 2>/dev/null || sleep 1
done
";

const UNMOUNT: &str = "#!/bin/sh
sync -f \"$POINT\" 2>/dev/null || sync
fusermount3 -u \"$POINT\" 2>/dev/null || fusermount -u \"$POINT\" 2>/dev/null || sudo -n umount \"$POINT\" 2>/dev/null && exit 0
fusermount3 -u -z \"$POINT\" 2>/dev/null || fusermount -u -z \"$POINT\" 2>/dev/null || sudo -n umount -l \"$POINT\" && exit 3
";

/// What [`UNMOUNT`] exits with when programs have files open.
const BUSY: i32 = 3;

/// Sessions of the ControlMaster.
#[derive(Debug)]
pub struct SshWay {
    session: Arc<Session>,
    sessions: watch::Receiver<Option<u64>>,
    tasks: Tasks,
}

impl SshWay {
    /// Uses the instance's SSH. `sessions`: the number of the ControlMaster that is up.
    #[must_use]
    pub fn new(
        session: Arc<Session>,
        sessions: watch::Receiver<Option<u64>>,
        tasks: Tasks,
    ) -> Self {
        Self {
            session,
            sessions,
            tasks,
        }
    }
}

#[async_trait]
impl Way for SshWay {
    fn sessions(&self) -> watch::Receiver<Option<u64>> {
        self.sessions.clone()
    }

    async fn mount(&self, share: &Share, server: &Server) -> Result<Box<dyn Live>, MountError> {
        let values = values(share, &server.source(share))?;
        let mut child = self
            .session
            .command(Via::Master)
            .arg("--")
            .arg(format!("/bin/sh -c '{MOUNT}'"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .new_group()
            .kill_on_drop()
            .spawn()?;
        let pipes = (child.take_stdin(), child.take_stdout(), child.take_stderr());
        let (Ok(Some(mut stdin)), Ok(Some(stdout)), Ok(Some(stderr))) = pipes else {
            return Err(MountError::Pipes(std::io::ErrorKind::BrokenPipe.into()));
        };
        let said = stdin.write_all(values.as_bytes()).await;
        said.map_err(MountError::Pipes)?;
        let mut mount = SshMount {
            serving: Serving::start(server, share, (stdout, stdin), &self.tasks),
            sshfs: Sshfs {
                child,
                stderr: Some(stderr),
                words: Vec::new(),
            },
            session: Arc::clone(&self.session),
            point: share.point.clone(),
        };
        let check = script(IS_MOUNTED, &share.point);
        tokio::select! {
            ended = mount.ended() => Err(ended),
            checked = self.session.run(&check, MOUNT_LIMIT) => match checked {
                Ok(output) if output.success() => Ok(Box::new(mount)),
                Ok(output) => Err(MountError::SshEnded(output.describe())),
                Err(_) => Err(MountError::TimedOut(MOUNT_LIMIT)),
            },
        }
    }
}

/// The lines in front of SFTP.
fn values(share: &Share, source: &str) -> Result<String, MountError> {
    let mut options = String::from("slave,allow_other");
    for (is_set, option) in [
        (!share.writable, ",ro"),
        (!share.cache, ",cache=no"),
        (share.follow_symlinks, ",follow_symlinks"),
        (share.map_owner, ",idmap=user"),
    ] {
        if is_set {
            options.push_str(option);
        }
    }
    if share.point.contains('\n') || source.contains('\n') {
        return Err(MountError::LineBreak);
    }
    let point = &share.point;
    Ok(format!(
        "LC_ALL=C\nOPTIONS={options}\nSOURCE={source}\nPOINT={point}\n\n"
    ))
}

fn script(text: &str, point: &str) -> Script {
    Script::new(text)
        .with_env("LC_ALL", "C")
        .with_env("POINT", point)
}

/// A mount that an `ssh` of ours holds.
struct SshMount {
    serving: Serving,
    sshfs: Sshfs,
    session: Arc<Session>,
    point: String,
}

/// The `ssh` whose command is sshfs.
struct Sshfs {
    child: Child,
    stderr: Option<ChildStderr>,
    words: Vec<u8>,
}

impl Sshfs {
    async fn ended(&mut self) -> MountError {
        let exit = loop {
            let mut bytes = [0; 512];
            let reading = async {
                match &mut self.stderr {
                    Some(stderr) => stderr.read(&mut bytes).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                read = reading => match read {
                    Ok(count @ 1..) => {
                        let room = MOST_WORDS.saturating_sub(self.words.len());
                        self.words.extend(&bytes[..count.min(room)]);
                    }
                    _ => self.stderr = None,
                },
                exit = self.child.wait() => break exit,
            }
        };
        let words = escape_untrusted_lines(self.words.trim_ascii());
        let how = exit.describe();
        MountError::SshEnded(if words.is_empty() {
            how
        } else {
            format!("{how}: {words}")
        })
    }
}

#[async_trait]
impl Live for SshMount {
    async fn ended(&mut self) -> MountError {
        tokio::select! {
            biased;
            ended = self.sshfs.ended() => ended,
            ended = self.serving.ended() => {
                // The server sees the end first, and ssh says why.
                let last_words = Duration::from_secs(2);
                tokio::time::timeout(last_words, self.sshfs.ended()).await.unwrap_or(ended)
            }
        }
    }

    async fn unmount(self: Box<Self>) -> Result<(), MountError> {
        let output = self
            .session
            .run(&script(UNMOUNT, &self.point), UNMOUNT_LIMIT)
            .await
            .map_err(|_| MountError::TimedOut(UNMOUNT_LIMIT))?;
        match output {
            Output { exit, .. } if exit.success() || exit == Exit::Status(BUSY) => Ok(()),
            output => Err(MountError::SshEnded(output.describe())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::share::tests::share;

    #[test]
    fn values_go_as_lines_whatever_they_hold() {
        let mut share = share("/mnt/a b'$(x)\"\\");
        assert_eq!(
            values(&share, "/").unwrap(),
            "LC_ALL=C\nOPTIONS=slave,allow_other\nSOURCE=/\nPOINT=/mnt/a b'$(x)\"\\\n\n"
        );
        (share.writable, share.cache) = (false, false);
        (share.follow_symlinks, share.map_owner) = (true, true);
        let all = values(&share, "/").unwrap();
        assert!(
            all.contains("OPTIONS=slave,allow_other,ro,cache=no,follow_symlinks,idmap=user\n"),
            "{all}"
        );
        share.point.push('\n');
        assert!(matches!(values(&share, "/"), Err(MountError::LineBreak)));
    }

    #[test]
    fn the_command_survives_any_login_shell() {
        assert!(!MOUNT.contains(['\'', '\n', '\\', '!']));
    }
}
