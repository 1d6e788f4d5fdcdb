//! What every command needs to know of its surroundings, read here and handed down.

use std::ffi::OsStr;
use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use berth_config::platform::HostPlatform;
use berth_driver::external::discovery::{self, ExternalDrivers};
use berth_instance::home::LimaHome;
use indicatif::{MultiProgress, ProgressDrawTarget};

use crate::cli::GlobalArgs;
use crate::environment::Environment;
use crate::logging;
use crate::platform;

/// The surroundings of one run of the program.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) global: GlobalArgs,
    pub(crate) env: Environment,
    /// Whether to talk to a person.
    pub(crate) interactive: bool,
    /// Where progress is shown, and what log lines keep clear of.
    pub(crate) display: MultiProgress,
    /// The name that this program was called by, for advice such as "run `limactl shell x`".
    pub(crate) program: String,
}

/// The machine, and where the instances are.
#[derive(Debug, Clone)]
pub(crate) struct Host {
    pub(crate) platform: Arc<HostPlatform>,
    pub(crate) home: LimaHome,
    /// Lima's directory in the user's cache directory.
    pub(crate) cache_dir: PathBuf,
    /// Lima's external drivers.
    pub(crate) external_drivers: Arc<ExternalDrivers>,
}

impl Context {
    /// Reads the environment and looks at the terminal. Cheap: commands that must be quick ask for the rest themselves.
    pub(crate) fn new(global: GlobalArgs) -> Self {
        let interactive = global.interactive(io::stdout().is_terminal());
        Self {
            interactive,
            program: program_name(),
            display: MultiProgress::with_draw_target(ProgressDrawTarget::hidden()),
            env: Environment::of_this_process(),
            global,
        }
    }

    /// Looks at the machine, the account and `LIMA_HOME` (`~/.lima` if it is not set).
    pub(crate) fn host(&self) -> anyhow::Result<Host> {
        let platform = Arc::new(platform::detect(&self.env)?);
        let home = match self.env.get("LIMA_HOME") {
            Some(home) if !home.is_empty() => PathBuf::from(home),
            _ => platform.home.join(".lima"),
        };
        Ok(Host {
            home: LimaHome::at(&home)?,
            cache_dir: platform::cache_directory(&self.env, &platform),
            external_drivers: Arc::new(self.discover_drivers()),
            platform,
        })
    }

    /// Looks for external drivers where Lima does. A place that cannot be looked at is a warning.
    fn discover_drivers(&self) -> ExternalDrivers {
        let called = std::env::args_os().next().map(PathBuf::from);
        let programs: Vec<_> = called
            .filter(|program| program.components().count() > 1)
            .into_iter()
            .chain(std::env::current_exe())
            .collect();
        let list = self.env.get(discovery::VARIABLE).map(OsStr::new);
        let found = ExternalDrivers::discover(list, &programs);
        for problem in found.problems() {
            tracing::warn!("{}: {problem}", discovery::VARIABLE);
        }
        found
    }

    /// Shows log lines on stderr. The host agent, whose log has a shape of its own, does not call this.
    pub(crate) fn log_to_stderr(&self) {
        let shape = self.global.shape(io::stderr().is_terminal());
        // It fails only when a log is there already, and then there is one.
        let _ = logging::init(shape, self.global.level(), &self.display);
    }
}

fn program_name() -> String {
    let called = std::env::args_os().next().unwrap_or_default();
    let name = Path::new(&called).file_stem().unwrap_or_default();
    match name.to_str() {
        Some("limactl") => "limactl".to_owned(),
        _ => "berth".to_owned(),
    }
}
