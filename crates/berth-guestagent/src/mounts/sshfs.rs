//! The process that makes SFTP a file system.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};

use berth_link::mount::MountOrder;
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;
use tokio::process::{Child, ChildStderr, Command};

use super::error::MountError;
use crate::accounts::Owner;
use crate::programs::PATH;
use crate::sys;

/// Most that is kept of its messages, in bytes; the first ones say why.
const MOST_WORDS: usize = 2048;

/// sshfs, in the foreground. Dropping it kills it, before its connection ends: it would take an end for a reason to unmount.
#[derive(Debug)]
pub(super) struct Sshfs {
    child: Child,
    stderr: Option<ChildStderr>,
    words: Vec<u8>,
}

impl Sshfs {
    /// Starts it, and gives the other end of its connection.
    pub(super) fn start(
        program: &Path,
        order: &MountOrder,
        place: &Path,
        owner: Owner,
    ) -> io::Result<(Self, UnixStream)> {
        let (ours, theirs) = StdUnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let theirs = OwnedFd::from(theirs);
        let mut command = Command::new(program);
        command
            .args(arguments(order, place))
            .env_clear()
            .env("PATH", PATH)
            .current_dir("/")
            .process_group(0)
            .uid(owner.uid)
            .gid(owner.gid)
            .stdin(theirs.try_clone()?)
            .stdout(theirs)
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        sys::die_with_parent(&mut command);
        let mut child = command.spawn()?;
        if let Some(id) = child.id() {
            // The agent's protection from the OOM killer is not for what it starts. Nothing depends on this.
            let _ = fs::write(format!("/proc/{id}/oom_score_adj"), "0");
        }
        let stderr = child.stderr.take();
        let sshfs = Self {
            child,
            stderr,
            words: Vec::new(),
        };
        Ok((sshfs, UnixStream::from_std(ours)?))
    }

    /// Waits for its end, and tells of it. May be cancelled and called again.
    pub(super) async fn ended(&mut self) -> MountError {
        let status = loop {
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
                status = self.child.wait() => break status,
            }
        };
        MountError::Ended {
            how: status.map_or_else(|why| why.to_string(), how_it_ended),
            said: String::from_utf8_lossy(&self.words).into_owned(),
        }
    }

    /// Ends it without its knowing, so that its mount stays, and answers nothing but errors.
    pub(super) async fn kill(mut self) {
        let _ = self.child.kill().await;
    }
}

/// Where the program is.
pub(super) fn find(path: impl Fn(&str) -> PathBuf) -> Option<PathBuf> {
    PATH.split(':')
        .map(|directory| path(directory).join("sshfs"))
        .find(|program| program.exists())
}

/// As Lima calls it, but in the foreground. `slave` is the old name of `passive`, which newer versions know, too: the connection
/// is its standard input and output.
fn arguments(order: &MountOrder, place: &Path) -> Vec<PathBuf> {
    let mut options = vec!["slave", "allow_other"];
    // Where files are to be touched, only programs must not write: that is for the mount to say, not for the file system.
    if !order.writable && !order.file_events {
        options.push("ro");
    }
    if !order.cache {
        options.push("cache=no");
    }
    if order.follow_symlinks {
        options.push("follow_symlinks");
    }
    if order.map_owner {
        options.push("idmap=user");
    }
    [
        "-f".into(),
        "-o".into(),
        options.join(",").into(),
        format!(":{}", order.source).into(),
        place.to_path_buf(),
    ]
    .into()
}

fn how_it_ended(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with code {code}"),
        (None, signal) => format!("was killed by signal {}", signal.unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order() -> MountOrder {
        MountOrder {
            point: "/mnt/x".to_owned(),
            source: "/srv/a b,c".to_owned(),
            writable: true,
            cache: true,
            follow_symlinks: false,
            map_owner: false,
            file_events: false,
        }
    }

    fn words(order: &MountOrder) -> String {
        let arguments = arguments(order, Path::new("/mnt/x"));
        let words: Vec<_> = arguments
            .iter()
            .map(|word| word.to_str().unwrap())
            .collect();
        words.join(" ")
    }

    #[test]
    fn options_follow_the_order() {
        assert_eq!(
            words(&order()),
            "-f -o slave,allow_other :/srv/a b,c /mnt/x"
        );
        let other = MountOrder {
            writable: false,
            cache: false,
            follow_symlinks: true,
            map_owner: true,
            ..order()
        };
        assert_eq!(
            words(&other),
            "-f -o slave,allow_other,ro,cache=no,follow_symlinks,idmap=user :/srv/a b,c /mnt/x"
        );
    }

    #[tokio::test(flavor = "current_thread")]
    async fn its_last_words_say_why_it_ended() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("sshfs");
        fs::write(&program, "#!/bin/sh\necho 'no such option' >&2\nexit 3\n").unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&program, mode).unwrap();
        let owner = Owner {
            uid: rustix::process::geteuid().as_raw(),
            gid: rustix::process::getegid().as_raw(),
        };
        let (mut sshfs, _ours) =
            Sshfs::start(&program, &order(), Path::new("/mnt/x"), owner).unwrap();
        assert_eq!(
            sshfs.ended().await.to_string(),
            "sshfs exited with code 3: no such option"
        );
    }
}
