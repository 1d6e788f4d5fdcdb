//! `start`: an instance, created first if need be, up to the moment when it is ready.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use berth_config::name::InstanceName;
use berth_events::state::State;
use berth_instance::dir::InstanceDir;
use berth_instance::inspect::Inspection;
use berth_process::adopt::Adopted;
use berth_process::exit::Exit;
use berth_process::identity::ProcessIdentity;
use clap::Args;
use tokio::sync::watch;

use crate::context::{Context, Host};
use crate::creation;
use crate::duration;
use crate::instances;
use crate::interrupt::{self, Interrupted, unless_interrupted};
use crate::launch::Launch;
use crate::prepare::{self, Prepared};
use crate::progress::Display;
use crate::readiness::{AgentFollower, NotReady, Readiness, Wish};
use crate::sys::{self, DirectoryLock};
use crate::target::Target;

/// Lima's limit; Windows guests install themselves at their first boot.
const PATIENCE: Duration = Duration::from_mins(10);

/// Start an instance, creating it first if need be.
#[derive(Debug, Default, Args)]
pub(crate) struct StartArgs {
    /// Instance, or a template: a file, a URL, template:NAME, an image, or - for stdin [default: default]
    #[arg(value_name = "NAME|FILE|URL|-")]
    pub(crate) target: Option<String>,
    /// Name of the instance to create [default: the template's]
    #[arg(long)]
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) options: StartOptions,
    /// Become the host agent instead of starting one
    #[arg(long)]
    pub(crate) foreground: bool,
}

/// How to start an instance, whichever it is.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct StartOptions {
    /// Give up waiting after this time, such as 90s or 1h15m; the instance goes on starting [default: 10m]
    #[arg(long, value_parser = duration::parse, allow_hyphen_values = true)]
    pub(crate) timeout: Option<Duration>,
    /// Show what cloud-init prints
    #[arg(long)]
    pub(crate) progress: bool,
    /// Guest agent to install instead of the one that came with this program
    #[arg(long, value_name = "FILE", hide = true)]
    pub(crate) guestagent: Option<PathBuf>,
}

impl StartOptions {
    /// Zero, and what Go reads as less, means no wish.
    fn patience(&self) -> Duration {
        self.timeout
            .filter(|timeout| !timeout.is_zero())
            .unwrap_or(PATIENCE)
    }
}

pub(crate) fn run(args: &StartArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let host = context.host()?;
    let target = Target::of(args.target.as_deref(), args.name.as_deref(), context, &host)?;
    if args.foreground {
        return in_foreground(&target, &args.options, context, &host);
    }
    interrupt::run(start(&target, &args.options, context, &host))
}

/// Starts what was asked for, and waits until it is ready.
pub(crate) async fn start(
    target: &Target,
    options: &StartOptions,
    context: &Context,
    host: &Host,
) -> anyhow::Result<ExitCode> {
    let starter = Starter {
        options,
        context,
        host,
    };
    match target {
        Target::Existing(name) => starter.existing(name).await,
        Target::New { name, template } => {
            let guest_agent = options.guestagent.as_deref();
            let creating = creation::create(context, host, name, template, guest_agent);
            let created = unless_interrupted(creating)
                .await
                .with_context(|| format!("cannot create instance {:?}", name.as_str()))?;
            starter
                .launch(name, &created.dir, &created.prepared, created.alone)
                .await
        }
    }
}

struct Starter<'a> {
    options: &'a StartOptions,
    context: &'a Context,
    host: &'a Host,
}

impl Starter<'_> {
    async fn existing(&self, name: &InstanceName) -> anyhow::Result<ExitCode> {
        let dir = self.host.home.instance(name);
        let alone = self.keep_others_out(&dir)?;
        let instance = instances::look_at_existing(self.host, name.as_str())?;
        match self.judge(&instance)? {
            Situation::Ready => {
                tracing::info!(
                    "The instance {:?} is already running. Run `{} shell {name}` to open the shell.",
                    instance.name,
                    self.context.program
                );
                Ok(ExitCode::SUCCESS)
            }
            Situation::Starting(agent) => {
                drop(alone);
                tracing::info!(
                    "The instance {:?} is already starting; waiting for it",
                    instance.name
                );
                let follower = AgentFollower::new(&dir)?;
                self.wait(name, &dir, follower, agent.exit()).await
            }
            Situation::Stopped => {
                let prepared = unless_interrupted(self.prepare(&dir))
                    .await
                    .with_context(|| format!("cannot start instance {:?}", name.as_str()))?;
                self.launch(name, &dir, &prepared, alone).await
            }
        }
    }

    /// Two starts of one instance at the same time would empty each other's log files.
    fn keep_others_out(&self, dir: &InstanceDir) -> anyhow::Result<DirectoryLock> {
        sys::lock_directory(dir.path(), || {
            tracing::info!(
                "Another `{} start` is preparing this instance; waiting for it",
                self.context.program
            );
        })
        .with_context(|| format!("cannot lock {}", dir.path().display()))
    }

    async fn prepare(&self, dir: &InstanceDir) -> anyhow::Result<Prepared> {
        let config = instances::load_for_start(self.host, dir)?;
        let guest_agent = self.options.guestagent.as_deref();
        prepare::prepare(self.context, self.host, dir, config, guest_agent).await
    }

    /// What the instance is doing, or why it cannot be started.
    fn judge(&self, instance: &Inspection) -> anyhow::Result<Situation> {
        let (name, program) = (&instance.name, &self.context.program);
        match &instance.berth_state {
            Some(State::Running | State::Degraded { .. }) => Ok(Situation::Ready),
            Some(State::Starting { .. } | State::Adopting) => match instance.host_agent_pid {
                Some(pid) => match Adopted::open(ProcessIdentity::of(pid)?)? {
                    Some(agent) => Ok(Situation::Starting(agent)),
                    None => Ok(Situation::Stopped),
                },
                None => bail!(
                    "instance {name:?} is being started by an agent whose pid is not known yet; try again"
                ),
            },
            Some(State::Stopping) => {
                bail!("instance {name:?} is stopping; try again when it has stopped")
            }
            Some(State::Orphaned) => bail!(
                "the VM of instance {name:?} is alive (pid {}) without a host agent: end it with `{program} stop {name}`, \
                 then start again",
                instance.driver_pid.unwrap_or_default()
            ),
            Some(State::Stopped | State::Failed { .. }) | None => Ok(Situation::Stopped),
        }
    }

    /// Starts the agent and waits until the instance is ready. Until then other starts are kept out.
    async fn launch(
        &self,
        name: &InstanceName,
        dir: &InstanceDir,
        prepared: &Prepared,
        _alone: DirectoryLock,
    ) -> anyhow::Result<ExitCode> {
        let launch = self.launch_of(name, dir, prepared);
        let agent = launch.spawn()?;
        let follower = AgentFollower::new(dir)?;
        self.wait(name, dir, follower, agent.exit()).await
    }

    fn launch_of<'a>(
        &self,
        name: &'a InstanceName,
        dir: &'a InstanceDir,
        prepared: &'a Prepared,
    ) -> Launch<'a> {
        Launch {
            name: name.as_str(),
            dir,
            prepared,
            progress: self.options.progress,
            debug: self.context.global.debug_is_logged(),
        }
    }

    async fn wait(
        &self,
        name: &InstanceName,
        dir: &InstanceDir,
        follower: AgentFollower,
        exit: watch::Receiver<Option<Exit>>,
    ) -> anyhow::Result<ExitCode> {
        let wish = Wish {
            timeout: self.options.patience(),
            progress: self.options.progress,
        };
        let display = Display::new(&self.context.display, self.context.interactive);
        let waiting = async { Ok(follower.wait(exit, &wish, &display).await?) };
        match unless_interrupted(waiting).await {
            Ok(Readiness::Ready) => self.welcome(name, dir),
            Ok(Readiness::Degraded(causes)) => bail!(
                "the instance runs, but not everything works:\n{}\n`{} shell {name}` opens a shell; the log is in {}",
                escaped(&causes),
                self.context.program,
                dir.ha_stderr_log().display()
            ),
            Err(error) if goes_on(&error) => Err(error.context(format!(
                "instance {:?} goes on starting; `{} stop {name}` ends it",
                name.as_str(),
                self.context.program
            ))),
            Err(error) => Err(error),
        }
    }

    fn welcome(&self, name: &InstanceName, dir: &InstanceDir) -> anyhow::Result<ExitCode> {
        let instance = instances::look_at_existing(self.host, name.as_str())?;
        let plain = instance.config.as_ref().is_some_and(|config| config.plain);
        if plain {
            let config = dir.ssh_config();
            tracing::info!(
                "READY. Run `ssh -F {} {}` to open the shell.",
                config.display(),
                instance.hostname
            );
        } else {
            tracing::info!(
                "READY. Run `{} shell {name}` to open the shell.",
                self.context.program
            );
        }
        show_message(&instance)
    }
}

/// Whether only the wait is over, and not the start.
fn goes_on(error: &anyhow::Error) -> bool {
    error.is::<Interrupted>() || error.downcast_ref().is_some_and(NotReady::goes_on)
}

/// What an instance that is to be started is doing.
enum Situation {
    Stopped,
    Starting(Adopted),
    Ready,
}

fn escaped(causes: &[String]) -> String {
    let causes = causes
        .iter()
        .map(|cause| berth_process::escape::escape_untrusted_lines(cause.as_bytes()));
    causes.collect::<Vec<_>>().join("\n")
}

/// The message of the configuration, line by line and without decoration, so that it can be copied.
fn show_message(instance: &Inspection) -> anyhow::Result<ExitCode> {
    if !instance.message.is_empty() {
        tracing::info!("Message from the instance {:?}:", instance.name);
        let text = format!("{}\n", instance.message.trim_end());
        io::stderr()
            .write_all(text.as_bytes())
            .context("cannot write to standard error")?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Prepares in this process, then becomes the agent: service managers want to see one process.
fn in_foreground(
    target: &Target,
    options: &StartOptions,
    context: &Context,
    host: &Host,
) -> anyhow::Result<ExitCode> {
    let starter = Starter {
        options,
        context,
        host,
    };
    let (name, dir, prepared) = interrupt::run(async {
        match target {
            Target::New { name, template } => {
                let guest_agent = options.guestagent.as_deref();
                let creating = creation::create(context, host, name, template, guest_agent);
                let created = unless_interrupted(creating).await?;
                Ok((name, created.dir, created.prepared))
            }
            Target::Existing(name) => {
                let _alone = starter.keep_others_out(&host.home.instance(name))?;
                let instance = instances::look_at_existing(host, name.as_str())?;
                match starter.judge(&instance)? {
                    Situation::Stopped => {
                        let prepared = unless_interrupted(starter.prepare(&instance.dir)).await?;
                        Ok((name, instance.dir, prepared))
                    }
                    Situation::Starting(_) | Situation::Ready => {
                        bail!("instance {name} is already running")
                    }
                }
            }
        }
    })?;
    let launch = starter.launch_of(name, &dir, &prepared);
    let mut agent = launch.in_foreground(io::stdin().is_terminal())?;
    sys::become_program(&mut agent).context("cannot become the host agent")
}
