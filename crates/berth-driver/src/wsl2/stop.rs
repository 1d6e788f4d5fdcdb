//! Ending a distribution: ask its systemd, then WSL.
//!
//! The process that keeps it running ends with it. The other way round is not so: killing that process leaves the distribution
//! to WSL, so the end is only believed when WSL lists it no more.

use std::time::Duration;

use berth_instance::dir::InstanceDir;
use berth_process::exit::Signal;
use berth_process::identity::ProcessIdentity;
use berth_process::ladder::Rung;

use crate::driver::StopLadder;
use crate::error::DriverError;
use crate::files::remove_all;
use crate::life::Life;
use crate::process::{self, KILL_LIMIT, Target};
use crate::wsl2::NAME;
use crate::wsl2::wsl::{QUICK, Wsl};

/// For WSL to end a distribution: it asks systemd, and does not wait for it long.
const TERMINATE: Duration = Duration::from_secs(30);

/// Ends the distribution, and removes the files of its life; touches nothing when none began. Idempotent; may be cancelled and
/// called again.
pub(super) async fn stop(
    wsl: &Wsl,
    dir: &InstanceDir,
    life: &Life,
    steps: &StopLadder,
) -> Result<(), DriverError> {
    if !life.began() {
        // It may run for another agent.
        return Ok(());
    }
    if let Some(vm) = life.vm() {
        descend(wsl, Target::Child(&vm), steps).await?;
    }
    end(wsl, dir).await
}

/// Ends a distribution whose agent is gone, by the identity of the process that keeps it running.
pub(super) async fn stop_orphan(
    wsl: &Wsl,
    dir: &InstanceDir,
    identity: &ProcessIdentity,
    steps: &StopLadder,
) -> Result<(), DriverError> {
    if let Some(vm) = &process::adopt(wsl.distribution(), identity)? {
        descend(wsl, Target::Adopted(vm), steps).await?;
    }
    end(wsl, dir).await
}

/// Has WSL end the distribution, if it runs, and removes the files of its life.
pub(super) async fn end(wsl: &Wsl, dir: &InstanceDir) -> Result<(), DriverError> {
    if wsl.is_running().await? {
        terminate(wsl).await?;
        if wsl.is_running().await? {
            return Err(DriverError::Program {
                program: wsl.distribution().to_owned(),
                why: "the distribution runs on, although `wsl.exe --terminate` says that it has ended it: `wsl --shutdown` ends all of them"
                    .to_owned(),
            });
        }
    }
    remove_all([dir.vm_pid(NAME)])
}

async fn terminate(wsl: &Wsl) -> Result<(), DriverError> {
    wsl.order(&["--terminate", wsl.distribution()], TERMINATE)
        .await
}

async fn descend(wsl: &Wsl, target: Target<'_>, steps: &StopLadder) -> Result<(), DriverError> {
    let words = |error: DriverError| berth_image::error::with_causes(&error);
    let power_off = async {
        let asked = wsl.ask(&["systemctl", "--no-block", "poweroff"], QUICK);
        asked.await.map(drop).map_err(words)
    };
    let terminate = async { terminate(wsl).await.map_err(words) };
    let kill = async { target.signal(Signal::Kill) };
    let rungs = vec![
        Rung::new("power off", steps.power_down, power_off),
        Rung::new("wsl.exe --terminate", steps.quit, terminate),
        Rung::new("killing wsl.exe", KILL_LIMIT, kill),
    ];
    process::descend(wsl.distribution(), target, steps, rungs).await
}
