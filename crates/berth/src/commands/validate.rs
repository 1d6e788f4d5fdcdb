//! `validate`: whether files are configurations that could be started.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use berth_config::resolve::resolve;
use berth_config::template::Locator;
use berth_config::version::LimaVersion;
use berth_config::{Sources, yaml};
use berth_instance::dir::InstanceDir;
use clap::Args;

use crate::context::{Context, Host};
use crate::failure::chain_in_one_line;
use crate::instances;
use crate::output;
use crate::render::template;
use crate::target::read_template;

/// Check configuration files.
#[derive(Debug, Args)]
pub(crate) struct ValidateArgs {
    /// Files, URLs or template:NAME, or - for stdin
    #[arg(value_name = "FILE", required = true)]
    pub(crate) files: Vec<String>,
    /// Print the configuration with every default filled in
    #[arg(long)]
    pub(crate) fill: bool,
}

/// Checks every file, and fails after the last if one is wrong.
pub(crate) fn run(args: &ValidateArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let host = context.host()?;
    let mut wrong = Vec::new();
    for file in &args.files {
        match check(file, args.fill, context, &host) {
            Ok(()) => tracing::info!("{file:?}: OK"),
            Err(error) if args.files.len() == 1 => return Err(error),
            Err(error) => {
                tracing::error!("{}", chain_in_one_line(error.as_ref()));
                wrong.push(file.as_str());
            }
        }
    }
    if wrong.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    bail!(
        "{} of {} files cannot be used: {}",
        wrong.len(),
        args.files.len(),
        wrong.join(", ")
    )
}

fn check(argument: &str, print: bool, context: &Context, host: &Host) -> anyhow::Result<()> {
    let cwd = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
    let locator = match Locator::parse(argument, &cwd) {
        // Here a bare name is a file.
        Ok(Locator::Instance(_)) | Err(_) if cwd.join(argument).exists() => {
            Locator::File(cwd.join(argument))
        }
        locator => locator?,
    };
    let template = read_template(&locator, context, host)?;
    let name = locator.proposed_name(host.platform.arch);
    let dir = InstanceDir::new(host.home.path().join(name.as_deref().unwrap_or("stdin")));
    let sources = Sources::around(
        host.home.path(),
        yaml::load(&template.text, &template.name)?,
    )?;
    let resolving = instances::resolve_context(host, &dir, LimaVersion::current());
    let config = instances::check_new(resolve(&sources, &resolving)?, &resolving)?;
    if print {
        let config = serde_json::to_value(config).context("cannot print the configuration")?;
        let config = template::yaml(&config).context("cannot print the configuration")?;
        output::print(&(config + "\n"))?;
    }
    Ok(())
}
