//! `bench idle`: what the agents cost while nothing happens, and how large they are.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;

use super::instance::Instance;
use super::lab::{Lab, LabArgs, Machine, describe_machine, load};
use super::processes::{Process, Usage};
use super::stats::{Goal, milliseconds};
use crate::workspace::Workspace;

/// Arguments of `cargo xtask bench idle`.
#[derive(Debug, Args)]
pub(super) struct IdleArgs {
    /// How long is measured, in seconds.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    #[command(flatten)]
    lab: LabArgs,
}

/// How long the guest is left alone after its boot, before the measurement begins.
const SETTLE: Duration = Duration::from_secs(15);

/// Goals: processor time in a minute, and how often something wakes up in a second.
const PROCESSOR_MS_PER_MINUTE: f64 = 3.0;
const WAKE_UPS_PER_SECOND: f64 = 0.2;

const MIB: f64 = 1024.0 * 1024.0;
const MB: f64 = 1e6;

/// A process, and how much memory it should take at most.
struct Subject {
    name: &'static str,
    process: Process,
    /// In MiB; `None` for programs that are not ours.
    memory: Option<f64>,
}

/// Measures and prints.
pub(super) fn run(workspace: &Workspace, args: &IdleArgs) -> Result<()> {
    let lab = Lab::set_up(workspace, &args.lab, Machine::Native)?;
    println!("bench: start an instance, and wait until it is idle");
    let instance = Instance::create(&lab)?;
    instance.stop()?;
    instance.start()?;
    sleep(SETTLE);
    let subjects = subjects(&instance)?;
    let program = guest_agent_program(&subjects);
    println!("bench: measure for {} s", args.seconds);
    let used = measure(&subjects, Duration::from_secs(u64::from(args.seconds)))?;
    println!(
        "\nIdle after READY, {} s, {}; {}",
        args.seconds,
        lab.machine.title(),
        describe_machine()
    );
    println!("Load average {}.\n", load());
    for (subject, used) in subjects.iter().zip(used) {
        subject.print(used, f64::from(args.seconds))?;
    }
    print_size("berth: command line and host agent", &lab.berth, 10.0)?;
    print_size("guest agent", &program, 2.0)?;
    instance.stop()?;
    Ok(())
}

fn subjects(instance: &Instance<'_>) -> Result<Vec<Subject>> {
    let host_agent = instance.host_agent()?;
    let ssh = host_agent
        .descendant("ssh")
        .context("the host agent has no ssh master")?;
    let guest_agent = instance.vm()?.descendant("berth-guestagent");
    Ok(vec![
        Subject {
            name: "host agent",
            process: host_agent,
            memory: Some(8.0),
        },
        Subject {
            name: "guest agent",
            process: guest_agent.context("no guest agent runs in the guest")?,
            memory: Some(4.0),
        },
        Subject {
            name: "ssh master",
            process: ssh,
            memory: None,
        },
    ])
}

/// The file that the guest agent runs from, in the guest's own root directory.
fn guest_agent_program(subjects: &[Subject]) -> PathBuf {
    let [_, guest_agent, ..] = subjects else {
        unreachable!("the guest agent is the second");
    };
    PathBuf::from(format!("/proc/{}/exe", guest_agent.process.pid()))
}

fn measure(subjects: &[Subject], duration: Duration) -> Result<Vec<Usage>> {
    let usage = || {
        subjects
            .iter()
            .map(|subject| subject.process.usage())
            .collect::<Result<Vec<_>>>()
    };
    let before = usage()?;
    sleep(duration);
    let after = usage()?;
    let differences = before.into_iter().zip(after).map(|(before, after)| Usage {
        processor: after.processor.saturating_sub(before.processor),
        wake_ups: after.wake_ups.saturating_sub(before.wake_ups),
    });
    Ok(differences.collect())
}

impl Subject {
    fn print(&self, used: Usage, seconds: f64) -> Result<()> {
        let goal = |value, limit, unit, digits| Goal::at_most(limit, value, unit, digits);
        let memory = mega(self.process.memory()?, MIB);
        let wake_ups = f64::from(u32::try_from(used.wake_ups).unwrap_or(u32::MAX)) / seconds;
        let processor = milliseconds(used.processor) * 60.0 / seconds;
        let rows = [
            (
                "memory (PSS)",
                goal(memory, self.memory.unwrap_or(f64::INFINITY), " MiB", 1),
            ),
            (
                "processor time in a minute",
                goal(processor, PROCESSOR_MS_PER_MINUTE, " ms", 1),
            ),
            (
                "wake-ups in a second",
                goal(wake_ups, WAKE_UPS_PER_SECOND, "", 2),
            ),
        ];
        for (what, goal) in rows {
            let name = format!("{}: {what}", self.name);
            if self.memory.is_some() {
                println!("{name:<42}{goal}");
            } else {
                println!("{name:<42}{:>11}", goal.measured());
            }
        }
        Ok(())
    }
}

fn print_size(name: &str, program: &Path, limit: f64) -> Result<()> {
    let metadata =
        fs::metadata(program).with_context(|| format!("look at {}", program.display()))?;
    let goal = Goal::at_most(limit, mega(metadata.len(), MB), " MB", 1);
    let name = format!("{name}: file");
    println!("{name:<42}{goal}");
    Ok(())
}

#[allow(
    clippy::cast_precision_loss,
    reason = "sizes that are shown with one digit after the point"
)]
fn mega(bytes: u64, unit: f64) -> f64 {
    bytes as f64 / unit
}
