//! `show-ssh`: how to reach an instance with plain ssh.

use std::process::ExitCode;

use anyhow::{Context as _, ensure};
use berth_ssh::config_file::{ConfigFile, Format as Form};
use clap::{Args, ValueEnum};

use crate::context::Context;
use crate::instances;
use crate::output;

/// Show how to reach an instance with ssh.
#[derive(Debug, Args)]
pub(crate) struct ShowSshArgs {
    /// Instance
    #[arg(value_name = "INSTANCE")]
    pub(crate) instance: String,
    /// What to show
    #[arg(short, long, default_value = "cmd")]
    pub(crate) format: Format,
}

/// The forms of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A command line
    Cmd,
    /// Its arguments
    Args,
    /// The options, one a line
    Options,
    /// A section of a configuration file
    Config,
}

impl From<Format> for Form {
    fn from(format: Format) -> Self {
        match format {
            Format::Cmd => Self::Cmd,
            Format::Args => Self::Args,
            Format::Options => Self::Options,
            Format::Config => Self::Config,
        }
    }
}

pub(crate) fn run(args: &ShowSshArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let host = context.host()?;
    let instance = instances::look_at_existing(&host, &args.instance)?;
    let path = instance.dir.ssh_config();
    ensure!(
        path.exists(),
        "instance {:?} has no {}: start it once to have it written",
        instance.name,
        path.display()
    );
    let config = ConfigFile::read(&path).context("cannot show how to reach the instance")?;
    tracing::warn!(
        "`{} show-ssh` is deprecated. Instead, use `ssh -F {} {}`.",
        context.program,
        path.display(),
        config.host
    );
    output::print(&config.show(args.format.into()))
}
