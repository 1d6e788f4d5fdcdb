//! `restart`: stop, then start.

use std::process::ExitCode;

use berth_config::name::InstanceName;
use clap::Args;

use crate::commands::start::{self, StartOptions};
use crate::commands::stop;
use crate::context::Context;
use crate::instances;
use crate::interrupt;
use crate::target::Target;

/// Stop an instance and start it again.
#[derive(Debug, Args)]
pub(crate) struct RestartArgs {
    /// Instance
    #[arg(value_name = "INSTANCE", default_value = "default")]
    pub(crate) instance: String,
    /// Kill what does not stop
    #[arg(short, long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) options: StartOptions,
}

/// One that does not run is only started.
pub(crate) fn run(args: &RestartArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let host = context.host()?;
    let name = InstanceName::parse(&args.instance)?;
    let instance = instances::look_at_existing(&host, name.as_str())?;
    interrupt::run(async {
        if instance.is_stopped() {
            tracing::warn!("Instance {:?} is not running; starting it", instance.name);
        } else {
            stop::stop(name.as_str(), args.force, context, &host).await?;
        }
        start::start(
            &Target::Existing(name.clone()),
            &args.options,
            context,
            &host,
        )
        .await
    })
}
