//! `copy`: files between this computer and instances, and between instances, by rsync or scp.
//!
//! Both attach to the login that the agent holds open. rsync is taken when both ends have it, because it goes on where it was
//! interrupted and skips what is there; it is told to lay files out as scp would, so that nobody has to know which one it was.

mod guest;
mod place;
mod rsync;
mod scp;

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Context as _, bail, ensure};
use berth_instance::dir::InstanceDir;
use berth_instance::pids::Processes;
use berth_ssh::tool::{SshTool, find_sibling};
use clap::{Args, ValueEnum};

use crate::context::{Context, Host};
use guest::Guest;
use place::Place;

/// Copy files between this computer and instances.
#[derive(Debug, Args)]
pub(crate) struct CopyArgs {
    /// Sources, then the target; INSTANCE:PATH is in an instance
    #[arg(value_name = "PATH", num_args = 2.., required = true)]
    pub(crate) places: Vec<String>,
    /// Copy directories with all they hold
    #[arg(short, long)]
    pub(crate) recursive: bool,
    /// Tell every file
    #[arg(short, long)]
    pub(crate) verbose: bool,
    /// Program that copies
    #[arg(long, value_name = "PROGRAM", default_value = "auto")]
    pub(crate) backend: Backend,
}

/// The program that copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Backend {
    /// rsync if both ends have it, else scp
    Auto,
    /// OpenSSH's scp
    Scp,
    /// rsync
    Rsync,
}

/// What is to be copied, and how it is told.
#[derive(Debug)]
struct Job {
    sources: Vec<Place>,
    target: Place,
    recursive: bool,
    told: Told,
}

/// How much the program says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    /// Errors.
    Errors,
    /// How far it is.
    Progress,
    /// Every file.
    Files,
}

pub(crate) fn run(args: &CopyArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let host = context.host()?;
    let job = Job::new(args)?;
    let path = context.env.get("PATH").unwrap_or_default();
    let ssh = SshTool::find(context.env.get("SSH"), path.as_ref())?;
    let guests = job.guests(&host, context)?;
    let mut command = match choose(args.backend, &job, &ssh, &guests)? {
        Chosen::Rsync(layout) => rsync::command(&job, &layout, &ssh, &guests)?,
        Chosen::Scp => {
            let scp = find_sibling(&ssh, "scp", path.as_ref())?;
            let joint = match &guests[..] {
                [_] => None,
                several => Some(scp::joint_config(several)?),
            };
            let config = joint.as_ref().map_or_else(
                || guests[0].dir.ssh_config(),
                |joint| joint.path().to_owned(),
            );
            return finish(&mut scp::command(&job, &scp, &config));
        }
    };
    finish(&mut command)
}

fn finish(command: &mut Command) -> anyhow::Result<ExitCode> {
    let program = PathBuf::from(command.get_program());
    let program = program.display();
    tracing::debug!(?command, "copying");
    let status = command
        .status()
        .with_context(|| format!("cannot run {program}"))?;
    ensure!(
        status.success(),
        "{program} ended with {status}; what it said stands above"
    );
    Ok(ExitCode::SUCCESS)
}

enum Chosen {
    Scp,
    Rsync(rsync::Layout),
}

fn choose(backend: Backend, job: &Job, ssh: &SshTool, guests: &[Guest]) -> anyhow::Result<Chosen> {
    if backend == Backend::Scp || (backend == Backend::Auto && guests.len() > 1) {
        return Ok(Chosen::Scp);
    }
    let missing = match guests {
        [_] if !rsync::is_here() => "this computer has no rsync 3".to_owned(),
        [guest] => match rsync::ask(job, ssh, guest)? {
            Some(layout) => return Ok(Chosen::Rsync(layout)),
            None => format!("instance {:?} has no rsync", guest.name.as_str()),
        },
        _ => "rsync does not copy between two instances".to_owned(),
    };
    ensure!(
        backend == Backend::Auto,
        "{missing}: install it, or leave --backend out"
    );
    tracing::debug!("{missing}: copying with scp");
    Ok(Chosen::Scp)
}

impl Job {
    fn new(args: &CopyArgs) -> anyhow::Result<Self> {
        let mut places = args.places.iter().map(|text| Place::parse(text));
        let target = places
            .next_back()
            .context("name what to copy, and where to")??;
        let sources = places.collect::<Result<Vec<_>, _>>()?;
        let told = if args.verbose {
            Told::Files
        } else if std::io::stdout().is_terminal() {
            Told::Progress
        } else {
            Told::Errors
        };
        Ok(Self {
            sources,
            target,
            recursive: args.recursive,
            told,
        })
    }

    fn places(&self) -> impl Iterator<Item = &Place> {
        self.sources.iter().chain([&self.target])
    }

    /// The instances that take part, each once. All must run.
    fn guests(&self, host: &Host, context: &Context) -> anyhow::Result<Vec<Guest>> {
        let mut guests: Vec<Guest> = Vec::new();
        for place in self.places() {
            let Place::Guest { instance, .. } = place else {
                continue;
            };
            if guests.iter().any(|guest| guest.name == *instance) {
                continue;
            }
            let dir = host.home.instance(instance);
            must_run(instance.as_str(), &dir, &context.program)?;
            guests.push(Guest {
                name: instance.clone(),
                dir,
            });
        }
        if guests.is_empty() {
            bail!("neither end is in an instance: write INSTANCE:PATH for the one that is");
        }
        Ok(guests)
    }
}

fn must_run(name: &str, dir: &InstanceDir, program: &str) -> anyhow::Result<()> {
    ensure!(
        dir.lima_yaml().exists(),
        "instance {name:?} does not exist, run `{program} start {name}` to create it; a file of this computer with a colon in its \
         name is written ./NAME"
    );
    ensure!(
        Processes::look(dir, None).agent.is_some() && dir.ssh_config().exists(),
        "instance {name:?} is stopped, run `{program} start {name}` to start the instance"
    );
    Ok(())
}
