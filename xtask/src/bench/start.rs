//! `bench start`: `berth start` until READY beside the same guest booted bare until sshd accepts a login, and `berth stop`
//! beside the guest's own power-off.

use std::thread::sleep;
use std::time::Duration;

use anyhow::Result;
use clap::Args;

use super::bare::{Bare, Booted};
use super::instance::{Instance, Started, Stopped};
use super::lab::{Lab, LabArgs, Machine, describe_machine, load};
use super::stats::{Goal, Samples, milliseconds};
use crate::workspace::Workspace;

/// Arguments of `cargo xtask bench start`.
#[derive(Debug, Args)]
pub(super) struct StartArgs {
    /// How many times each side is started, in turns.
    #[arg(long, default_value_t = 5)]
    pairs: u32,
    /// What runs the guest.
    #[arg(long, value_enum, default_value = "native")]
    guest: Machine,
    #[command(flatten)]
    lab: LabArgs,
}

/// How long a guest is left alone before its power button is pressed.
const SETTLE: Duration = Duration::from_secs(2);

/// Goals: READY by the bare login, READY after the guest's last stage, QEMU after the command, stop after the guest's power-off.
const READY_RATIO: f64 = 1.10;
const READY_LAG: f64 = 50.0;
const VM_SPAWNED: f64 = 50.0;
const STOP_LAG: f64 = 50.0;

/// Measures and prints.
pub(super) fn run(workspace: &Workspace, args: &StartArgs) -> Result<()> {
    let lab = Lab::set_up(workspace, &args.lab, args.guest)?;
    let before = load();
    println!("bench: first boots, which are not measured");
    let instance = Instance::create(&lab)?;
    let bare = Bare::like(&instance)?;
    sleep(SETTLE);
    instance.stop()?;
    let mut table = Table::default();
    bare_turn(&bare, args.guest)?;
    for pair in 0..args.pairs {
        println!("bench: pair {} of {}", pair + 1, args.pairs);
        // What the second of two finds in the caches, each side finds as often.
        if pair % 2 == 0 {
            table.add_bare(bare_turn(&bare, args.guest)?);
            table.add_berth(berth_turn(&instance)?);
        } else {
            table.add_berth(berth_turn(&instance)?);
            table.add_bare(bare_turn(&bare, args.guest)?);
        }
    }
    println!(
        "\nStart and stop of an existing guest, {}; {}",
        args.guest.title(),
        describe_machine()
    );
    println!(
        "Load average {before} before, {} after. From the command; median (range).\n",
        load()
    );
    table.print();
    Ok(())
}

fn bare_turn(bare: &Bare<'_>, machine: Machine) -> Result<(Booted, Duration)> {
    let (running, booted) = bare.boot()?;
    sleep(SETTLE);
    Ok((booted, running.power_off(machine.boot_limit())?))
}

fn berth_turn(instance: &Instance<'_>) -> Result<(Started, Stopped)> {
    let started = instance.start()?;
    sleep(SETTLE);
    Ok((started, instance.stop()?))
}

/// Everything that was measured.
#[derive(Debug, Default)]
struct Table {
    bare_banner: Samples,
    bare_login: Samples,
    bare_multi_user: Samples,
    bare_cloud_init: Samples,
    bare_power_off: Samples,
    vm_spawned: Samples,
    vm_runs: Samples,
    boot_done: Samples,
    ready: Samples,
    ready_lag: Samples,
    multi_user: Samples,
    cloud_init: Samples,
    stop: Samples,
    stop_without_vm: Samples,
}

impl Table {
    fn add_bare(&mut self, (booted, power_off): (Booted, Duration)) {
        self.bare_banner.add(booted.banner);
        self.bare_login.add(booted.login);
        self.bare_multi_user.add(booted.multi_user);
        self.bare_cloud_init.add(booted.cloud_init);
        self.bare_power_off.add(power_off);
    }

    fn add_berth(&mut self, (started, stopped): (Started, Stopped)) {
        println!(
            "bench: READY after {:.0} ms, stop {:.0} ms",
            milliseconds(started.ready),
            milliseconds(stopped.command)
        );
        self.vm_spawned.add(started.vm_spawned);
        self.vm_runs.add(started.vm_runs);
        self.boot_done.add(started.boot_done);
        self.ready.add(started.ready);
        self.ready_lag
            .add(started.ready.saturating_sub(started.boot_done));
        self.multi_user.add(started.multi_user);
        self.cloud_init.add(started.cloud_init);
        self.stop.add(stopped.command);
        self.stop_without_vm.add(stopped.without_vm);
    }

    fn print(&self) {
        for (name, samples) in [
            ("bare: sshd's banner", &self.bare_banner),
            ("bare: login accepted", &self.bare_login),
            ("bare: multi-user.target", &self.bare_multi_user),
            ("bare: cloud-init finished", &self.bare_cloud_init),
            ("berth: QEMU started", &self.vm_spawned),
            ("berth: QEMU answers", &self.vm_runs),
            (
                "berth: the guest says that its boot is done",
                &self.boot_done,
            ),
            ("berth: READY", &self.ready),
            (
                "berth: READY after the guest's boot was done",
                &self.ready_lag,
            ),
            ("berth: multi-user.target", &self.multi_user),
            ("berth: cloud-init finished", &self.cloud_init),
            (
                "bare: power button until the machine is gone",
                &self.bare_power_off,
            ),
            ("berth: stop", &self.stop),
            (
                "berth: stop, after the machine is gone",
                &self.stop_without_vm,
            ),
        ] {
            println!("{name:<46}{samples}");
        }
        println!();
        for (name, goal) in self.goals() {
            println!("{name:<46}{goal}");
        }
    }

    fn goals(&self) -> Vec<(&'static str, Goal)> {
        let median = |samples: &Samples| samples.median().unwrap_or(f64::NAN);
        let lag = |value, limit| Goal::at_most(limit, value, " ms", 0);
        let ratio = median(&self.ready) / median(&self.bare_login);
        vec![
            (
                "READY / bare login",
                Goal::at_most(READY_RATIO, ratio, " x", 2),
            ),
            (
                "READY after the guest's boot was done",
                lag(median(&self.ready_lag), READY_LAG),
            ),
            (
                "command until QEMU is started",
                lag(median(&self.vm_spawned), VM_SPAWNED),
            ),
            (
                "stop, more than the guest's own power-off",
                lag(median(&self.stop) - median(&self.bare_power_off), STOP_LAG),
            ),
        ]
    }
}
