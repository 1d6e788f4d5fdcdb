//! Measurements. Absolute times move with the machine, so whatever can be compared is measured in the same run, in turns.

mod bare;
mod carrier;
mod console;
mod dns;
mod forward;
mod idle;
mod instance;
mod lab;
mod login;
mod monitor;
pub(crate) mod mount;
mod processes;
mod start;
mod stats;

use anyhow::Result;
use clap::{Args, Subcommand};

use crate::workspace::Workspace;

/// Arguments of `cargo xtask bench`.
#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// `berth start` until READY beside the same guest booted bare, and `berth stop` beside its power-off.
    Start(start::StartArgs),
    /// Memory, processor time and wake-ups of the agents when nothing happens, and the size of the binaries.
    Idle(idle::IdleArgs),
    /// Forwarded ports beside Lima's forwarders (LIMACTL names a `limactl`) and beside what the kernel can do.
    Forward(forward::ForwardArgs),
    /// The host resolver beside dnsmasq and Lima's (LIMACTL names a `limactl`).
    Dns(dns::DnsArgs),
    /// Throughput and latency of what can lie between the agents, with plain programs at both ends.
    Carrier(carrier::CarrierArgs),
    /// The SFTP server of shared directories beside OpenSSH's, behind the same sshfs.
    Mount(mount::MountArgs),
}

/// Builds what is measured, measures, and prints a table.
pub(crate) fn run(workspace: &Workspace, args: &BenchArgs) -> Result<()> {
    match &args.bench {
        Bench::Start(args) => start::run(workspace, args),
        Bench::Idle(args) => idle::run(workspace, args),
        Bench::Forward(args) => forward::run(workspace, args),
        Bench::Dns(args) => dns::run(workspace, args),
        Bench::Carrier(args) => carrier::run(workspace, args),
        Bench::Mount(args) => mount::run(workspace, args),
    }
}
