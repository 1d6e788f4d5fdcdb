//! `bench mount`: berth's SFTP server beside OpenSSH's, each behind the same `sshfs`, on this machine: what lies between host and guest is
//! the same for both and left out. The sides take turns, and every measurement has a mount of its own, so that nothing is cached in it.
//! With `--through`, the same in a guest, through the agents.

mod mounted;
mod through;
pub(crate) mod work;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use super::lab::{LabArgs, describe_machine, load};
use super::stats::{Goal, Samples};
use crate::program::{Program, find};
use crate::workspace::Workspace;
use mounted::{Mounted, Server};
use work::{Ground, Sizes};

/// Arguments of `cargo xtask bench mount`.
#[derive(Debug, Args)]
pub(super) struct MountArgs {
    /// Only these measurements.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
    /// How often each is made, in turns.
    #[arg(long, default_value_t = 5)]
    runs: u32,
    /// Where the shared directories are made: the file system that is measured.
    #[arg(long, value_name = "DIRECTORY")]
    on: Option<PathBuf>,
    /// Files of the work tree that `git status` looks at; the others follow it.
    #[arg(long, default_value_t = 50_000)]
    files: usize,
    /// MB of the file that is read and written.
    #[arg(long, default_value_t = 512)]
    megabytes: u64,
    /// More options of `sshfs`, as after its `-o`.
    #[arg(long, value_name = "OPTIONS")]
    sshfs: Option<String>,
    /// In the native-speed guest, whose mounts the agents carry, instead of on this machine.
    #[arg(long, conflicts_with = "sshfs")]
    through: bool,
    #[command(flatten)]
    lab: LabArgs,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// `lstat` of every file, one after the other.
    Stat,
    /// `find`, which lists and looks at everything.
    Find,
    /// `git status` of a work tree that nothing is known of.
    GitStatus,
    /// Reading many small files.
    SmallFiles,
    /// Unpacking an archive of many small files.
    Untar,
    /// Removing what was unpacked.
    Remove,
    /// Reading one file from start to end.
    Read,
    /// Writing one file from start to end.
    Write,
    /// Reads of 4 KiB anywhere.
    RandomRead,
    /// Writes of 4 KiB anywhere.
    RandomWrite,
}

impl MountArgs {
    fn parts(&self) -> impl Iterator<Item = Part> {
        let all = Part::value_variants().iter().copied();
        all.filter(|part| self.only.is_empty() || self.only.contains(part))
    }
}

impl Part {
    fn word(self) -> String {
        self.to_possible_value()
            .map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// How much better than OpenSSH's server berth's is meant to be.
    fn goal(self) -> f64 {
        match self {
            Self::Stat
            | Self::Find
            | Self::GitStatus
            | Self::SmallFiles
            | Self::Untar
            | Self::Remove => 2.0,
            Self::Read | Self::Write => 1.5,
            Self::RandomRead | Self::RandomWrite => 1.0,
        }
    }
}

/// Where OpenSSH's server may be.
const OPENSSH: [&str; 5] = [
    "/usr/lib/openssh/sftp-server",
    "/usr/libexec/openssh/sftp-server",
    "/usr/libexec/sftp-server",
    "/usr/lib/ssh/sftp-server",
    "/usr/lib/sftp-server",
];

/// Builds, measures and prints.
pub(super) fn run(workspace: &Workspace, args: &MountArgs) -> Result<()> {
    let here = ["sshfs", "fusermount3", "dd", "find"];
    let here = here.iter().filter(|_| !args.through);
    for program in ["git", "tar"].iter().chain(here) {
        if find(program).is_none() {
            bail!("`{program}` is not installed, and this bench needs it");
        }
    }
    let openssh = OPENSSH.iter().map(Path::new).find(|path| path.is_file());
    let openssh = openssh.context("OpenSSH's sftp-server is not installed")?;
    let on = args.on.clone().unwrap_or_else(std::env::temp_dir);
    let directory = on.join(format!("berth-bench-mount.{}", std::process::id()));
    let ground = Ground::make(directory, Sizes::of(args.files, args.megabytes))?;
    if args.through {
        return through::run(workspace, args, &ground);
    }
    let berth = build(workspace)?;
    let servers = [
        Server::berth("berth", &berth, false),
        Server::berth("in the agent", &berth, true),
        Server::openssh("OpenSSH", openssh),
    ];
    println!("{}; load {}", describe_machine(), load());
    for part in args.parts() {
        let samples = measure(part, args, &ground, &servers)?;
        print(part, &servers, &samples);
    }
    println!("load at the end {}", load());
    Ok(())
}

fn build(workspace: &Workspace) -> Result<PathBuf> {
    Program::within(20, "cargo")
        .current_dir(workspace.root())
        .args(["build", "--release", "--locked", "-p", "berth-sftp"])
        .args(["--bin", "berth-sftp-server"])
        .run()?;
    Ok(workspace.target().join("release/berth-sftp-server"))
}

/// Seconds of each side.
fn measure(
    part: Part,
    args: &MountArgs,
    ground: &Ground,
    servers: &[Server; 3],
) -> Result<[Samples; 3]> {
    let mut samples = [const { None }; 3].map(|_: Option<()>| Samples::default());
    for run in 0..args.runs {
        // Who is first is not always the same.
        for turn in 0..servers.len() {
            let side = (turn + run as usize) % servers.len();
            ground.prepare(part)?;
            let options = args.sshfs.as_deref().unwrap_or_default();
            let mounted = Mounted::new(&servers[side], ground, options)?;
            let took = ground
                .work()
                .run(part, mounted.path())
                .with_context(|| format!("{part:?} on {}", servers[side].name()))?;
            samples[side].add(took);
            mounted.end()?;
        }
    }
    Ok(samples)
}

fn print(part: Part, servers: &[Server; 3], samples: &[Samples; 3]) {
    println!("\n{}", part.word());
    for (server, samples) in servers.iter().zip(samples) {
        println!("  {:<14}{samples}", server.name());
    }
    let [berth, agent, openssh] = samples;
    for (name, side) in [("", berth), (", in the agent", agent)] {
        if let (Some(ours), Some(theirs)) = (side.median(), openssh.median()) {
            let goal = Goal::at_least(part.goal(), theirs / ours, " x", 2);
            println!("  OpenSSH / berth{name:<16}{goal}");
        }
    }
}
