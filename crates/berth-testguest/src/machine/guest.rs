//! One boot of the guest: the process that runs it, what it prints, and how it ends.

use std::io::{IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};

use anyhow::{Context, Result};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags};
use rustix::process::{Pid, PidfdFlags};

use crate::INSIDE;
use crate::inside::Boot;
use crate::sys;

/// What systemd-nspawn exits with when the guest asked for a reboot.
const REBOOT: i32 = 133;

/// Descriptors that a boot hands over: its first process, and a socket for each port.
const DESCRIPTORS: usize = 32;

/// A guest that boots or runs.
#[derive(Debug)]
pub(super) struct Guest {
    child: Child,
    exit: OwnedFd,
    console: OwnedFd,
    inside: UnixStream,
    init: Option<OwnedFd>,
}

/// How a boot ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// The guest powered itself off.
    PowerOff,
    /// The guest wants to boot again.
    Reboot,
    /// It never came up; why is on stderr.
    NotStarted,
    /// Its init or the container crashed, with this code.
    Crashed(i32),
}

impl Guest {
    /// Starts a boot.
    pub(super) fn boot(boot: &Boot) -> Result<Self> {
        let (mut inside, theirs) = UnixStream::pair().context("make a socket pair")?;
        let (console, output) = std::io::pipe().context("make a pipe")?;
        rustix::io::ioctl_fionbio(&console, true).context("make a pipe")?;
        let child = Command::new("/proc/self/exe")
            .arg0(crate::program_name())
            .arg(INSIDE)
            .stdin(OwnedFd::from(theirs))
            .stdout(output)
            .spawn()
            .context("start the guest's process")?;
        inside
            .write_all(&serde_json::to_vec(boot).context("write down what to boot")?)
            .and_then(|()| inside.shutdown(std::net::Shutdown::Write))
            .context("tell the guest's process what to boot")?;
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
        let pid = pid.context("the guest's process has no pid")?;
        let exit = rustix::process::pidfd_open(pid, PidfdFlags::empty())
            .context("watch the guest's process")?;
        Ok(Self {
            child,
            exit,
            console: console.into(),
            inside,
            init: None,
        })
    }

    /// Readable when the boot is over.
    pub(super) fn exit(&self) -> &OwnedFd {
        &self.exit
    }

    /// What the guest prints.
    pub(super) fn console(&self) -> &OwnedFd {
        &self.console
    }

    /// Readable when the guest has been put together and runs; `None` from then on.
    pub(super) fn report(&self) -> Option<&UnixStream> {
        self.init.is_none().then_some(&self.inside)
    }

    /// Takes the report, with the listening sockets of the ports. No sockets and no init: it ended before.
    pub(super) fn take_report(&mut self) -> Result<Vec<OwnedFd>> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut byte = [0];
        let mut parts = [IoSliceMut::new(&mut byte)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let message = rustix::net::recvmsg(&self.inside, &mut parts, &mut control, flags)
            .context("receive the guest's report")?;
        anyhow::ensure!(
            !message.flags.contains(ReturnFlags::CTRUNC),
            "too many ports"
        );
        let mut descriptors = control.drain().flat_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => descriptors.collect::<Vec<_>>(),
            _ => Vec::new(),
        });
        self.init = descriptors.next();
        Ok(descriptors.collect())
    }

    /// Whether the guest's init runs.
    pub(super) fn is_up(&self) -> bool {
        self.init.is_some()
    }

    /// Presses the power button. Nobody notices before init listens, as in a virtual machine; pressing again does no harm.
    pub(super) fn press_power_button(&self) {
        // Not through systemd-nspawn, which takes a second request for impatience and kills the guest.
        let init = self.init.as_ref().and_then(first_process_under);
        if let Some(init) = init {
            let _ = rustix::process::pidfd_send_signal(&init, sys::power_off_request());
        }
    }

    /// Kills the process, if it is not dead yet, and reaps it. What it started follows.
    pub(super) fn kill(&mut self) -> Result<()> {
        self.child.kill().context("kill the guest's process")?;
        self.child.wait().context("reap the guest's process")?;
        Ok(())
    }

    /// Reaps the process after [`Self::exit`] became readable.
    pub(super) fn reap(&mut self) -> Result<Outcome> {
        let status = self.child.wait().context("reap the guest's process")?;
        Ok(match status.code() {
            _ if !self.is_up() => Outcome::NotStarted,
            Some(0) => Outcome::PowerOff,
            Some(REBOOT) => Outcome::Reboot,
            code => Outcome::Crashed(code.unwrap_or(-1)),
        })
    }
}

/// The guest's first process: the child of systemd-nspawn that is the first in its namespace. Signals that it does not
/// expect are lost on it, not deadly.
fn first_process_under(nspawn: &OwnedFd) -> Option<OwnedFd> {
    let about =
        std::fs::read_to_string(format!("/proc/self/fdinfo/{}", nspawn.as_raw_fd())).ok()?;
    let pid = about
        .lines()
        .find_map(|line| line.strip_prefix("Pid:"))?
        .trim();
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    let first = children
        .split_whitespace()
        .find(|child| is_first_in_its_namespace(child))?;
    let first = first.parse().ok().and_then(Pid::from_raw)?;
    rustix::process::pidfd_open(first, PidfdFlags::empty()).ok()
}

fn is_first_in_its_namespace(pid: &str) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let pids = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    pids.and_then(|pids| pids.split_whitespace().last()) == Some("1")
}
