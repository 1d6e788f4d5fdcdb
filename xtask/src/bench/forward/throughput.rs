//! How much passes in a second, and what processor time it takes.

use std::time::Duration;

use anyhow::Result;

use super::memory::{self, Watch};
use super::sheet::{Measure, Sheet};
use super::side::{Role, Side};
use super::{Plan, Way};
use crate::traffic::{Task, client};

/// Size of the transfers that show how long the others are to be.
const TRIAL: u64 = 32 << 20;

/// Smallest transfer: processor time is counted in ticks of 10 ms.
const SMALLEST: u64 = 256 << 20;

const MB: f64 = 1e6;
const GB: f64 = 1e9;

/// A direction, and how many streams at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bulk {
    direction: Direction,
    streams: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    ToGuest,
    ToHost,
}

impl Bulk {
    pub(super) const TO_GUEST: Self = Self::new(Direction::ToGuest, 1);
    pub(super) const TO_HOST: Self = Self::new(Direction::ToHost, 1);
    pub(super) const EIGHT_TO_GUEST: Self = Self::new(Direction::ToGuest, 8);
    pub(super) const EIGHT_TO_HOST: Self = Self::new(Direction::ToHost, 8);
    const ALL: [Self; 4] = [
        Self::TO_GUEST,
        Self::TO_HOST,
        Self::EIGHT_TO_GUEST,
        Self::EIGHT_TO_HOST,
    ];

    const fn new(direction: Direction, streams: usize) -> Self {
        Self { direction, streams }
    }

    /// Name of its row.
    pub(super) fn row(self) -> String {
        let direction = match self.direction {
            Direction::ToGuest => "host to guest",
            Direction::ToHost => "guest to host",
        };
        format!(
            "{direction}, {}",
            match self.streams {
                1 => "1 stream".to_owned(),
                streams => format!("{streams} streams"),
            }
        )
    }

    /// Name of the row of a process's time.
    pub(super) fn processor_row(self, role: Role) -> String {
        format!("{}: {}", self.row(), role.name())
    }

    fn task(self, bytes: u64) -> Task {
        match self.direction {
            Direction::ToGuest => Task::Upload(bytes),
            Direction::ToHost => Task::Download(bytes),
        }
    }
}

/// In turns. Every other round goes backwards, so that no way always comes first, and neighbours stay neighbours: those are compared.
pub(super) fn measure(plan: &Plan<'_>, sheet: &mut Sheet, processors: &mut Sheet) -> Result<()> {
    let mut ways = plan
        .ways
        .iter()
        .map(|way| Ok((way, transfer_size(way, plan.args.seconds)?)))
        .collect::<Result<Vec<_>>>()?;
    for _ in 0..plan.args.runs {
        for bulk in Bulk::ALL {
            for (way, bytes) in &ways {
                measure_one(way, bulk, *bytes, sheet, processors)?;
            }
        }
        ways.reverse();
    }
    Ok(())
}

fn measure_one(
    way: &Way<'_>,
    bulk: Bulk,
    bytes: u64,
    sheet: &mut Sheet,
    processors: &mut Sheet,
) -> Result<()> {
    let Some(side) = way.side else {
        return transfer(way, bulk, bytes, sheet);
    };
    let watch = Watch::begin(side);
    let before = times(side)?;
    transfer(way, bulk, bytes, sheet)?;
    add_times(processors, side, bulk, &before, bytes)?;
    watch.end(sheet, side, memory::BULK);
    Ok(())
}

#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a size that need not be exact"
)]
fn transfer_size(way: &Way<'_>, seconds: u32) -> Result<u64> {
    let took = client::parallel_bulk(way.target, 1, Task::Upload(TRIAL))?;
    let rate = TRIAL as f64 / took.as_secs_f64();
    let bytes = SMALLEST.max((rate * f64::from(seconds)) as u64);
    // A multiple of the streams.
    Ok(bytes / 8 * 8)
}

#[allow(clippy::cast_precision_loss, reason = "sizes far below 2^52")]
fn transfer(way: &Way<'_>, bulk: Bulk, bytes: u64, sheet: &mut Sheet) -> Result<()> {
    let share = bytes / bulk.streams as u64;
    let took = client::parallel_bulk(way.target, bulk.streams, bulk.task(share))?;
    let rate = bytes as f64 / MB / took.as_secs_f64();
    sheet.add(&Measure::new(bulk.row(), "MB/s", 0), way.name, rate);
    Ok(())
}

fn times(side: &Side) -> Result<Vec<(Role, Duration)>> {
    let sum = |(role, processes): (Role, Vec<_>)| {
        let times = processes
            .into_iter()
            .map(crate::bench::processes::Process::processor);
        Ok((role, times.sum::<Result<Duration>>()?))
    };
    side.processes().into_iter().map(sum).collect()
}

#[allow(clippy::cast_precision_loss, reason = "sizes far below 2^52")]
fn add_times(
    processors: &mut Sheet,
    side: &Side,
    bulk: Bulk,
    before: &[(Role, Duration)],
    bytes: u64,
) -> Result<()> {
    for ((role, before), (_, after)) in before.iter().zip(times(side)?) {
        let seconds = after.saturating_sub(*before).as_secs_f64();
        let measure = Measure::new(bulk.processor_row(*role), "s/GB", 2);
        processors.add(&measure, side.name, seconds / (bytes as f64 / GB));
    }
    Ok(())
}
