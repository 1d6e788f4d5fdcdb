//! When a guest's sshd accepts a login, found out from outside as fast as can be.

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _};
use std::net::{Ipv4Addr, SocketAddrV4, TcpStream};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Pause after a connection that was refused.
const RETRY: Duration = Duration::from_millis(5);
/// A connection that says nothing for so long is joined by another: it may have been made before the guest had a network.
const JOIN: Duration = Duration::from_millis(100);
/// When a silent connection is given up.
const SILENCE: Duration = Duration::from_secs(2);

/// A guest's sshd as seen from the host, and who logs in.
#[derive(Debug)]
pub(super) struct Door {
    /// Port on 127.0.0.1 that leads to the guest's port 22.
    pub(super) port: u16,
    /// User in the guest.
    pub(super) user: String,
    /// Private key of that user.
    pub(super) key: PathBuf,
}

/// When what was seen.
#[derive(Debug, Clone, Copy)]
pub(super) struct Opened {
    /// sshd has said who it is.
    pub(super) banner: Instant,
    /// sshd has accepted the key.
    pub(super) login: Instant,
}

impl Door {
    /// Waits for sshd's banner, then logs in, again and again until a login is accepted.
    pub(super) fn wait_until_open(&self, limit: Duration) -> Result<Opened> {
        let deadline = Instant::now() + limit;
        let banner = self.wait_for_banner(deadline)?;
        loop {
            let (login, words) = self.log_in()?;
            if let Some(login) = login {
                return Ok(Opened { banner, login });
            }
            if Instant::now() > deadline {
                bail!("no login within {} s: {words}", limit.as_secs());
            }
        }
    }

    fn wait_for_banner(&self, deadline: Instant) -> Result<Instant> {
        let mut attempts: Vec<Attempt> = Vec::new();
        let mut next = Instant::now();
        loop {
            let now = Instant::now();
            if now > deadline {
                bail!("no banner of sshd on port {} in time", self.port);
            }
            attempts.retain(|attempt| now - attempt.began < SILENCE);
            if now >= next {
                attempts.extend(Attempt::begin(self.port));
                next = now + if attempts.is_empty() { RETRY } else { JOIN };
            }
            wait_readable(&attempts, next.saturating_duration_since(now))?;
            let mut refused = false;
            let mut open = Vec::new();
            for attempt in attempts {
                match attempt.look() {
                    Seen::Banner => return Ok(Instant::now()),
                    Seen::Nothing => open.push(attempt),
                    Seen::End => refused = true,
                }
            }
            attempts = open;
            if refused {
                next = next.min(Instant::now() + RETRY);
            }
        }
    }

    /// One login without a command. `None`: not accepted, with ssh's own words.
    fn log_in(&self) -> Result<(Option<Instant>, String)> {
        let mut ssh = Command::new("ssh")
            .args([
                "-F",
                "/dev/null",
                "-N",
                "-o",
                "LogLevel=VERBOSE",
                "-o",
                "BatchMode=yes",
            ])
            .args([
                "-o",
                "StrictHostKeyChecking=no",
                "-o",
                "UserKnownHostsFile=/dev/null",
            ])
            .args(["-o", "IdentitiesOnly=yes", "-o", "ConnectTimeout=60"])
            .arg("-i")
            .arg(&self.key)
            .args([
                "-p",
                &self.port.to_string(),
                &format!("{}@127.0.0.1", self.user),
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("start `ssh`")?;
        let stderr = ssh.stderr.take().context("ssh has a stderr")?;
        let mut words = String::new();
        let mut accepted = None;
        for line in BufReader::new(stderr).lines() {
            let line = line.context("read what ssh says")?;
            if line.starts_with("Authenticated to ") {
                accepted = Some(Instant::now());
                break;
            }
            words = line;
        }
        let _ = ssh.kill();
        ssh.wait().context("wait for ssh")?;
        Ok((accepted, words))
    }
}

/// A connection that waits for the banner.
#[derive(Debug)]
struct Attempt {
    stream: TcpStream,
    began: Instant,
}

enum Seen {
    Banner,
    Nothing,
    End,
}

impl Attempt {
    /// `None`: refused.
    fn begin(port: u16) -> Option<Self> {
        let began = Instant::now();
        let stream = TcpStream::connect(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)).ok()?;
        stream.set_nonblocking(true).ok()?;
        Some(Self { stream, began })
    }

    fn look(&self) -> Seen {
        match (&self.stream).read(&mut [0; 256]) {
            Ok(1..) => Seen::Banner,
            Err(error) if error.kind() == ErrorKind::WouldBlock => Seen::Nothing,
            Ok(0) | Err(_) => Seen::End,
        }
    }
}

fn wait_readable(attempts: &[Attempt], limit: Duration) -> Result<()> {
    let limit = Timespec::try_from(limit).context("a wait of milliseconds")?;
    let mut sources: Vec<PollFd<'_>> = attempts
        .iter()
        .map(|attempt| PollFd::from_borrowed_fd(attempt.stream.as_fd(), PollFlags::IN))
        .collect();
    poll(&mut sources, Some(&limit)).context("wait for sshd's banner")?;
    Ok(())
}
