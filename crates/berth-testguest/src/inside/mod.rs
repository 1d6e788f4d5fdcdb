//! The side of the machine that lives in namespaces of its own: a short-lived parent that puts the guest together and
//! runs systemd-nspawn for one boot. Everything it mounts vanishes with it.

mod container;
mod files;

use std::io::{IoSlice, Read as _};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use rustix::mount::{MountFlags, MountPropagationFlags};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use rustix::process::{Pid, PidfdFlags, Signal};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};
use serde::{Deserialize, Serialize};

use crate::cgroup::MachineGroup;
use crate::sys;

/// What one boot needs to know; travels as JSON over standard input, which is a socket to the machine's front.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Boot {
    /// Pid of the front, whose death is ours.
    pub(crate) front: u32,
    /// Descriptor number of the guest's network namespace in the front.
    pub(crate) network: i32,
    /// Root file system, never written to.
    pub(crate) rootfs: PathBuf,
    /// Where the guest's changes are kept; `None`: nowhere.
    pub(crate) state: Option<PathBuf>,
    /// The cidata volume.
    pub(crate) cidata: Option<PathBuf>,
    /// Names of the virtio-serial ports.
    pub(crate) ports: Vec<String>,
    /// Directory of unix sockets in the place of vsock.
    pub(crate) vsock: Option<PathBuf>,
    /// Name of the machine.
    pub(crate) name: String,
}

/// Most bytes that a [`Boot`] takes.
const BOOT_LIMIT: u64 = 1 << 20;

/// Boots once. The exit code is systemd-nspawn's: 0 for power-off, 133 for a reboot.
pub(crate) fn run() -> Result<ExitCode> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let front = std::io::stdin().as_fd().try_clone_to_owned()?;
    let boot = receive(&front)?;
    let parent =
        rustix::process::getppid().and_then(|pid| u32::try_from(pid.as_raw_nonzero().get()).ok());
    if parent != Some(boot.front) {
        bail!("the machine's front has died");
    }
    MachineGroup::join(boot.front)?;
    enter_namespaces(&boot)?;
    // After the mount namespace is ours, or an overlay would not take them; before our mounts hide their paths.
    let sources = files::Sources::open(&boot)?;
    let ports = container::put_together(&boot, &sources)?;
    let mut command = container::command(&boot);
    sys::unshare(UnshareFlags::NEWPID).context("make a pid namespace")?;
    sys::first_process(&mut command);
    let mut nspawn = command
        .spawn()
        .context("start systemd-nspawn (package systemd-container)")?;
    let pid = i32::try_from(nspawn.id()).ok().and_then(Pid::from_raw);
    let pid = pid.context("systemd-nspawn has no pid")?;
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
    report_started(&front, &pidfd, &ports)?;
    let status = nspawn.wait().context("wait for systemd-nspawn")?;
    let code = status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
}

fn receive(front: &OwnedFd) -> Result<Boot> {
    let mut text = String::new();
    std::fs::File::from(front.try_clone()?)
        .take(BOOT_LIMIT)
        .read_to_string(&mut text)
        .context("read what to boot")?;
    serde_json::from_str(&text).context("understand what to boot")
}

/// Everything but pids, which start with the guest itself.
fn enter_namespaces(boot: &Boot) -> Result<()> {
    let path = format!("/proc/{}/fd/{}", boot.front, boot.network);
    let network = std::fs::File::open(&path).with_context(|| format!("open {path}"))?;
    let kind = Some(LinkNameSpaceType::Network);
    rustix::thread::move_into_link_name_space(network.as_fd(), kind)
        .context("enter the guest's network namespace")?;
    sys::unshare(UnshareFlags::NEWNS | UnshareFlags::NEWCGROUP | UnshareFlags::NEWIPC)
        .context("make mount, cgroup and IPC namespaces")?;
    let private = MountPropagationFlags::REC | MountPropagationFlags::PRIVATE;
    rustix::mount::mount_change("/", private).context("make the mounts private")?;
    mount("sysfs", "/sys", "")?;
    mount("cgroup2", "/sys/fs/cgroup", "")
}

/// Mounts a kind of file system that has no device.
fn mount(kind: &str, at: &str, options: &str) -> Result<()> {
    let options = std::ffi::CString::new(options).context("mount options hold a NUL")?;
    rustix::mount::mount(kind, at, kind, MountFlags::empty(), options.as_c_str())
        .with_context(|| format!("mount {kind} on {at}"))
}

/// One byte, with the descriptors of the guest's first process and of its ports' listening sockets.
fn report_started(front: &OwnedFd, pidfd: &OwnedFd, ports: &[OwnedFd]) -> Result<()> {
    let descriptors: Vec<_> = std::iter::once(pidfd)
        .chain(ports)
        .map(AsFd::as_fd)
        .collect();
    let mut space = vec![
        std::mem::MaybeUninit::uninit();
        rustix::cmsg_space!(ScmRights(1)) * descriptors.len()
    ];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        bail!("{} ports are too many", ports.len());
    }
    let byte = [IoSlice::new(b"!")];
    rustix::net::sendmsg(front, &byte, &mut control, SendFlags::empty())
        .context("report the start")?;
    debug_assert!(front.as_raw_fd() >= 0);
    Ok(())
}
