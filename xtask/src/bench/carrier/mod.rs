//! `bench carrier`: what lies between host agent and guest agent, with nothing but a plain program at each end.
//!
//! One boot of the guest image, with the program as its only process, serves all carriers, which take turns. Only one
//! vsock device finds a driver in a guest, so each kind of vsock has a boot of its own.

mod carriers;
mod machine;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};

use super::lab::{describe_machine, load};
use super::stats::Samples;
use crate::binaries::Binaries;
use crate::image::Image;
use crate::traffic::{Task, client};
use crate::workspace::Workspace;
use carriers::{Carrier, Stream, Vsock};
use machine::Machine;

/// Arguments of `cargo xtask bench carrier`.
#[derive(Debug, Args)]
pub(super) struct CarrierArgs {
    /// How often each carrier is measured, in turns.
    #[arg(long, default_value_t = 5)]
    runs: u32,
    /// MB of one transfer.
    #[arg(long, default_value_t = 64)]
    megabytes: u64,
    /// Round trips of one measurement.
    #[arg(long, default_value_t = 2000)]
    round_trips: usize,
    /// What runs the guest's processors.
    #[arg(long, value_enum, default_value = "tcg")]
    accel: Accel,
    /// The vhost-user vsock device [default: `vhost-device-vsock` on PATH].
    #[arg(long, value_name = "PROGRAM")]
    vsock_device: Option<PathBuf>,
}

/// QEMU's accelerators for Linux.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Accel {
    /// None.
    Tcg,
    /// The kernel's.
    Kvm,
}

/// Size of a ping-pong message.
const MESSAGE: usize = 64;

/// Transferred before the first measurement, for caches, translated code and TCP's windows.
const WARM_UP: u64 = 16 << 20;

/// Boots, measures and prints.
pub(super) fn run(workspace: &Workspace, args: &CarrierArgs) -> Result<()> {
    let program = Binaries::traffic(workspace)?;
    let image = Image::obtain(false)?;
    let before = load();
    let mut rows: Vec<(Carrier, Row)> = Vec::new();
    for vsock in Vsock::available(args.vsock_device.as_deref()) {
        println!("bench: boot a guest with {vsock}");
        let machine = Machine::boot(&image, &program, args.accel, &vsock)?;
        let mut open = Carrier::of(&vsock)
            .into_iter()
            .map(|carrier| carrier.warm_up(&machine).map(|stream| (carrier, stream)))
            .collect::<Result<Vec<_>>>()?;
        for run in 0..args.runs {
            println!("bench: run {} of {}", run + 1, args.runs);
            for (carrier, stream) in &mut open {
                let known = rows.iter().position(|(known, _)| known == carrier);
                let row = known.unwrap_or_else(|| {
                    rows.push((carrier.clone(), Row::default()));
                    rows.len() - 1
                });
                rows[row]
                    .1
                    .measure(stream, args)
                    .with_context(|| format!("measure {carrier}"))?;
            }
        }
    }
    println!(
        "\nCarriers with plain ends, {} with 2 processors; {}",
        args.accel.title(),
        describe_machine()
    );
    println!(
        "Load average {before} before, {} after. Median (range).\n",
        load()
    );
    for (carrier, row) in &rows {
        println!("{carrier}");
        row.print();
    }
    Ok(())
}

impl Carrier {
    /// Opens it, once and for all: what a second host connection to a serial port finds is no concern of this bench. The
    /// serial port comes first, and keeps what is sent to it until the guest has booted.
    fn warm_up(&self, machine: &Machine) -> Result<Box<dyn Stream>> {
        let open = || -> Result<_> {
            let mut stream = self.open(machine)?;
            client::bulk(&mut stream, Task::Upload(WARM_UP))?;
            client::bulk(&mut stream, Task::Download(WARM_UP))?;
            Ok(stream)
        };
        open().with_context(|| {
            let console = machine.last_words();
            format!("first bytes through {self}; the guest's last words:\n{console}")
        })
    }
}

/// What one carrier came to.
#[derive(Debug, Default)]
struct Row {
    to_guest: Samples,
    to_host: Samples,
    median: Samples,
    high: Samples,
}

impl Row {
    fn measure(&mut self, stream: &mut Box<dyn Stream>, args: &CarrierArgs) -> Result<()> {
        let bytes = args.megabytes * 1_000_000;
        let mut rate = |task| -> Result<f64> { Ok(rate(bytes, client::bulk(stream, task)?)) };
        self.to_guest.push(rate(Task::Upload(bytes))?);
        self.to_host.push(rate(Task::Download(bytes))?);
        let latencies = client::ping_pong(stream, MESSAGE, args.round_trips)?;
        self.median.push(latencies.percentile(50));
        self.high.push(latencies.percentile(99));
        Ok(())
    }

    fn print(&self) {
        for (name, samples, unit) in [
            ("host to guest", &self.to_guest, "MB/s"),
            ("guest to host", &self.to_host, "MB/s"),
            ("ping-pong of 64 B, p50", &self.median, "µs"),
            ("ping-pong of 64 B, p99", &self.high, "µs"),
        ] {
            println!("    {name:<28}{}", samples.show(unit));
        }
    }
}

/// In MB/s.
#[allow(clippy::cast_precision_loss, reason = "sizes far below 2^52")]
fn rate(bytes: u64, took: Duration) -> f64 {
    bytes as f64 / 1e6 / took.as_secs_f64()
}

impl Accel {
    fn title(self) -> &'static str {
        match self {
            Self::Tcg => "QEMU under TCG",
            Self::Kvm => "QEMU with KVM",
        }
    }
}
