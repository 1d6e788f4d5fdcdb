//! What `vfkit` and `krunkit` have in common: one process for each VM, a command line of `--device` words, vsock ports that are
//! unix sockets of the host, and a small HTTP service for the VM's state. What differs is each one's [`Flavour`], in a folder of
//! its own.
//!
//! | module | owns |
//! |---|---|
//! | `plan` | from configuration to what the VM is made of |
//! | `words` | the command line's vocabulary |
//! | `checks` | what none of them can express, by key of lima.yaml |
//! | `start`, `stop` | one life of a VM |
//! | `rest` | the HTTP service |
//! | `files` | sockets and logs of a life |
//! | `bell` | the guest agent tells that it listens |
//! | `ssh` | from a TCP port of the host to sshd's vsock port |

mod bell;
mod checks;
mod files;
mod plan;
mod rest;
mod ssh;
mod start;
mod stop;
mod words;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use berth_config::model::{Config, MountType};
use berth_config::platform::HostPlatform;
use berth_image::disk::{self, Wanted};

pub use plan::{Boot, Disk, Nic, Plan, Share, Way};
pub(crate) use stop::stop_orphan;
pub use words::Words;
pub(crate) use words::pair;

use crate::driver::{
    Carrier, DefaultNetwork, Driver, DriverContext, DriverFeatures, DriverInfo, RunningVm,
    SnapshotAction, SshPort, StopLadder,
};
use crate::error::DriverError;
use crate::files::disk_files;
use crate::kit::rest::ANSWER_LIMIT;
use crate::life::Life;
use crate::process::connect_within;
use crate::programs;

/// vsock port where the guest agent listens: Lima's.
pub const AGENT_PORT: u32 = 2222;
/// vsock port of the host that the guest agent rings when it listens.
pub const BELL_PORT: u32 = 2223;
/// vsock port of sshd in the guest.
pub const SSH_PORT: u32 = 22;

/// How long the program may take until the VM runs: vfkit gives up after five seconds itself, and Rosetta may be installed first.
const START_LIMIT: Duration = Duration::from_secs(120);

/// What is different from program to program.
pub trait Flavour: fmt::Debug + Send + Sync {
    /// The word of `vmType`.
    fn name(&self) -> &'static str;
    /// The program.
    fn program(&self) -> &'static str;
    /// How to get it.
    fn install(&self) -> &'static str;
    /// Whether its HTTP service can end a VM that does not react.
    fn has_hard_stop(&self) -> bool;
    /// Characters that a path on its command line cannot have.
    fn forbidden_in_paths(&self) -> &'static [char];
    /// Beside what none of them can: every reason why it cannot run this configuration here.
    fn problems(&self, config: &Config, host: &HostPlatform) -> Vec<DriverError>;
    /// What is accepted, but does nothing.
    fn warnings(&self, config: &Config, host: &HostPlatform) -> Vec<String>;
    /// Abilities and demands.
    fn features(&self, config: &Config, host: &HostPlatform) -> DriverFeatures;
    /// Where the guest's first interface leads. May take it out of `networks`.
    fn first_way(&self, _config: &mut Config) -> Way {
        Way::Nat
    }
    /// The command line.
    fn words(&self, plan: &Plan) -> Result<Words, DriverError>;
}

/// One VM of such a program.
#[derive(Debug)]
pub struct KitDriver {
    flavour: &'static dyn Flavour,
    context: DriverContext,
    config: Arc<Config>,
    first_way: Way,
    info: DriverInfo,
    life: Mutex<Arc<Life>>,
    start_limit: Duration,
}

impl KitDriver {
    /// Fills the driver's defaults. Runs nothing and writes nothing.
    #[must_use]
    pub fn new(context: DriverContext, flavour: &'static dyn Flavour) -> Self {
        let mut config = Config::clone(&context.config);
        config.mount_type = Some(config.mount_type.unwrap_or_else(|| mount_type(&config)));
        config.ssh.over_vsock.get_or_insert(true);
        let first_way = flavour.first_way(&mut config);
        let info = DriverInfo {
            name: flavour.name().to_owned(),
            vsock_port: AGENT_PORT,
            virtio_port: String::new(),
            network: DefaultNetwork::Nat,
            features: flavour.features(&config, &context.platform),
        };
        Self {
            flavour,
            context,
            config: Arc::new(config),
            first_way,
            info,
            life: Mutex::default(),
            start_limit: START_LIMIT,
        }
    }

    /// Sets how long the program may take until the VM runs, instead of two minutes.
    #[must_use]
    pub fn with_start_limit(mut self, limit: Duration) -> Self {
        self.start_limit = limit;
        self
    }

    /// The command line that [`Driver::start`] would run, without the program.
    pub fn command_line(&self) -> Result<Words, DriverError> {
        let plan = Plan::resolve(&self.context, &self.config, self.first_way.clone())?;
        self.flavour.words(&plan)
    }

    fn program(&self) -> Result<PathBuf, DriverError> {
        let program = self.flavour.program();
        programs::look_up(program, &self.context.env).ok_or_else(|| DriverError::Program {
            program: program.to_owned(),
            why: format!("not found in PATH; {}", self.flavour.install()),
        })
    }

    fn life(&self) -> Arc<Life> {
        Arc::clone(&self.life.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A new life, unless the last one is not over.
    fn begin_life(&self) -> Result<Arc<Life>, DriverError> {
        let mut life = self.life.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(vm) = life.vm()
            && vm.exit().borrow().is_none()
        {
            return Err(DriverError::Program {
                program: self.flavour.program().to_owned(),
                why: format!("runs already (pid {}): stop it first", vm.pid()),
            });
        }
        *life = Arc::default();
        Ok(Arc::clone(&life))
    }

    fn unsupported(&self, what: &str) -> DriverError {
        DriverError::Unsupported {
            key: what.to_owned(),
            why: format!("{} cannot do that", self.flavour.program()),
        }
    }
}

/// virtiofs, unless something must not be written to: these programs share everything writable.
fn mount_type(config: &Config) -> MountType {
    let cannot = |word: &String| word == "virtiofs";
    if config.mount_types_unsupported.iter().any(cannot)
        || config.mounts.iter().any(|mount| !mount.writable)
    {
        MountType::ReverseSshfs
    } else {
        MountType::Virtiofs
    }
}

/// The first number of a version; `None` where there is none.
pub(crate) fn major(version: &str) -> Option<u32> {
    version.split('.').next()?.parse().ok()
}

#[async_trait]
impl Driver for KitDriver {
    fn info(&self) -> &DriverInfo {
        &self.info
    }

    fn config(&self) -> &Arc<Config> {
        &self.config
    }

    fn validate(&self) -> Result<Vec<String>, DriverError> {
        let (config, context) = (&self.config, &self.context);
        let as_written = Config {
            networks: context.config.networks.clone(),
            ..Config::clone(config)
        };
        let mut errors =
            checks::problems(self.flavour, &as_written, &context.platform, &context.dir);
        errors.extend(self.flavour.problems(&as_written, &context.platform));
        errors.extend(self.program().err());
        DriverError::of_all(errors)?;
        let mut warnings = checks::warnings(config);
        warnings.extend(self.flavour.warnings(config, &context.platform));
        Ok(warnings)
    }

    async fn prepare_disk(&self) -> Result<(), DriverError> {
        let files = disk_files(&self.context.dir);
        let qemu_img = programs::qemu_img(&self.context.env);
        disk::ensure(&files, self.config.disk.bytes(), Wanted::Raw, &qemu_img).await?;
        Ok(())
    }

    async fn start(&self) -> Result<RunningVm, DriverError> {
        let (program, words) = (self.program()?, self.command_line()?);
        let life = self.begin_life()?;
        let task = start::Task {
            flavour: self.flavour,
            program: &program,
            words,
            dir: &self.context.dir,
            limit: self.start_limit,
        };
        let started = task.start(&life).await;
        if started.is_err()
            && let Err(error) = self.stop(StopLadder::at_once()).await
        {
            tracing::error!(%error, "A failed start left something behind.");
        }
        started
    }

    async fn ssh_address(&self, port: SshPort) -> Result<SocketAddr, DriverError> {
        let life = self.life();
        if let Some(address) = life.ssh() {
            return Ok(address);
        }
        if life.vm().is_none() {
            return Err(DriverError::Monitor {
                command: "SSH over vsock".to_owned(),
                why: "the VM is not running".to_owned(),
            });
        }
        let address = ssh::listen(port, files::ssh_sock(&self.context.dir), &life)?;
        life.note_ssh(address);
        Ok(address)
    }

    async fn guest_agent_conn(&self) -> Result<Option<Box<dyn Carrier>>, DriverError> {
        let stream = connect_within(&self.context.dir.ga_sock(), ANSWER_LIMIT).await?;
        Ok(Some(Box::new(stream)))
    }

    fn agent_socket(&self) -> Option<PathBuf> {
        Some(self.context.dir.ga_sock())
    }

    async fn change_display_password(&self, _password: &str) -> Result<(), DriverError> {
        Err(self.unsupported("video.vnc"))
    }

    async fn display_port(&self) -> Result<u16, DriverError> {
        Err(self.unsupported("video.vnc"))
    }

    async fn screenshot(&self) -> Result<Vec<u8>, DriverError> {
        if self.config.video.display == "none" {
            return Err(DriverError::NoDisplay);
        }
        Err(self.unsupported("screenshot"))
    }

    async fn stop(&self, ladder: StopLadder) -> Result<(), DriverError> {
        let life = self.life();
        let stopped = stop::stop(self.flavour, &self.context.dir, &life, &ladder).await;
        life.tasks().end().await;
        stopped
    }

    async fn snapshot(&self, _action: SnapshotAction) -> Result<String, DriverError> {
        Err(self.unsupported("snapshot"))
    }
}
