//! The QEMU driver, for every host system.
//!
//! | module | owns |
//! |---|---|
//! | `defaults` | what the driver fills into the configuration, and what it refuses |
//! | `program`, `probe`, `accel` | which QEMU, what it can, how it is accelerated |
//! | `firmware` | UEFI code and variables |
//! | `resolve` → `plan` → `argv` | from configuration to command line |
//! | `start`, `life`, `stop` | one life of a VM and its helpers |
//! | `qmp` | the monitor |
//! | `hostfwd`, `screen`, `snapshot`, `tpm`, `virtiofsd` | what is done through it or beside it |

pub mod accel;
mod arch;
pub mod argv;
mod defaults;
mod files;
mod firmware;
#[cfg(test)]
mod golden;
mod hostfwd;
mod life;
pub mod plan;
pub mod probe;
pub mod program;
mod qmp;
mod resolve;
mod screen;
mod snapshot;
mod start;
mod stop;
mod tpm;
mod virtiofsd;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use berth_config::model::{Config, MountType};
use berth_image::disk::{self, Wanted};
use berth_image::fetch::{FetchSettings, Fetcher, Proxies};

use tokio::sync::watch;

pub use stop::stop_orphan;

use crate::driver::{
    Carrier, DefaultNetwork, Driver, DriverContext, DriverFeatures, DriverInfo, RunningVm,
    SnapshotAction, SshPort, StopLadder,
};
use crate::error::DriverError;
use crate::files::disk_files;
use crate::process::connect_within;
use crate::programs;
use crate::qemu::argv::AGENT_PORT;
use crate::qemu::firmware::Search;
use crate::qemu::life::Life;
use crate::qemu::plan::Plan;
use crate::qemu::probe::Capabilities;
use crate::qemu::program::Program;
use crate::qemu::resolve::Inputs;
use crate::sys;

/// How long QEMU may take from its start to the first word of its monitor. Normal is a tenth of a second; a machine with much
/// memory to prepare takes longer.
const MONITOR_LIMIT: Duration = Duration::from_secs(60);

/// One VM of QEMU.
#[derive(Debug)]
pub struct QemuDriver {
    context: DriverContext,
    config: Arc<Config>,
    info: DriverInfo,
    cache_dir: PathBuf,
    life: Mutex<Arc<Life>>,
    monitor_limit: Duration,
}

impl QemuDriver {
    /// Fills the driver's defaults. Runs nothing and writes nothing.
    pub fn new(context: DriverContext, cache_dir: &Path) -> Result<Self, DriverError> {
        let lima_version = std::fs::read_to_string(context.dir.lima_version()).ok();
        let mut config = Config::clone(&context.config);
        defaults::fill(&mut config, &context.platform, lima_version.as_deref())?;
        Ok(Self {
            context,
            config: Arc::new(config),
            info: info(),
            cache_dir: cache_dir.to_owned(),
            life: Mutex::default(),
            monitor_limit: MONITOR_LIMIT,
        })
    }

    /// Sets how long QEMU may take from its start to the first word of its monitor, instead of 60 s.
    #[must_use]
    pub fn with_monitor_limit(mut self, limit: Duration) -> Self {
        self.monitor_limit = limit;
        self
    }

    /// The command line that [`Driver::start`] would run, with everything that it depends on decided. Writes the instance's
    /// copy of the UEFI variables if it is missing.
    pub async fn plan(&self) -> Result<Plan, DriverError> {
        let program = self.program()?;
        let capabilities = self.capabilities(&program).await?;
        let inputs = Inputs {
            name: &self.context.name,
            dir: &self.context.dir,
            config: &self.config,
            host: &self.context.platform,
            env: &self.context.env,
            program: &program,
            capabilities: &capabilities,
        };
        let resolved = inputs.resolve(sys::acceleration)?;
        for warning in &resolved.warnings {
            tracing::warn!("{warning}");
        }
        Ok(resolved.plan)
    }

    fn wants_virtiofs(&self) -> bool {
        self.config.mount_type == Some(MountType::Virtiofs) && !self.config.mounts.is_empty()
    }

    fn program(&self) -> Result<Program, DriverError> {
        Program::find(self.config.arch, &self.context.env)
    }

    /// What QEMU can do, and that it is new enough.
    async fn capabilities(&self, program: &Program) -> Result<Capabilities, DriverError> {
        let host = &self.context.platform;
        let capabilities =
            probe::capabilities(program, self.config.arch, host, &self.cache_dir).await?;
        if let Some(warning) = self.check_version(program, &capabilities)? {
            tracing::warn!("{warning}");
        }
        Ok(capabilities)
    }

    fn check_version(
        &self,
        program: &Program,
        capabilities: &Capabilities,
    ) -> Result<Option<String>, DriverError> {
        let qemu = self.config.vm_opts.qemu.as_ref();
        let minimum = qemu.and_then(|qemu| qemu.minimum_version.as_deref());
        let host = &self.context.platform;
        probe::check_version(capabilities.version, host, minimum, &program.path)
    }

    fn firmware<'a>(&'a self, program: &'a Program) -> Search<'a> {
        Search {
            config: &self.config,
            host: &self.context.platform,
            program,
            dir: &self.context.dir,
        }
    }

    /// Downloads firmware that lima.yaml names, if it is not there yet.
    async fn fetch_firmware(&self, program: &Program) -> Result<(), DriverError> {
        if !self.firmware(program).needs_download() {
            return Ok(());
        }
        let proxies = Proxies::from_env(&self.context.env);
        let fetcher = Fetcher::new(FetchSettings::new(self.cache_dir.clone(), proxies));
        let stop = StopOnDrop::default();
        let flag = Arc::clone(&stop.0);
        let (config, host) = (Arc::clone(&self.config), Arc::clone(&self.context.platform));
        let (program, dir) = (program.clone(), self.context.dir.clone());
        let download = move || {
            let search = Search {
                config: &config,
                host: &host,
                program: &program,
                dir: &dir,
            };
            search.download(&fetcher, &flag);
        };
        tokio::task::spawn_blocking(download)
            .await
            .map_err(|error| DriverError::Program {
                program: "download of firmware".to_owned(),
                why: error.to_string(),
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
                program: "QEMU".to_owned(),
                why: format!("runs already (pid {}): stop it first", vm.pid()),
            });
        }
        *life = Arc::default();
        Ok(Arc::clone(&life))
    }
}

fn info() -> DriverInfo {
    DriverInfo {
        name: "qemu".to_owned(),
        vsock_port: 0,
        virtio_port: AGENT_PORT.to_owned(),
        network: DefaultNetwork::User,
        features: DriverFeatures {
            supported_image_formats: ["qcow2", "raw", "vmdk", "vhdx"].map(str::to_owned).to_vec(),
            ..DriverFeatures::default()
        },
    }
}

/// Tells a thread that nobody waits for it any more.
#[derive(Debug, Default)]
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[async_trait]
impl Driver for QemuDriver {
    fn info(&self) -> &DriverInfo {
        &self.info
    }

    fn config(&self) -> &Arc<Config> {
        &self.config
    }

    fn validate(&self) -> Result<Vec<String>, DriverError> {
        let context = &self.context;
        let mut errors = defaults::problems(&self.config, &context.platform, &context.dir);
        let mut warnings = defaults::warnings(&self.config);
        if self.config.tpm {
            errors.extend(tpm::find(&context.dir, &context.env).err());
        }
        if self.wants_virtiofs() {
            errors.extend(virtiofsd::find(&context.platform.home, &context.env).err());
        }
        match self.program() {
            Err(error) => errors.push(error),
            Ok(program) => {
                errors.extend(self.firmware(&program).check().err());
                if let Some(known) = probe::remembered(&program, &self.cache_dir) {
                    match self.check_version(&program, &known) {
                        Ok(warning) => warnings.extend(warning),
                        Err(error) => errors.push(error),
                    }
                }
            }
        }
        DriverError::of_all(errors)?;
        Ok(warnings)
    }

    /// Also asks QEMU what it can do and fetches firmware, so that a start finds both done.
    async fn prepare_disk(&self) -> Result<(), DriverError> {
        let program = self.program()?;
        self.capabilities(&program).await?;
        self.fetch_firmware(&program).await?;
        let files = disk_files(&self.context.dir);
        let qemu_img = programs::qemu_img(&self.context.env);
        disk::ensure(&files, self.config.disk.bytes(), Wanted::Any, &qemu_img).await?;
        Ok(())
    }

    async fn start(&self) -> Result<RunningVm, DriverError> {
        let plan = self.plan().await?;
        let life = self.begin_life()?;
        let surroundings = start::Surroundings {
            env: &self.context.env,
            home: &self.context.platform.home,
            monitor_limit: self.monitor_limit,
        };
        let started = start::start(&plan, surroundings, &life).await;
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
        let monitor = life.running("hostfwd_add")?;
        let address = hostfwd::forward_ssh(&monitor, port).await?;
        life.note_ssh(address);
        Ok(address)
    }

    async fn guest_agent_conn(&self) -> Result<Option<Box<dyn Carrier>>, DriverError> {
        let stream = connect_within(&self.context.dir.ga_link_sock(), qmp::COMMAND_LIMIT).await?;
        Ok(Some(Box::new(stream)))
    }

    /// Lima's agent listens on a unix socket in the guest; the port of [`Driver::guest_agent_conn`] is for ours.
    fn forward_guest_agent(&self) -> bool {
        true
    }

    fn agent_socket(&self) -> Option<PathBuf> {
        Some(self.context.dir.ga_link_sock())
    }

    async fn change_display_password(&self, password: &str) -> Result<(), DriverError> {
        let monitor = self.life().running("change-vnc-password")?;
        screen::set_password(&monitor, password).await
    }

    async fn display_port(&self) -> Result<u16, DriverError> {
        let monitor = self.life().running("query-vnc")?;
        screen::vnc_port(&monitor).await
    }

    async fn screenshot(&self) -> Result<Vec<u8>, DriverError> {
        if matches!(self.config.video.display.as_str(), "" | "none") {
            return Err(DriverError::NoDisplay);
        }
        let monitor = self.life().running("screendump")?;
        screen::picture(&monitor, &self.context.dir).await
    }

    async fn stop(&self, ladder: StopLadder) -> Result<(), DriverError> {
        let life = self.life();
        let stopped = stop::stop(&self.context.dir, &life, &ladder).await;
        if stopped.is_ok() {
            life.tasks().end().await;
        }
        stopped
    }

    fn troubles(&self) -> Option<watch::Receiver<Vec<String>>> {
        Some(self.life().troubles())
    }

    async fn snapshot(&self, action: SnapshotAction) -> Result<String, DriverError> {
        let monitor = self.life().monitor();
        let qemu_img = programs::qemu_img(&self.context.env);
        snapshot::act(&self.context.dir, monitor, &qemu_img, action).await
    }
}
