//! What a bench works with: release binaries, the guest image, and a directory that vanishes afterwards.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use crate::binaries::{Binaries, Effort};
use crate::image::{Arch, Image};
use crate::workspace::{Workspace, is_root};

/// What every bench can be told.
#[derive(Debug, Args)]
pub(super) struct LabArgs {
    /// Measure the installation in this directory (`bin/berth`, `bin/berth-testguest`) instead of building one.
    #[arg(long, value_name = "DIR")]
    prefix: Option<PathBuf>,
}

/// What runs the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Machine {
    /// The native-speed guest: namespaces behind a stand-in for QEMU. Needs root.
    Native,
    /// QEMU without acceleration.
    Tcg,
}

impl Machine {
    /// For titles.
    pub(super) fn title(self) -> &'static str {
        match self {
            Self::Native => "native-speed guest",
            Self::Tcg => "QEMU under TCG",
        }
    }

    /// How long one boot may take: a limit against hanging, not a goal.
    pub(super) fn boot_limit(self) -> Duration {
        match self {
            Self::Native => Duration::from_mins(1),
            Self::Tcg => Duration::from_mins(10),
        }
    }
}

/// A place to measure in. Dropping it removes its directory.
#[derive(Debug)]
pub(super) struct Lab {
    /// What runs the guest.
    pub(super) machine: Machine,
    /// The command line.
    pub(super) berth: PathBuf,
    image: Image,
    directory: PathBuf,
    environment: Vec<(String, PathBuf)>,
}

impl Lab {
    /// Builds and finds everything.
    pub(super) fn set_up(workspace: &Workspace, args: &LabArgs, machine: Machine) -> Result<Self> {
        if machine == Machine::Native && !is_root() {
            bail!("the native-speed guest needs root: run this as root, or take `--guest tcg`");
        }
        let bin = if let Some(prefix) = &args.prefix {
            std::path::absolute(prefix)?.join("bin")
        } else {
            Binaries::build(workspace, Effort::Release)?;
            workspace.dist().join("bin")
        };
        let image = Image::obtain(false)?;
        // Not in the target directory: the path of a socket is at most 107 bytes long.
        let directory = std::env::temp_dir().join(format!("berth-bench.{}", std::process::id()));
        fs::create_dir(&directory).with_context(|| format!("create {}", directory.display()))?;
        let mut environment = vec![("LIMA_HOME".to_owned(), directory.join("home"))];
        match machine {
            Machine::Native => {
                let arch = Arch::native()?.name().to_uppercase();
                environment.push((format!("QEMU_SYSTEM_{arch}"), bin.join("berth-testguest")));
                environment.push(("BERTH_TESTGUEST_ROOTFS".to_owned(), image.rootfs()?));
            }
            Machine::Tcg => environment.push(("BERTH_QEMU_ACCEL".to_owned(), "tcg".into())),
        }
        Ok(Self {
            machine,
            berth: bin.join("berth"),
            image,
            directory,
            environment,
        })
    }

    /// Sets a variable for every program from now on.
    pub(super) fn set(&mut self, name: &str, value: PathBuf) {
        self.environment.push((name.to_owned(), value));
    }

    /// The stand-in for QEMU.
    pub(super) fn testguest(&self) -> PathBuf {
        self.berth.with_file_name("berth-testguest")
    }

    /// The guest image.
    pub(super) fn image(&self) -> &Image {
        &self.image
    }

    /// The instances' home.
    pub(super) fn home(&self) -> PathBuf {
        self.directory.join("home")
    }

    /// A fresh directory beside the home.
    pub(super) fn make_directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.directory.join(name);
        fs::create_dir(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(path)
    }

    /// A program that finds our home and runs our kind of machine.
    pub(super) fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env_remove("BERTH_GUESTAGENT")
            .envs(self.environment.iter().map(|(name, path)| (name, path)))
            .stdin(Stdio::null());
        command
    }

    /// Runs berth to its end; what it printed is shown when it fails.
    pub(super) fn run_berth(&self, words: &[&str]) -> Result<()> {
        let log = self.directory.join("berth.log");
        let output = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let errors = output.try_clone().context("duplicate a descriptor")?;
        let status = self
            .command(&self.berth)
            .arg("--tty=false")
            .args(words)
            .stdout(output)
            .stderr(errors)
            .status()
            .with_context(|| format!("start {}", self.berth.display()))?;
        if !status.success() {
            let said = fs::read_to_string(&log).unwrap_or_default();
            bail!(
                "`berth {}` failed: {status}\n{}",
                words.join(" "),
                said.trim_end()
            );
        }
        Ok(())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.directory) {
            eprintln!("could not remove {}: {error}", self.directory.display());
        }
    }
}

/// Where the numbers come from, for whoever compares them later.
pub(super) fn describe_machine() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let processors = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let model = read("/proc/cpuinfo")
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "))
        .map_or("an unknown processor".to_owned(), |(_, model)| {
            model.to_owned()
        });
    format!(
        "{processors} x {model}, Linux {}",
        read("/proc/sys/kernel/osrelease").trim()
    )
}

/// A port that was free just now.
pub(super) fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("find a free port")?;
    Ok(listener.local_addr().context("find a free port")?.port())
}

/// How busy the machine has been over the last minute, by the kernel's load average.
pub(super) fn load() -> String {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().unwrap_or("?").to_owned()
}
