//! `hostagent`: the process that owns a virtual machine until its end.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use berth_config::name::InstanceName;
use berth_events::clock::SystemClock;
use berth_hostagent::{ServeOptions, serve};
use clap::Args;
use jiff::tz::TimeZone;
use tracing_subscriber::filter::LevelFilter;

use crate::context::Context;
use crate::environment::Environment;
use crate::interrupt;
use crate::logging;
use crate::sys;

/// Own the virtual machine of an instance until its end.
#[derive(Debug, Args)]
pub(crate) struct HostAgentArgs {
    /// Instance
    pub(crate) instance: String,
    /// File to write the pid to
    #[arg(short, long, value_name = "FILE")]
    pub(crate) pidfile: Option<PathBuf>,
    /// Unix socket to serve the HTTP API on
    #[arg(long, value_name = "FILE")]
    pub(crate) socket: PathBuf,
    /// Show the display of the VM (drivers that can do so without being told)
    #[arg(long)]
    pub(crate) run_gui: bool,
    /// Guest agent to install
    #[arg(long, value_name = "FILE")]
    pub(crate) guestagent: Option<PathBuf>,
    /// Archive of nerdctl to install
    #[arg(long, value_name = "FILE")]
    pub(crate) nerdctl_archive: Option<PathBuf>,
    /// Report the progress of cloud-init
    #[arg(long)]
    pub(crate) progress: bool,
}

/// Logs as JSON on stderr, tells events on stdout, and ends when the VM has ended.
pub(crate) fn run(args: HostAgentArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let log = logging::init_agent(level(context))?;
    let result = options(args, context)
        .and_then(|options| interrupt::run(async { Ok(serve(options).await?) }));
    // The reason of a failure comes after everything that was logged.
    drop(log);
    result.map(|()| ExitCode::SUCCESS)
}

/// One level more than other commands log.
fn level(context: &Context) -> LevelFilter {
    if context.global.debug_is_logged() {
        LevelFilter::TRACE
    } else {
        LevelFilter::DEBUG
    }
}

fn options(args: HostAgentArgs, context: &Context) -> anyhow::Result<ServeOptions> {
    let host = context.host()?;
    Ok(ServeOptions {
        name: InstanceName::parse(&args.instance)?,
        pidfile: args.pidfile,
        socket: args.socket,
        guest_agent: args.guestagent,
        nerdctl_archive: args.nerdctl_archive,
        progress: args.progress,
        debug: context.global.debug_is_logged(),
        env: Arc::clone(context.env.pairs()),
        stdout: sys::standard_output()
            .context("cannot use standard output for events")?
            .into(),
        clock: Arc::new(SystemClock::new(TimeZone::system())),
        auto_started_identifier: auto_started_identifier(&context.env),
        external_drivers: host.external_drivers,
        cache_dir: host.cache_dir,
        home: host.home,
        platform: host.platform,
    })
}

/// The service that started this process: launchd says it in the environment, systemd by the control group.
fn auto_started_identifier(env: &Environment) -> String {
    if let Some(label) = env.get("XPC_SERVICE_NAME").filter(|label| *label != "0") {
        return label.to_owned();
    }
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    unit_of(&groups).unwrap_or_default().to_owned()
}

/// The unit that autostart makes for an instance, out of the text of `/proc/self/cgroup`.
fn unit_of(groups: &str) -> Option<&str> {
    groups
        .split(['/', '\n'])
        .find(|unit| unit.starts_with("lima-vm@") && unit.ends_with(".service"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_unit_of_autostart_counts() {
        let session = "0::/user.slice/user-1000.slice/session-2.scope\n";
        assert_eq!(unit_of(session), None);
        let unit = "0::/user.slice/user-1000.slice/user@1000.service/app.slice/lima-vm@x.service\n";
        assert_eq!(unit_of(unit), Some("lima-vm@x.service"));
    }
}
