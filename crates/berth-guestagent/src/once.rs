//! The boot steps once, without a host: for guests whose agent is not to stay.

use std::error::Error;

use berth_link::event::StepOutcome;

use crate::args::Options;
use crate::boot::{self, Site};
use crate::guest::Guest;
use crate::progress::Progress;
use crate::ready::Readiness;
use crate::runtime;
use crate::volume;

/// Some steps failed.
#[derive(Debug, thiserror::Error)]
#[error("{} of the boot steps failed: {}", .0.len(), .0.join(", "))]
struct Failed(Vec<String>);

/// Runs them, and fails with the names of those that failed.
pub(crate) fn run(options: &Options) -> Result<(), Box<dyn Error>> {
    runtime::new()?.block_on(boot_once(options))
}

async fn boot_once(options: &Options) -> Result<(), Box<dyn Error>> {
    let guest = Guest::here();
    let spec = volume::open(&guest, &options.cidata).await?;
    let progress = Progress::unrecorded();
    let site = Site {
        spec: &spec,
        guest: &guest,
        volume: &options.cidata,
        readiness: &Readiness::default(),
    };
    boot::run(&site, &progress).await?;
    let failed = progress
        .steps()
        .into_iter()
        .filter(|step| step.outcome == StepOutcome::Failed);
    let failed: Vec<String> = failed.map(|step| step.name).collect();
    if failed.is_empty() {
        Ok(())
    } else {
        Err(Failed(failed).into())
    }
}
