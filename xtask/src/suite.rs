//! All checks and tests, in the order of their cost.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use serde_json::Value;

use crate::arrows;
use crate::binaries::{Binaries, Effort, virtiofsd};
use crate::fuzz::{self, FuzzArgs};
use crate::image::Image;
use crate::program::{Program, as_root, find};
use crate::setup::{self, OUTSIDE_LINUX, Purpose, has_std};
use crate::workspace::Workspace;

/// Arguments of `cargo xtask test`.
#[derive(Debug, Args)]
pub(crate) struct TestArgs {
    /// Only these steps.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Step>,
    /// All steps but these.
    #[arg(long, value_delimiter = ',', conflicts_with = "only")]
    skip: Vec<Step>,
}

/// One step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Step {
    /// Install what is missing.
    Setup,
    /// Formatting.
    Fmt,
    /// Who depends on whom.
    Arrows,
    /// Licences and sources of dependencies.
    Deny,
    /// Lints, for this machine.
    Clippy,
    /// Types, for macOS and Windows.
    Cross,
    /// Documentation.
    Doc,
    /// Tests that need neither root nor a guest.
    Unit,
    /// Fuzzing, for a short while.
    Fuzz,
    /// The guest image.
    Image,
    /// The binaries.
    Build,
    /// Tests on the native-speed guest, as root.
    Native,
    /// Tests on virtual machines.
    Vm,
}

/// How a step ended.
enum Outcome {
    Passed,
    /// Something that this machine cannot do was left out.
    Incomplete(String),
    Failed(anyhow::Error),
}

/// Runs the steps, and fails if one of them did.
pub(crate) fn run(workspace: &Workspace, args: &TestArgs) -> Result<()> {
    let chosen = |step: &Step| {
        (args.only.is_empty() || args.only.contains(step)) && !args.skip.contains(step)
    };
    let mut report = Vec::new();
    for step in Step::value_variants().iter().copied().filter(chosen) {
        println!("\n== {} ==", name(step));
        let begin = Instant::now();
        let outcome = step.run(workspace).unwrap_or_else(Outcome::Failed);
        if let Outcome::Failed(error) = &outcome {
            println!("FAILED: {error:#}");
        }
        report.push((step, outcome, begin.elapsed()));
    }
    summarise(&report)
}

fn summarise(report: &[(Step, Outcome, Duration)]) -> Result<()> {
    println!("\n== summary ==");
    let mut failed = 0;
    for (step, outcome, took) in report {
        let verdict = match outcome {
            Outcome::Passed => "passed".to_owned(),
            Outcome::Incomplete(why) => format!("INCOMPLETE: {why}"),
            Outcome::Failed(error) => {
                failed += 1;
                format!(
                    "FAILED: {}",
                    format!("{error:#}").lines().next().unwrap_or_default()
                )
            }
        };
        println!("{:>8.1} s  {:<8}{verdict}", took.as_secs_f32(), name(*step));
    }
    if failed > 0 {
        bail!("{failed} of {} steps failed", report.len());
    }
    Ok(())
}

fn name(step: Step) -> String {
    let value = step.to_possible_value().expect("no step is hidden");
    value.get_name().to_owned()
}

impl Step {
    fn run(self, workspace: &Workspace) -> Result<Outcome> {
        let cargo = |minutes| Program::within(minutes, "cargo").current_dir(workspace.root());
        match self {
            Self::Setup => setup::setup(Purpose::Tests, workspace)?,
            Self::Fmt => cargo(5).args(["fmt", "--all", "--check"]).run()?,
            Self::Arrows => arrows::check(workspace)?,
            Self::Deny => return deny(workspace),
            Self::Clippy => cargo(20)
                .args([
                    "clippy",
                    "--workspace",
                    "--all-targets",
                    "--all-features",
                    "--locked",
                    "--",
                ])
                .args(["-D", "warnings"])
                .run()?,
            Self::Cross => return cross(workspace),
            Self::Doc => cargo(10)
                .env("RUSTDOCFLAGS", "-D warnings")
                .args([
                    "doc",
                    "--workspace",
                    "--no-deps",
                    "--locked",
                    "--document-private-items",
                ])
                .run()?,
            Self::Unit => cargo(25)
                .args(["test", "--workspace", "--locked", "--no-fail-fast"])
                .run()?,
            Self::Fuzz => fuzz::run(workspace, &FuzzArgs::brief())?,
            Self::Image => drop(Image::obtain(false)?),
            Self::Build => drop(Binaries::build(workspace, Effort::Quick)?),
            Self::Native => native(workspace)?,
            Self::Vm => VM.run(workspace, Program::new("env"), 30)?,
        }
        Ok(Outcome::Passed)
    }
}

fn deny(workspace: &Workspace) -> Result<Outcome> {
    if find("cargo-deny").is_none() {
        let why = "cargo-deny is not installed; `cargo install --locked cargo-deny`";
        return Ok(Outcome::Incomplete(why.to_owned()));
    }
    Program::within(5, "cargo")
        .current_dir(workspace.root())
        .args(["deny", "--offline", "check", "bans", "licenses", "sources"])
        .run()?;
    Ok(Outcome::Passed)
}

/// The host's tree must type-check where it cannot be run, tests and all. What runs only in Linux is left out.
fn cross(workspace: &Workspace) -> Result<Outcome> {
    let mut left_out = Vec::new();
    for target in OUTSIDE_LINUX {
        if !has_std(target, workspace)? {
            println!("WARNING: not checked for {target}: Rust has no standard library for it");
            left_out.push(target);
            continue;
        }
        let linux_only = ["berth-guestagent", "berth-testguest", "xtask"];
        Program::within(15, "cargo")
            .current_dir(workspace.root())
            .args(["check", "--workspace", "--all-targets", "--locked"])
            .args(["--target", target])
            .args(
                linux_only
                    .into_iter()
                    .flat_map(|package| ["--exclude", package]),
            )
            .run()?;
    }
    Ok(match left_out.as_slice() {
        [] => Outcome::Passed,
        targets => Outcome::Incomplete(format!("no standard library for {}", targets.join(", "))),
    })
}

/// A test target that a plain `cargo test` leaves out, as it needs guests. Its feature is `e2e`.
struct GuestTests {
    package: &'static str,
    target: &'static str,
    /// Which of its tests: arguments of the test program.
    which: &'static [&'static str],
    needs: Needs,
}

/// What tests need beside the binaries and the guest image.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    Nothing,
    /// Programs in the guest that only tests need.
    Programs,
    /// A server for virtiofs.
    Virtiofsd,
}

/// Tests of the native-speed guest, and on it.
const NATIVE: [GuestTests; 3] = [
    GuestTests {
        package: "berth-testguest",
        target: "guest",
        which: &[],
        needs: Needs::Nothing,
    },
    GuestTests {
        package: "berth-hostagent",
        target: "engines",
        which: &[],
        needs: Needs::Nothing,
    },
    GuestTests {
        package: "berth",
        target: "e2e",
        which: &["--skip", "vm::"],
        needs: Needs::Programs,
    },
];

/// Tests on virtual machines: the modules named `vm`.
const VM: GuestTests = GuestTests {
    package: "berth",
    target: "e2e",
    which: &["vm::"],
    needs: Needs::Virtiofsd,
};

fn native(workspace: &Workspace) -> Result<()> {
    for tests in NATIVE {
        let root = as_root("env").context("the native-speed guest needs root")?;
        tests.run(workspace, root, 20)?;
    }
    rights_of_users(workspace)
}

/// Tests of the guest agent that become somebody else, which takes root.
fn rights_of_users(workspace: &Workspace) -> Result<()> {
    let tests = executable(
        workspace,
        &["--package", "berth-guestagent", "--lib"],
        "berth_guestagent",
    )?;
    as_root("timeout")?
        .args(["--kill-after=30s", "5m"])
        .arg(tests)
        .args(["--ignored", "tunnels::tests::rights::"])
        .current_dir(&workspace.root().join("crates/berth-guestagent"))
        .run()
}

impl GuestTests {
    /// One guest at a time: the machine has few processors, and what runs side by side only looks slow.
    fn run(&self, workspace: &Workspace, command: Program, minutes: u32) -> Result<()> {
        let executable = self.build(workspace)?;
        let listed = Program::new(&executable)
            .args(self.which)
            .arg("--list")
            .read()?;
        if !listed.lines().any(|line| line.ends_with(": test")) {
            bail!(
                "the tests `{}` of {} hold no test `{}`",
                self.target,
                self.package,
                self.which.join(" ")
            );
        }
        let image = Image::obtain(false)?;
        let binaries = Binaries::build(workspace, Effort::Quick)?;
        let set = |name: &str, path: &Path| format!("{name}={}", path.display());
        let command = match self.needs {
            Needs::Nothing => command,
            Needs::Programs => command.arg(set("BERTH_TEST_PROGRAMS", &image.programs()?)),
            Needs::Virtiofsd => command.arg(set("BERTH_TEST_VIRTIOFSD", &virtiofsd(workspace)?)),
        };
        command
            .arg(set("BERTH_TEST_DIST", &workspace.dist()))
            .arg(set("BERTH_TEST_GUEST", &binaries.testguest))
            .arg(set("BERTH_TEST_IMAGE", image.dir()))
            .arg(set("BERTH_TESTGUEST_ROOTFS", &image.rootfs()?))
            .args(["timeout", "--kill-after=30s", &format!("{minutes}m")])
            .arg(executable)
            .args(self.which)
            .arg("--test-threads=1")
            .current_dir(workspace.root())
            .run()
    }

    fn build(&self, workspace: &Workspace) -> Result<PathBuf> {
        let which = [
            "--package",
            self.package,
            "--test",
            self.target,
            "--features",
            "e2e",
        ];
        executable(workspace, &which, self.target)
    }
}

/// Compiles the tests of one target as the user that we are, whoever runs them then.
fn executable(workspace: &Workspace, which: &[&str], target: &str) -> Result<PathBuf> {
    let output = Command::new("cargo")
        .args([
            "test",
            "--no-run",
            "--locked",
            "--message-format=json-render-diagnostics",
        ])
        .args(which)
        .current_dir(workspace.root())
        .stderr(std::process::Stdio::inherit())
        .output()
        .context("start `cargo`")?;
    if !output.status.success() {
        bail!("the tests `{target}` do not compile");
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let messages = text
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    messages
        .filter(|message| message["target"]["name"] == target)
        .find_map(|message| message["executable"].as_str().map(PathBuf::from))
        .with_context(|| format!("cargo does not say where the tests `{target}` are"))
}
