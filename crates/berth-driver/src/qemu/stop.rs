//! Ending a VM: ask the guest, then QEMU, then the kernel.

use berth_instance::dir::InstanceDir;
use berth_process::exit::Signal;
use berth_process::identity::ProcessIdentity;
use berth_process::ladder::Rung;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::driver::StopLadder;
use crate::error::DriverError;
use crate::process::{self, KILL_LIMIT, Target, press_power_button};
use crate::qemu::files;
use crate::qemu::life::Life;
use crate::qemu::qmp::{COMMAND_LIMIT, Qmp};
use crate::qemu::{tpm, virtiofsd};
use crate::sys;

/// Ends the VM and its helpers, and removes the files of its life; touches nothing when none began. Idempotent; may be cancelled and called again.
pub(super) async fn stop(
    dir: &InstanceDir,
    life: &Life,
    steps: &StopLadder,
) -> Result<(), DriverError> {
    if !life.began() {
        // The files may be those of a VM that another agent left.
        return Ok(());
    }
    let mut errors = Vec::new();
    if let Some(vm) = life.vm() {
        // Nothing is removed under a VM that still lives.
        descend(Target::Child(&vm), life.monitor().as_ref(), steps).await?;
    }
    if let Some(tpm) = life.tpm() {
        errors.extend(tpm::stop(&tpm, steps.hurry.clone()).await.err());
    }
    for daemon in life.daemons() {
        errors.extend(virtiofsd::stop(&daemon, steps.hurry.clone()).await.err());
    }
    errors.extend(files::clear_after_end(dir).err());
    DriverError::of_all(errors)
}

/// Ends a VM whose agent is gone, by the identity that the agent recorded, and removes the files of its life.
///
/// A VM that is gone already needs only the latter. Its TPM emulator ends by itself.
pub async fn stop_orphan(
    dir: &InstanceDir,
    identity: &ProcessIdentity,
    steps: &StopLadder,
) -> Result<(), DriverError> {
    if let Some(vm) = &process::adopt("QEMU", identity)? {
        let (tasks, cancel) = (TaskTracker::new(), CancellationToken::new());
        let monitor = reach_monitor(dir, &tasks, &cancel).await;
        let ended = descend(Target::Adopted(vm), monitor.as_ref(), steps).await;
        cancel.cancel();
        tasks.close();
        tasks.wait().await;
        ended?;
    }
    files::clear_after_end(dir)
}

/// Our monitor of an orphan. Nobody holds it, unless the agent is alive after all.
async fn reach_monitor(
    dir: &InstanceDir,
    tasks: &TaskTracker,
    cancel: &CancellationToken,
) -> Option<Qmp> {
    let socket = dir.qmp_berth_sock();
    let opening = async {
        let stream = sys::connect(&socket)
            .await
            .map_err(|error| error.to_string())?;
        Qmp::open(stream, socket.clone(), tasks, cancel.clone()).await
    };
    let opened = tokio::time::timeout(COMMAND_LIMIT, opening).await;
    match opened.unwrap_or_else(|_| Err("no greeting".to_owned())) {
        Ok((monitor, _)) => Some(monitor),
        Err(why) => {
            tracing::warn!(socket = %socket.display(), why, "The VM's monitor cannot be reached; the guest is not asked.");
            None
        }
    }
}

/// `system_powerdown`, then `quit` (SIGTERM where the monitor does not answer), then SIGKILL.
async fn descend(
    target: Target<'_>,
    monitor: Option<&Qmp>,
    steps: &StopLadder,
) -> Result<(), DriverError> {
    let power_down = async {
        let monitor = monitor.ok_or("the monitor is not open")?;
        let press = || async {
            let pressed = monitor.execute("system_powerdown", json!({})).await;
            pressed.map(drop).map_err(|error| error.to_string())
        };
        press_power_button(press).await
    };
    let quit = async {
        if let Some(monitor) = monitor
            && monitor.execute("quit", json!({})).await.is_ok()
        {
            return Ok(());
        }
        target.signal(Signal::Terminate)
    };
    let kill = async { target.signal(Signal::Kill) };
    let rungs = vec![
        Rung::new("ACPI power button", steps.power_down, power_down),
        Rung::new("quit", steps.quit, quit),
        Rung::new("SIGKILL", KILL_LIMIT, kill),
    ];
    process::descend("QEMU", target, steps, rungs).await
}
