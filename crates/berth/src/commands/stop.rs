//! `stop`: an ordered end, or a quick one.

use std::process::ExitCode;

use clap::Args;

use crate::context::{Context, Host};
use crate::halt;
use crate::instances;
use crate::interrupt;

/// Stop instances.
#[derive(Debug, Args)]
pub(crate) struct StopArgs {
    /// Instances
    #[arg(value_name = "INSTANCE", default_value = "default")]
    pub(crate) instances: Vec<String>,
    /// Kill what does not stop, and remove what it leaves
    #[arg(short, long)]
    pub(crate) force: bool,
}

/// Stops one instance after the other. The first failure ends the command, as with Lima.
pub(crate) fn run(args: &StopArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let host = context.host()?;
    interrupt::run(async {
        for name in &args.instances {
            stop(name, args.force, context, &host).await?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// Stops one instance.
pub(crate) async fn stop(
    name: &str,
    force: bool,
    context: &Context,
    host: &Host,
) -> anyhow::Result<()> {
    let instance = instances::look_at_existing(host, name)?;
    if force {
        halt::by_force(&host.home, &instance.dir, context).await
    } else {
        halt::in_order(&host.home, &instance, context).await
    }
}
