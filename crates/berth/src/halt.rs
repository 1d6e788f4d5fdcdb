//! Ending an instance: in order, through its agent; or by force.

use std::io;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail, ensure};
use berth_driver::driver::StopLadder;
use berth_driver::{end_killed, stop_orphan};
use berth_events::event::Event;
use berth_events::follow::Follower;
use berth_events::state::State;
use berth_instance::delete::sweep;
use berth_instance::dir::InstanceDir;
use berth_instance::home::LimaHome;
use berth_instance::inspect::Inspection;
use berth_instance::lock::InstanceLock;
use berth_instance::pids::Processes;
use berth_instance::record::Record;
use berth_process::adopt::Adopted;
use berth_process::escape::escape_untrusted_lines;
use berth_process::exit::Signal;
use berth_process::identity::ProcessIdentity;
use tokio::sync::watch;

use crate::context::Context;
use crate::sys;

/// From the signal until the agent must have ended: Lima's limit, which covers three minutes for the guest.
const ORDERLY: Duration = Duration::from_secs(190);
/// For a guest without an agent to power itself down, and then for its process to quit.
const ORPHAN_POWER_DOWN: Duration = Duration::from_secs(180);
const ORPHAN_QUIT: Duration = Duration::from_secs(10);
/// For a killed process to be gone, on a busy machine.
const KILLED: Duration = Duration::from_secs(20);

/// Asks the agent to stop its instance, and waits until it has. A VM whose agent is gone is ended without one.
pub(crate) async fn in_order(
    home: &LimaHome,
    instance: &Inspection,
    context: &Context,
) -> anyhow::Result<()> {
    let name = &instance.name;
    match (instance.host_agent_pid, instance.driver_pid) {
        (Some(agent), _) => through_agent(instance, agent, &context.program).await,
        (None, Some(vm)) => orphan(home, instance, vm, context).await,
        (None, None) => bail!("instance {name:?} is not running"),
    }
}

async fn through_agent(instance: &Inspection, pid: u32, program: &str) -> anyhow::Result<()> {
    let name = &instance.name;
    let mut events = Follower::from_end(instance.dir.ha_stdout_log())?;
    let Some(mut agent) = open(pid).context("cannot watch the host agent")? else {
        return Ok(());
    };
    // A second signal would mean that there is no time.
    if instance.berth_state != Some(State::Stopping) {
        let sent = agent.signal(Signal::Interrupt);
        sent.with_context(|| {
            format!("cannot signal the host agent of instance {name:?} (pid {pid})")
        })?;
    }
    tracing::info!("Waiting for the host agent and the driver processes to shut down");
    let ended = async {
        loop {
            tokio::select! {
                line = events.next() => tell_errors(&line?.bytes),
                _ = agent.wait() => break anyhow::Ok(()),
            }
        }
    };
    let ended = tokio::time::timeout(ORDERLY, ended).await;
    ended.map_err(|_| {
        anyhow!(
            "instance {name:?} did not stop within {} s (host agent: pid {pid}); `{program} stop -f {name}` ends it by force",
            ORDERLY.as_secs()
        )
    })??;
    while let Some(line) = events.try_next()? {
        tell_errors(&line.bytes);
    }
    let driver = instance
        .config
        .as_ref()
        .map(|config| config.vm_type.as_str());
    if let Some(vm) = Processes::look(&instance.dir, driver).vm {
        bail!(
            "the host agent has ended, but the VM of instance {name:?} is alive (pid {vm}); `{program} stop -f {name}` ends it"
        );
    }
    Ok(())
}

/// What the agent says on its way out. A line that is no event is somebody else's.
fn tell_errors(line: &[u8]) {
    if let Ok(Some(event)) = Event::parse(line) {
        for error in event.status.errors {
            tracing::error!("[hostagent] {}", escape_untrusted_lines(error.as_bytes()));
        }
    }
}

/// Ends a VM whose agent was killed. Ctrl-C hurries.
async fn orphan(
    home: &LimaHome,
    instance: &Inspection,
    pid: u32,
    context: &Context,
) -> anyhow::Result<()> {
    let dir = &instance.dir;
    tracing::warn!(
        "The host agent of instance {:?} is gone; stopping its VM (pid {pid})",
        instance.name
    );
    // No agent may start while its VM is being stopped.
    let _lock = InstanceLock::try_acquire(dir)?;
    let mut record = Record::load(dir)?;
    let driver = match (&record.vm, &instance.config) {
        (Some(vm), _) => vm.driver.clone(),
        (None, Some(config)) => config.vm_type.as_str().to_owned(),
        (None, None) => String::new(),
    };
    let vm = match &record.vm {
        Some(vm) => vm.identity.clone(),
        None => match ProcessIdentity::of(pid) {
            Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(()),
            identity => identity.context("cannot look at the VM's process")?,
        },
    };
    let (hurry, hurried) = watch::channel(false);
    let steps = StopLadder {
        power_down: ORPHAN_POWER_DOWN,
        quit: ORPHAN_QUIT,
        hurry: hurried,
    };
    let interrupted = sys::wait_for_interrupt().context("cannot take over signals")?;
    let stop = stop_orphan(&driver, dir, &vm, &steps, context.env.pairs());
    tokio::pin!(stop);
    tokio::select! {
        stopped = &mut stop => stopped?,
        () = interrupted => {
            hurry.send_replace(true);
            stop.await?;
        }
    }
    (record.vm, record.agent) = (None, None);
    record.save(dir)?;
    clear_up(home, dir);
    Ok(())
}

/// Unlocks the disks and removes what belongs to a life, after its processes are gone. What stays behind is a warning.
fn clear_up(home: &LimaHome, dir: &InstanceDir) {
    unlock_disks(home, dir).unwrap_or_else(|error| tracing::warn!("{error:#}"));
    for error in sweep(dir) {
        tracing::warn!(%error, "A file of the ended life stays behind");
    }
}

/// Kills the agent and the VM, unlocks the disks, and removes what belongs to a life. Goes on after a failure; fails only if a
/// process is left.
pub(crate) async fn by_force(
    home: &LimaHome,
    dir: &InstanceDir,
    context: &Context,
) -> anyhow::Result<()> {
    let agent = Processes::look(dir, None).agent;
    let agent = kill("host agent", agent).await;
    // Looked at again: the agent may have ended its VM, or started it, on the way.
    let vm = kill("VM", Processes::look(dir, None).vm).await;
    let behind = kill_the_rest(dir).await;
    for error in [&agent, &vm, &behind]
        .into_iter()
        .filter_map(|result| result.as_ref().err())
    {
        tracing::error!("{error:#}");
    }
    agent.and(vm).and(behind)?;
    end_killed(dir, context.env.pairs()).await?;
    forget_vm(dir).unwrap_or_else(|error| tracing::warn!("{error:#}"));
    clear_up(home, dir);
    Ok(())
}

/// With an external driver the VM that was recorded is the driver's server: the VM itself may have been left by it. And a
/// server may be there without a VM.
async fn kill_the_rest(dir: &InstanceDir) -> anyhow::Result<()> {
    let left = Processes::look(dir, None);
    for (what, pid) in [("VM", left.vm), ("driver", left.driver_server)] {
        if pid.is_some() {
            kill(what, pid).await?;
        }
    }
    Ok(())
}

async fn kill(what: &str, pid: Option<u32>) -> anyhow::Result<()> {
    let Some(pid) = pid else {
        tracing::info!("The {what} process seems already stopped");
        return Ok(());
    };
    let Some(mut process) =
        open(pid).with_context(|| format!("cannot watch the {what} (pid {pid})"))?
    else {
        return Ok(());
    };
    tracing::info!("Sending SIGKILL to the {what} process {pid}");
    let sent = process.signal(Signal::Kill);
    sent.with_context(|| format!("cannot kill the {what} (pid {pid})"))?;
    let gone = tokio::time::timeout(KILLED, process.wait()).await;
    ensure!(
        gone.is_ok(),
        "the {what} (pid {pid}) is still there {} s after SIGKILL",
        KILLED.as_secs()
    );
    Ok(())
}

/// Takes hold of a process by its pid; `None`: it is gone.
fn open(pid: u32) -> io::Result<Option<Adopted>> {
    match ProcessIdentity::of(pid) {
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(None),
        identity => Adopted::open(identity?),
    }
}

fn forget_vm(dir: &InstanceDir) -> anyhow::Result<()> {
    if !dir.record().exists() {
        return Ok(());
    }
    let _lock = InstanceLock::try_acquire(dir)?;
    let mut record = Record::load(dir)?;
    record.vm = None;
    Ok(record.save(dir)?)
}

/// Unlocks every additional disk that the instance has locked, whatever its configuration says now.
pub(crate) fn unlock_disks(home: &LimaHome, dir: &InstanceDir) -> anyhow::Result<()> {
    let disks = home.disks_dir();
    let entries = match std::fs::read_dir(&disks) {
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.with_context(|| format!("cannot list {}", disks.display()))?,
    };
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot list {}", disks.display()))?;
        home.disk(&entry.file_name().to_string_lossy())
            .unlock(dir)?;
    }
    Ok(())
}
