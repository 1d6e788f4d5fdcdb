//! Full load from many clients for a while: nobody is forgotten, and nothing is kept.

use std::time::{Duration, Instant};

use anyhow::Result;

use super::{Load, Queries, Run, Side, dnsperf, kibibytes};
use crate::bench::processes::Process;
use crate::bench::stats::Goal;

const CLIENTS: u32 = 200;
/// Questions on their way, of all clients.
const WAITING: u32 = 400;
/// The load is measured in so many parts of equal length.
const PARTS: u32 = 3;
/// How long questions that nobody waits for any more may last.
const PATIENCE: Duration = Duration::from_secs(10);

/// What came of it.
pub(super) struct Soak {
    parts: Vec<Run>,
    /// Descriptors and memory of the process, before and after.
    descriptors: (usize, usize),
    memory: (u64, u64),
}

impl Soak {
    /// Static names and forwarded ones, in turns.
    pub(super) fn run(side: &Side, queries: &Queries, seconds: u32) -> Result<Self> {
        let load = Load {
            clients: CLIENTS,
            waiting: WAITING,
            seconds: seconds.div_ceil(PARTS),
        };
        let process = side.process;
        let before = (process.descriptors()?, process.memory()?);
        let mut parts = Vec::new();
        for _ in 0..PARTS {
            parts.push(dnsperf(side, queries.mixed()?, &load)?);
        }
        let descriptors = (before.0, descriptors_at_rest(process, before.0)?);
        Ok(Self {
            parts,
            descriptors,
            memory: (before.1, process.memory()?),
        })
    }

    pub(super) fn print(&self) {
        let rates: Vec<String> = self
            .parts
            .iter()
            .map(|part| format!("{:.0}", part.rate))
            .collect();
        println!(
            "{CLIENTS} clients: {} q/s in {PARTS} parts; of {:.0} questions {:.0} were lost; descriptors {} before, {} after",
            rates.join(", "),
            self.asked(),
            self.lost(),
            self.descriptors.0,
            self.descriptors.1
        );
    }

    pub(super) fn goals(&self) -> Vec<(String, Goal)> {
        let rate = |part: Option<&Run>| part.map_or(f64::NAN, |part| part.rate);
        let kept = rate(self.parts.last()) / rate(self.parts.first());
        let lost = self.lost() / self.asked().max(1.0) * 1e6;
        let left = self.descriptors.1.saturating_sub(self.descriptors.0);
        let left = u32::try_from(left).map_or(f64::NAN, f64::from);
        let grown = (kibibytes(self.memory.1) - kibibytes(self.memory.0)) / 1024.0;
        let named = |what: &str| format!("{CLIENTS} clients: {what}");
        vec![
            (
                named("rate, last part / first"),
                Goal::at_least(0.9, kept, " x", 2),
            ),
            (
                named("lost, of a million"),
                Goal::at_most(10.0, lost, "", 1),
            ),
            (named("descriptors left"), Goal::at_most(0.0, left, "", 0)),
            (named("memory kept"), Goal::at_most(2.0, grown, " MiB", 1)),
        ]
    }

    fn lost(&self) -> f64 {
        self.parts.iter().map(|part| part.lost).sum()
    }

    fn asked(&self) -> f64 {
        let asked = self.parts.iter().map(|part| part.completed + part.lost);
        asked.sum()
    }
}

/// How many there are when there are no more than before, or else after a while.
fn descriptors_at_rest(process: Process, before: usize) -> Result<usize> {
    let until = Instant::now() + PATIENCE;
    loop {
        let now = process.descriptors()?;
        if now <= before || Instant::now() > until {
            return Ok(now);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
