//! What many short connections leave behind.

use anyhow::{Context, Result};

use super::Plan;
use super::sheet::{Measure, Sheet};
use super::side::Role;
use crate::traffic::client;

const CONNECTIONS: usize = 20_000;

/// Name of a row.
pub(super) fn row(role: Role) -> String {
    format!("{} descriptors left by 20,000 connections", role.name())
}

/// Counts the agents' descriptors before and right after connections one by one.
#[allow(clippy::cast_precision_loss, reason = "few descriptors")]
pub(super) fn measure(plan: &Plan<'_>, sheet: &mut Sheet) -> Result<()> {
    for side in plan.sides() {
        let guest = side.guest_agent().map(|agent| (Role::GuestAgent, agent));
        let agents = [Some((Role::HostAgent, side.host_agent)), guest];
        let count = || {
            let agents = agents.iter().flatten();
            agents
                .map(|(role, agent)| Ok((*role, agent.descriptors()?)))
                .collect::<Result<Vec<_>>>()
        };
        let before = count()?;
        client::connect_in_turn(side.target(), CONNECTIONS)
            .with_context(|| format!("connections through {}", side.name))?;
        for ((role, before), (_, after)) in before.into_iter().zip(count()?) {
            let left = after as f64 - before as f64;
            sheet.add(&Measure::new(row(role), "", 0), side.name, left);
        }
    }
    Ok(())
}
