//! berth's side: an instance that is started and stopped by the command line.

use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::console::{Console, stage};
use super::lab::Lab;
use super::processes::{Process, uptime};

const NAME: &str = "bench";

/// How berth's events say that the VM runs.
const VM_RUNS: &str = r#""phase":{"name":"start the VM","outcome":"ok""#;

/// An instance that exists. Dropping it stops it.
#[derive(Debug)]
pub(super) struct Instance<'a> {
    lab: &'a Lab,
}

/// A start, counted from the command.
#[derive(Debug, Clone, Copy)]
pub(super) struct Started {
    /// The machine's program was started, exact to 10 ms.
    pub(super) vm_spawned: Duration,
    /// The machine answers, its own set-up done.
    pub(super) vm_runs: Duration,
    /// The guest's own last stage, as its console shows it.
    pub(super) boot_done: Duration,
    /// READY was printed, and the command has ended.
    pub(super) ready: Duration,
    /// systemd has started everything.
    pub(super) multi_user: Duration,
    /// cloud-init is done.
    pub(super) cloud_init: Duration,
}

/// A stop.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stopped {
    /// From the command to its end.
    pub(super) command: Duration,
    /// The part of it in which there was no VM any more.
    pub(super) without_vm: Duration,
}

impl<'a> Instance<'a> {
    /// Creates it by a first start.
    pub(super) fn create(lab: &'a Lab) -> Result<Self> {
        Self::create_from(lab, &lab.image().template())
    }

    /// The same, from another template than the image's own.
    pub(super) fn create_from(lab: &'a Lab, template: &Path) -> Result<Self> {
        let template = template.to_str().context("the image has a name in UTF-8")?;
        let instance = Self { lab };
        lab.run_berth(&["start", "--yes", "--name", NAME, template])?;
        Ok(instance)
    }

    /// The lab it is in.
    pub(super) fn lab(&self) -> &'a Lab {
        self.lab
    }

    /// Its directory.
    pub(super) fn directory(&self) -> PathBuf {
        self.lab.home().join(NAME)
    }

    /// The machine's process.
    pub(super) fn vm(&self) -> Result<Process> {
        Process::of_pid_file(&self.directory().join("qemu.pid"))
    }

    /// The host agent's process.
    pub(super) fn host_agent(&self) -> Result<Process> {
        Process::of_pid_file(&self.directory().join("ha.pid"))
    }

    /// Starts it, and goes on watching until nothing happens in the guest any more.
    pub(super) fn start(&self) -> Result<Started> {
        let mut console = Console::follow(&self.directory(), &["serial.log", "ha.stdout.log"])?;
        let (begin, uptime) = (Instant::now(), uptime());
        self.lab.run_berth(&["start", NAME])?;
        let ready = begin.elapsed();
        let limit = self.lab.machine.boot_limit();
        let mut after = |text: &str| Ok::<_, anyhow::Error>(console.moment(text, limit)? - begin);
        Ok(Started {
            vm_spawned: self.vm()?.started()?.saturating_sub(uptime),
            vm_runs: after(VM_RUNS)?,
            boot_done: after(stage::BERTH)?,
            ready,
            multi_user: after(stage::MULTI_USER)?,
            cloud_init: after(stage::CLOUD_INIT)?,
        })
    }

    /// Stops it.
    pub(super) fn stop(&self) -> Result<Stopped> {
        let end_of_vm = watch_end(self.vm()?)?;
        let begin = Instant::now();
        self.lab.run_berth(&["stop", NAME])?;
        let end = Instant::now();
        let vm_ended = end_of_vm.join().ok().context("the VM was not watched")??;
        Ok(Stopped {
            command: end - begin,
            without_vm: end.saturating_duration_since(vm_ended),
        })
    }

    /// The private key of berth's user.
    pub(super) fn key(&self) -> PathBuf {
        self.lab.home().join("_config").join("user")
    }
}

impl Drop for Instance<'_> {
    fn drop(&mut self) {
        if Path::new(&self.directory().join("ha.pid")).exists()
            && let Err(error) = self.lab.run_berth(&["stop", "--force", NAME])
        {
            eprintln!("the instance still runs: {error:#}");
        }
    }
}

/// When a process ends, which need not be a child of ours.
fn watch_end(process: Process) -> Result<JoinHandle<Result<Instant>>> {
    let pid = i32::try_from(process.pid()).ok().and_then(Pid::from_raw);
    let pid = pid.context("a pid is a positive number")?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).context("watch the VM")?;
    Ok(std::thread::spawn(move || {
        poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], None)
            .context("wait for the end of the VM")?;
        Ok(Instant::now())
    }))
}
