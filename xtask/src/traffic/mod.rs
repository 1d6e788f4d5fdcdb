//! The programs at both ends of what the benches measure: servers, clients, and a plain relay. The same binary, built
//! statically, runs in the guest as `xtask traffic …`; the host's side is called as functions.

mod block;
pub(crate) mod carriers;
pub(crate) mod client;
pub(crate) mod ports;
pub(crate) mod relay;
mod request;
pub(crate) mod server;
mod udp;

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};

use crate::bench::mount::{Part, work::Work};
pub(crate) use request::Task;
pub(crate) use udp::{blast, ping};

/// Arguments of `xtask traffic`.
#[derive(Debug, Args)]
pub(crate) struct TrafficArgs {
    #[command(subcommand)]
    role: Role,
}

#[derive(Debug, Subcommand)]
enum Role {
    /// Answer on a TCP and a UDP port until standard input ends.
    Serve {
        /// Where.
        address: SocketAddr,
    },
    /// Open and close ports as standard input says.
    Ports,
    /// Answer on every carrier between host and guest; the only process of a guest.
    Carriers,
    /// Work on a mount, and say how many nanoseconds that took.
    Mount {
        /// What to do.
        part: Part,
        /// The directory, on the mount.
        place: PathBuf,
        #[command(flatten)]
        work: Work,
    },
    /// Pass connections on, with as little as the kernel can do it with.
    Relay {
        /// `tcp:ADDRESS:PORT` or `unix:PATH`.
        from: relay::Place,
        /// The same.
        to: relay::Place,
    },
}

/// Plays one role until its input ends, or the process.
pub(crate) fn run(args: &TrafficArgs) -> Result<()> {
    match &args.role {
        Role::Serve { address } => server::serve(*address),
        Role::Ports => ports::run(std::io::stdin().lock(), std::io::stdout().lock()),
        Role::Carriers => carriers::run(),
        Role::Mount { part, place, work } => {
            println!("{}", work.run(*part, place)?.as_nanos());
            Ok(())
        }
        Role::Relay { from, to } => relay::Relay::listen(from)?.run(to),
    }
}
