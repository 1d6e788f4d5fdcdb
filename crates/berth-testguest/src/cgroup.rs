//! One control group per machine, in the unified hierarchy, whatever the host has mounted.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

/// What the names of our groups begin with; the rest is the pid of the machine.
const PREFIX: &str = "berth-testguest.";

/// How long killed processes may take to be gone.
const DEATH: Duration = Duration::from_secs(10);

/// The root of the unified hierarchy, as this process sees it.
#[derive(Debug)]
struct Hierarchy(OwnedFd);

impl Hierarchy {
    fn open() -> Result<Self> {
        let context = "mount the unified cgroup hierarchy";
        let fs = rustix::mount::fsopen("cgroup2", FsOpenFlags::FSOPEN_CLOEXEC).context(context)?;
        rustix::mount::fsconfig_create(&fs).context(context)?;
        let attributes = MountAttrFlags::empty();
        let mount = rustix::mount::fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, attributes);
        Ok(Self(mount.context(context)?))
    }
}

/// The group of one machine.
#[derive(Debug)]
pub(crate) struct MachineGroup {
    hierarchy: Hierarchy,
    name: String,
}

impl MachineGroup {
    /// Makes the group of the machine with this pid, and removes those that killed machines left behind.
    pub(crate) fn create(pid: u32) -> Result<Self> {
        let hierarchy = Hierarchy::open()?;
        remove_leftovers(&hierarchy);
        let name = format!("{PREFIX}{pid}");
        match rustix::fs::mkdirat(&hierarchy.0, &name, Mode::from_raw_mode(0o755)) {
            // Left behind by a killed machine, whose pid is ours now.
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            made => made.with_context(|| format!("make the cgroup {name}"))?,
        }
        Ok(Self { hierarchy, name })
    }

    /// Moves the calling process into the group of the machine with this pid.
    pub(crate) fn join(pid: u32) -> Result<()> {
        let group = Self {
            hierarchy: Hierarchy::open()?,
            name: format!("{PREFIX}{pid}"),
        };
        group.write("cgroup.procs", "0")
    }

    /// Stops the clock for every process of the machine, or lets it go on.
    pub(crate) fn freeze(&self, frozen: bool) -> Result<()> {
        self.write("cgroup.freeze", if frozen { "1" } else { "0" })
    }

    /// Kills every process of the machine, and returns when they are gone.
    pub(crate) fn kill(&self) -> Result<()> {
        self.write("cgroup.kill", "1")?;
        self.await_empty()
    }

    /// Removes the empty group.
    pub(crate) fn remove(&self) -> Result<()> {
        remove_group(&self.hierarchy.0, &self.name)
            .with_context(|| format!("remove the cgroup {}", self.name))
    }

    fn write(&self, file: &str, text: &str) -> Result<()> {
        let path = format!("{}/{file}", self.name);
        let done = rustix::fs::openat(&self.hierarchy.0, &path, OFlags::WRONLY, Mode::empty())
            .and_then(|file| rustix::io::write(&file, text.as_bytes()));
        done.with_context(|| format!("write {text:?} to the cgroup file {path}"))?;
        Ok(())
    }

    /// `cgroup.events` raises an exceptional condition when the last process is gone.
    fn await_empty(&self) -> Result<()> {
        let path = format!("{}/cgroup.events", self.name);
        let events = rustix::fs::openat(&self.hierarchy.0, &path, OFlags::RDONLY, Mode::empty())
            .with_context(|| format!("open the cgroup file {path}"))?;
        let deadline = Instant::now() + DEATH;
        loop {
            let mut text = [0; 256];
            let length = rustix::io::pread(&events, &mut text, 0)
                .with_context(|| format!("read the cgroup file {path}"))?;
            if text[..length].starts_with(b"populated 0") {
                return Ok(());
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                bail!(
                    "killed processes of {} are still there after {DEATH:?}",
                    self.name
                );
            }
            let mut polled = [PollFd::new(&events, PollFlags::PRI)];
            let left = rustix::time::Timespec::try_from(left).expect("seconds");
            match rustix::event::poll(&mut polled, Some(&left)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error).context("wait for killed processes"),
            }
        }
    }
}

/// A group is left over when no process has its pid any more; one with processes in it cannot be removed, and stays.
fn remove_leftovers(hierarchy: &Hierarchy) {
    let Ok(entries) = Dir::read_from(&hierarchy.0) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy();
        let pid = name
            .strip_prefix(PREFIX)
            .and_then(|pid| pid.parse::<u32>().ok());
        if pid.is_some_and(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = remove_group(&hierarchy.0, &name);
        }
    }
}

/// Removes a group and those in it, innermost first.
fn remove_group(parent: &OwnedFd, name: &str) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let group = rustix::fs::openat(parent, name, flags, Mode::empty())?;
    for entry in Dir::read_from(&group)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy();
        if entry.file_type() == FileType::Directory && !name.starts_with('.') {
            remove_group(&group, &name)?;
        }
    }
    Ok(rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?)
}
