//! Ending a VM: ask the guest, then the program, then the kernel.

use berth_instance::dir::InstanceDir;
use berth_process::exit::Signal;
use berth_process::identity::ProcessIdentity;
use berth_process::ladder::Rung;

use crate::driver::StopLadder;
use crate::error::DriverError;
use crate::kit::rest::Rest;
use crate::kit::{Flavour, files};
use crate::life::Life;
use crate::process::{self, KILL_LIMIT, Target, press_power_button};

/// Ends the VM, and removes the files of its life; touches nothing when none began. Idempotent; may be cancelled and called again.
pub(super) async fn stop(
    flavour: &dyn Flavour,
    dir: &InstanceDir,
    life: &Life,
    steps: &StopLadder,
) -> Result<(), DriverError> {
    if !life.began() {
        // The files may be those of a VM that another agent left.
        return Ok(());
    }
    if let Some(vm) = life.vm() {
        // Nothing is removed under a VM that still lives.
        descend(flavour, dir, Target::Child(&vm), steps).await?;
    }
    files::clear_after_end(dir, flavour.name())
}

/// Ends a VM whose agent is gone, by the identity that the agent recorded, and removes the files of its life.
pub(crate) async fn stop_orphan(
    flavour: &dyn Flavour,
    dir: &InstanceDir,
    identity: &ProcessIdentity,
    steps: &StopLadder,
) -> Result<(), DriverError> {
    if let Some(vm) = &process::adopt(flavour.program(), identity)? {
        descend(flavour, dir, Target::Adopted(vm), steps).await?;
    }
    files::clear_after_end(dir, flavour.name())
}

async fn descend(
    flavour: &dyn Flavour,
    dir: &InstanceDir,
    target: Target<'_>,
    steps: &StopLadder,
) -> Result<(), DriverError> {
    let rest = Rest::new(files::rest_sock(dir));
    let power_down = press_power_button(|| async {
        let ordered = rest.order("Stop").await;
        ordered.map_err(|error| berth_image::error::with_causes(&error))
    });
    let quit = async {
        if flavour.has_hard_stop() && rest.order("HardStop").await.is_ok() {
            return Ok(());
        }
        target.signal(Signal::Terminate)
    };
    let kill = async { target.signal(Signal::Kill) };
    let rungs = vec![
        Rung::new("power button", steps.power_down, power_down),
        Rung::new("hard stop", steps.quit, quit),
        Rung::new("SIGKILL", KILL_LIMIT, kill),
    ];
    process::descend(flavour.program(), target, steps, rungs).await
}
