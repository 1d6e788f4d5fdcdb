//! Fuzzing of everything that reads bytes of the guest: libFuzzer, with the stable compiler.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::program::Program;
use crate::workspace::Workspace;

/// Arguments of `cargo xtask fuzz`.
#[derive(Debug, Args)]
pub(crate) struct FuzzArgs {
    /// Only these targets [default: all].
    targets: Vec<String>,
    /// How long each target runs.
    #[arg(long, default_value_t = 60)]
    seconds: u32,
}

impl FuzzArgs {
    /// What CI has time for.
    pub(crate) fn brief() -> Self {
        Self {
            targets: Vec::new(),
            seconds: 20,
        }
    }
}

/// The targets, by the names of their programs in `fuzz/`.
const TARGETS: [&str; 7] = [
    "link",
    "guest_api",
    "datagrams",
    "dns",
    "words",
    "sftp",
    "mounts",
];

/// Counters for each edge, a table of them, and what is compared with what: LLVM's pass, as the fuzzer's runtime expects it.
const INSTRUMENTATION: &str = "-Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares \
    --cfg fuzzing";

/// Builds the targets and runs each for a while.
pub(crate) fn run(workspace: &Workspace, args: &FuzzArgs) -> Result<()> {
    let chosen = match args.targets.as_slice() {
        [] => TARGETS.to_vec(),
        named => named.iter().map(String::as_str).collect(),
    };
    if let Some(unknown) = chosen.iter().find(|name| !TARGETS.contains(name)) {
        bail!(
            "there is no fuzz target {unknown:?}; there are {}",
            TARGETS.join(", ")
        );
    }
    let built = workspace.root().join("target/fuzz");
    let programs = build(workspace, &built)?;
    for name in chosen {
        fuzz(workspace, &programs.join(name), &built, args.seconds)
            .with_context(|| format!("fuzz {name}"))?;
    }
    Ok(())
}

/// Builds every target; returns the directory of the programs.
fn build(workspace: &Workspace, built: &Path) -> Result<std::path::PathBuf> {
    let version = Program::new("rustc")
        .args(["--version", "--verbose"])
        .read()?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    let host = host.context("rustc does not say for which system it is")?;
    Program::within(20, "cargo")
        .current_dir(workspace.root())
        .env("RUSTFLAGS", INSTRUMENTATION)
        .args(["build", "--release", "--locked", "--bins"])
        .args(["--manifest-path", "fuzz/Cargo.toml"])
        // With a target of its own, build scripts and macros stay without instrumentation.
        .args(["--target", host])
        .arg("--target-dir")
        .arg(built)
        .run()?;
    Ok(built.join(host).join("release"))
}

/// Runs one target on its committed corpus, and on what earlier runs on this machine have found.
fn fuzz(workspace: &Workspace, program: &Path, built: &Path, seconds: u32) -> Result<()> {
    let name = program.file_name().unwrap_or_default();
    let known = workspace.root().join("fuzz/corpus").join(name);
    if !known.is_dir() {
        bail!("it has no corpus in {}", known.display());
    }
    let (found, findings) = (
        built.join("corpus").join(name),
        built.join("findings").join(name),
    );
    for dir in [&found, &findings] {
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    }
    println!("fuzz: {} for {seconds} s", name.display());
    Program::within(seconds.div_ceil(60) + 2, &program.to_string_lossy())
        .arg(format!("-max_total_time={seconds}"))
        .args(["-timeout=25", "-rss_limit_mb=1024", "-max_len=65536"])
        .args(["-print_final_stats=1", "-verbosity=0"])
        .arg(format!("-artifact_prefix={}/", findings.display()))
        .arg(found)
        .arg(known)
        .run()
        .with_context(|| {
            format!(
                "the input is in {}; give it to {} as its argument",
                findings.display(),
                program.display()
            )
        })
}
