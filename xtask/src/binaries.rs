//! The binaries, laid out as an installed prefix: `bin/berth`, and the guest agents in `share/berth`.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::image::Arch;
use crate::program::Program;
use crate::setup::{has_std, musl};
use crate::workspace::Workspace;

/// Arguments of `cargo xtask build`.
#[derive(Debug, Args)]
pub(crate) struct BuildArgs {
    /// As small and fast as can be, which takes minutes.
    #[arg(long)]
    release: bool,
}

/// Cargo's profile for the guest agent: it travels to the guest at its first boot, and so is always small.
const GUEST_PROFILE: &str = "guest";

/// How thoroughly the compiler works.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effort {
    /// For the demo and the tests.
    Quick,
    /// For releases and measurements.
    Release,
}

impl Effort {
    /// Cargo's profile for binaries of the host, and the directory it builds into.
    fn host_profile(self) -> (&'static str, &'static str) {
        match self {
            Self::Quick => ("dev", "debug"),
            Self::Release => ("release", "release"),
        }
    }
}

/// Builds and says where things are.
pub(crate) fn run(workspace: &Workspace, args: &BuildArgs) -> Result<()> {
    let effort = if args.release {
        Effort::Release
    } else {
        Effort::Quick
    };
    let binaries = Binaries::build(workspace, effort)?;
    println!("{}", binaries.berth.display());
    Ok(())
}

/// What was built.
#[derive(Debug)]
pub(crate) struct Binaries {
    /// The command line.
    pub(crate) berth: PathBuf,
    /// The stand-in for QEMU.
    pub(crate) testguest: PathBuf,
}

impl Binaries {
    /// Where the command line is, if it was built before.
    pub(crate) fn installed_berth(workspace: &Workspace) -> PathBuf {
        workspace.dist().join("bin/berth")
    }

    /// Builds everything for this machine, and the guest agent for each processor that it can be built for.
    pub(crate) fn build(workspace: &Workspace, effort: Effort) -> Result<Self> {
        let (profile, directory) = effort.host_profile();
        cargo_build(workspace, &["berth", "berth-testguest"], profile, None)?;
        let built = workspace.target().join(directory);
        let berth = Self::installed_berth(workspace);
        install(&built.join("berth"), &berth)?;
        link(Path::new("berth"), &berth.with_file_name("limactl"))?;
        let testguest = berth.with_file_name("berth-testguest");
        install(&built.join("berth-testguest"), &testguest)?;
        for arch in [Arch::X86_64, Arch::Aarch64] {
            build_guest_agent(workspace, arch)?;
        }
        Ok(Self { berth, testguest })
    }

    /// Builds this program for guests: static, with the traffic programs that benches run there. They do little but call
    /// the kernel, so that the quick build is as good as any.
    pub(crate) fn traffic(workspace: &Workspace) -> Result<PathBuf> {
        let (profile, directory) = Effort::Quick.host_profile();
        let target = musl(Arch::native()?);
        cargo_build(workspace, &["xtask"], profile, Some(target))?;
        Ok(workspace
            .target()
            .join(target)
            .join(directory)
            .join("xtask"))
    }
}

/// The server of virtiofs. Debian 12 has only its predecessor, which cannot share without letting the guest write.
const VIRTIOFSD: &str = "1.14.0";

/// virtiofsd, compiled from its crate unless that was done before.
pub(crate) fn virtiofsd(workspace: &Workspace) -> Result<PathBuf> {
    let root = workspace.target().join(format!("virtiofsd-{VIRTIOFSD}"));
    let program = root.join("bin/virtiofsd");
    if !program.exists() {
        println!("build: virtiofsd {VIRTIOFSD}");
        Program::within(15, "cargo")
            .args(["install", "--locked", "--quiet", "--no-track"])
            .arg(format!("--version={VIRTIOFSD}"))
            .arg("--root")
            .arg(root)
            .arg("virtiofsd")
            .current_dir(workspace.root())
            .run()?;
    }
    Ok(program)
}

/// A missing agent for foreign guests is worth a warning, not a failure.
fn build_guest_agent(workspace: &Workspace, arch: Arch) -> Result<()> {
    let target = musl(arch);
    if !has_std(target, workspace)? {
        if arch == Arch::native()? {
            bail!(
                "the guest agent needs Rust's standard library for {target}: `rustup target add {target}`"
            );
        }
        println!(
            "WARNING: no agent for {} guests: Rust has no standard library for {target}",
            arch.name()
        );
        return Ok(());
    }
    cargo_build(
        workspace,
        &["berth-guestagent"],
        GUEST_PROFILE,
        Some(target),
    )?;
    let built = workspace
        .target()
        .join(target)
        .join(GUEST_PROFILE)
        .join("berth-guestagent");
    let name = format!("berth-guestagent.Linux-{}", arch.name());
    install(&built, &workspace.dist().join("share/berth").join(name))
}

fn cargo_build(
    workspace: &Workspace,
    packages: &[&str],
    profile: &str,
    target: Option<&str>,
) -> Result<()> {
    println!(
        "build: {} ({})",
        packages.join(", "),
        target.unwrap_or("this machine")
    );
    let mut cargo = Program::new("cargo")
        .args(["build", "--locked", "--profile", profile])
        .current_dir(workspace.root());
    for package in packages {
        cargo = cargo.args(["--package", package]);
    }
    if let Some(target) = target {
        cargo = cargo.args(["--target", target]);
    }
    cargo.run()
}

/// Copies beside the old file and renames, so that a running one is not disturbed; what has not changed stays.
fn install(from: &Path, to: &Path) -> Result<()> {
    let read = |path: &Path| fs::read(path).with_context(|| format!("read {}", path.display()));
    if to.exists() && read(from)? == read(to)? {
        return Ok(());
    }
    let parent = to.parent().context("an installed file has a directory")?;
    fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
    let fresh = to.with_extension("new");
    fs::copy(from, &fresh)
        .with_context(|| format!("copy {} to {}", from.display(), fresh.display()))?;
    fs::rename(&fresh, to).with_context(|| format!("rename {}", fresh.display()))
}

fn link(to: &Path, at: &Path) -> Result<()> {
    if at.symlink_metadata().is_ok() {
        fs::remove_file(at).with_context(|| format!("remove {}", at.display()))?;
    }
    std::os::unix::fs::symlink(to, at).with_context(|| format!("create {}", at.display()))
}
