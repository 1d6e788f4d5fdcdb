//! `delete`: an instance and all its files.

use std::process::ExitCode;

use anyhow::{bail, ensure};
use berth_config::name::InstanceName;
use berth_instance::delete::remove;
use berth_instance::inspect::InspectError;
use clap::Args;

use crate::context::{Context, Host};
use crate::halt;
use crate::instances;
use crate::interrupt;

/// Delete instances.
#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// Instances
    #[arg(value_name = "INSTANCE", required = true)]
    pub(crate) instances: Vec<String>,
    /// Also one that runs or cannot be read
    #[arg(short, long)]
    pub(crate) force: bool,
}

pub(crate) fn run(args: &DeleteArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let host = context.host()?;
    interrupt::run(async {
        for name in &args.instances {
            delete(name, args.force, context, &host).await?;
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// Deletes one instance. One that does not exist needs no deleting.
async fn delete(name: &str, force: bool, context: &Context, host: &Host) -> anyhow::Result<()> {
    let name = InstanceName::parse(name)?;
    let dir = host.home.instance(&name);
    match instances::look(host, name.as_str()) {
        Err(InspectError::NoInstance(_)) => {
            tracing::warn!("Ignoring non-existent instance {:?}", name.as_str());
            return Ok(());
        }
        Err(error) if !force => bail!(
            "{error}; `{} delete -f {name}` removes the directory",
            context.program
        ),
        Err(_) => {}
        Ok(instance) => {
            ensure!(
                !instance.protected,
                "instance {:?} is protected: `limactl unprotect {name}` makes it deletable",
                name.as_str()
            );
            ensure!(
                force || instance.is_stopped(),
                "instance {:?} is not stopped: stop it first with `{} stop {name}`, or use `delete -f`",
                name.as_str(),
                context.program
            );
        }
    }
    if force {
        halt::by_force(&host.home, &dir, context).await?;
    } else {
        halt::unlock_disks(&host.home, &dir)?;
    }
    match berth_driver::forget(&dir, context.env.pairs()).await {
        Err(error) if force => tracing::warn!("{:#}", anyhow::Error::from(error)),
        forgotten => forgotten?,
    }
    remove(&dir)?;
    tracing::info!("Deleted {:?} ({})", name.as_str(), dir.path().display());
    Ok(())
}
