//! `create`: a new instance, with its disk, ready to start.

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Args;

use crate::context::Context;
use crate::creation;
use crate::interrupt::{self, unless_interrupted};
use crate::target::Target;

/// Create an instance, and fetch its image.
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Template: a file, a URL, template:NAME, an image, or - for stdin [default: template:default]
    #[arg(value_name = "FILE|URL|-")]
    pub(crate) template: Option<String>,
    /// Name of the instance [default: the template's]
    #[arg(long)]
    pub(crate) name: Option<String>,
}

pub(crate) fn run(args: &CreateArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let host = context.host()?;
    let target = Target::of(
        args.template.as_deref(),
        args.name.as_deref(),
        context,
        &host,
    )?;
    let (name, template) = match &target {
        Target::New { name, template } => (name, template),
        Target::Existing(name) => bail!("instance {:?} already exists", name.as_str()),
    };
    interrupt::run(unless_interrupted(creation::create(
        context, &host, name, template, None,
    )))
    .with_context(|| format!("cannot create instance {:?}", name.as_str()))?;
    tracing::info!(
        "Run `{} start {name}` to start the instance.",
        context.program
    );
    Ok(ExitCode::SUCCESS)
}
