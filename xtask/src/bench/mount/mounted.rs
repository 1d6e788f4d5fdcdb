//! A server behind an `sshfs`, joined by a pair of sockets.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::work::Ground;
use crate::program::Program;

/// How long a mount may take to appear, and to go.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server, and how it is started on a directory.
#[derive(Debug)]
pub(super) struct Server {
    name: &'static str,
    program: PathBuf,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Confined to the directory, which is its root.
    Berth { as_in_agent: bool },
    /// Sees the whole machine.
    OpenSsh,
}

impl Server {
    /// Ours; either with a thread of its own, or as it runs in the host agent.
    pub(super) fn berth(name: &'static str, program: &Path, as_in_agent: bool) -> Self {
        Self {
            name,
            program: program.to_path_buf(),
            kind: Kind::Berth { as_in_agent },
        }
    }

    /// OpenSSH's.
    pub(super) fn openssh(name: &'static str, program: &Path) -> Self {
        Self {
            name,
            program: program.to_path_buf(),
            kind: Kind::OpenSsh,
        }
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    fn command(&self, share: &Path) -> Command {
        let mut command = Command::new(&self.program);
        match self.kind {
            Kind::Berth { as_in_agent } => {
                if as_in_agent {
                    command.arg("-N");
                }
                command.arg(share);
            }
            Kind::OpenSsh => {
                command.args(["-e", "-d"]).arg(share);
            }
        }
        // When the mount goes, the stream breaks, and it says so.
        command.stderr(Stdio::null());
        command
    }

    /// How the directory is called in the server.
    fn root(&self, share: &Path) -> PathBuf {
        match self.kind {
            Kind::Berth { .. } => PathBuf::from("/"),
            Kind::OpenSsh => share.to_path_buf(),
        }
    }
}

/// A mount.
#[derive(Debug)]
pub(super) struct Mounted {
    path: PathBuf,
    server: Child,
    sshfs: Child,
}

impl Mounted {
    /// Mounts the shared directory.
    pub(super) fn new(server: &Server, ground: &Ground, options: &str) -> Result<Self> {
        let path = ground.mount_point();
        let (one, other) = UnixStream::pair().context("make a pair of sockets")?;
        let (share, comma) = (ground.share(), if options.is_empty() { "" } else { "," });
        let remote = format!(":{}", server.root(&share).display());
        let (one_in, one_out) = ends(one)?;
        let (other_in, other_out) = ends(other)?;
        let serving = server
            .command(&share)
            .stdin(one_in)
            .stdout(one_out)
            .spawn()
            .with_context(|| format!("start {}", server.program.display()))?;
        let sshfs = Command::new("sshfs")
            .arg(remote)
            .arg(&path)
            .args(["-f", "-o", &format!("passive{comma}{options}")])
            .stdin(other_in)
            .stdout(other_out)
            .spawn()
            .context("start sshfs")?;
        let mut mounted = Self {
            path,
            server: serving,
            sshfs,
        };
        mounted.until("appear", |mounted| Ok(mounted.is_there()))?;
        Ok(mounted)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Unmounts, and waits until both programs are gone.
    pub(super) fn end(mut self) -> Result<()> {
        Program::new("fusermount3")
            .arg("-u")
            .arg(&self.path)
            .run()?;
        self.until("go", |mounted| {
            let gone = |child: &mut Child| child.try_wait().context("wait for a program");
            Ok(gone(&mut mounted.sshfs)?.is_some() && gone(&mut mounted.server)?.is_some())
        })
    }

    fn is_there(&self) -> bool {
        let above = self.path.parent().and_then(|above| above.metadata().ok());
        let device = |metadata: std::fs::Metadata| std::os::unix::fs::MetadataExt::dev(&metadata);
        let here = self.path.metadata().ok().map(device);
        here.is_some() && here != above.map(device)
    }

    fn until(&mut self, what: &str, done: impl Fn(&mut Self) -> Result<bool>) -> Result<()> {
        let begin = Instant::now();
        while !done(self)? {
            if begin.elapsed() > PATIENCE {
                bail!(
                    "the mount {} did not {what} in {PATIENCE:?}",
                    self.path.display()
                );
            }
            sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // After a failure. Both have ended otherwise.
        for child in [&mut self.sshfs, &mut self.server] {
            if matches!(child.try_wait(), Ok(None)) {
                Program::new("fusermount3")
                    .arg("-uz")
                    .arg(&self.path)
                    .succeeds();
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

fn ends(socket: UnixStream) -> Result<(Stdio, Stdio)> {
    let input = socket.try_clone().context("copy a socket")?;
    Ok((OwnedFd::from(input).into(), OwnedFd::from(socket).into()))
}
