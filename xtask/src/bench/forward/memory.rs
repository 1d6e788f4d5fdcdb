//! What the agents take while they work, and before and after.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::Duration;

use anyhow::Result;

use super::Plan;
use super::sheet::{Measure, Sheet};
use super::side::{Role, Side};
use crate::bench::processes::Process;

/// Moments that are measured.
pub(super) const IDLE: &str = "idle";
pub(super) const BULK: &str = "peak in bulk";
pub(super) const CONNECTIONS: &str = "peak with 50 connections at once";
pub(super) const AFTERWARDS: &str = "15 s afterwards";

/// How often a peak is looked for.
const OFTEN: Duration = Duration::from_millis(50);

const MIB: f64 = 1024.0 * 1024.0;

/// Measures all agents now.
pub(super) fn now(plan: &Plan<'_>, sheet: &mut Sheet, moment: &str) -> Result<()> {
    for side in plan.sides() {
        for (role, process) in agents(side) {
            add(sheet, side, role, moment, process.memory()?);
        }
    }
    Ok(())
}

/// Name of a row.
pub(super) fn row(role: Role, moment: &str) -> String {
    format!("{} memory (PSS), {moment}", role.name())
}

fn agents(side: &Side) -> Vec<(Role, Process)> {
    let guest = side.guest_agent().map(|agent| (Role::GuestAgent, agent));
    std::iter::once((Role::HostAgent, side.host_agent))
        .chain(guest)
        .collect()
}

#[allow(
    clippy::cast_precision_loss,
    reason = "sizes that are shown with one digit after the point"
)]
fn add(sheet: &mut Sheet, side: &Side, role: Role, moment: &str, bytes: u64) {
    let measure = Measure::new(row(role, moment), "MiB", 1);
    sheet.add(&measure, side.name, bytes as f64 / MIB);
}

/// Looks for the agents' peaks while something goes on.
#[derive(Debug)]
pub(super) struct Watch {
    stop: Arc<AtomicBool>,
    watchers: Vec<(Role, JoinHandle<u64>)>,
}

impl Watch {
    /// Begins.
    pub(super) fn begin(side: &Side) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let watch = |(role, process): (Role, Process)| {
            let stop = Arc::clone(&stop);
            (role, spawn(move || peak(process, &stop)))
        };
        let watchers = agents(side).into_iter().map(watch).collect();
        Self { stop, watchers }
    }

    /// Ends, and writes down what was found.
    pub(super) fn end(self, sheet: &mut Sheet, side: &Side, moment: &str) {
        self.stop.store(true, Ordering::Relaxed);
        for (role, watcher) in self.watchers {
            if let Ok(bytes) = watcher.join() {
                add(sheet, side, role, moment, bytes);
            }
        }
    }
}

fn peak(process: Process, stop: &AtomicBool) -> u64 {
    let mut highest = 0;
    while !stop.load(Ordering::Relaxed) {
        highest = highest.max(process.memory().unwrap_or_default());
        sleep(OFTEN);
    }
    highest
}
