//! The workshop: set-up, image, demo, tests and benches.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a tool for the person at the terminal"
)]

mod arrows;
mod bench;
mod binaries;
mod demo;
mod fuzz;
mod image;
mod program;
mod setup;
mod suite;
mod sys;
mod traffic;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use workspace::Workspace;

/// The project's own tasks. `demo` and `test` are the two that you need; they call the others.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask")]
struct Command {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Install what is missing, build everything, start a guest and run a command in it.
    Demo(demo::DemoArgs),
    /// Install what is missing, and run all checks and tests.
    Test(suite::TestArgs),
    /// List and install what is missing.
    Setup(setup::SetupArgs),
    /// Build berth and the guest agents into `target/dist`.
    Build(binaries::BuildArgs),
    /// Build the Debian guest that tests and the demo boot.
    Image(image::ImageArgs),
    /// Fuzz everything that reads bytes of the guest.
    Fuzz(fuzz::FuzzArgs),
    /// Measure, and hold the numbers against their goals.
    Bench(bench::BenchArgs),
    /// One end of what a bench measures.
    #[command(hide = true)]
    Traffic(traffic::TrafficArgs),
}

fn main() -> ExitCode {
    match run(&Command::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: &Task) -> Result<()> {
    let workspace = Workspace::here()?;
    match task {
        Task::Demo(args) => demo::run(&workspace, args),
        Task::Test(args) => suite::run(&workspace, args),
        Task::Setup(args) => setup::run(args, &workspace),
        Task::Build(args) => binaries::run(&workspace, args),
        Task::Image(args) => image::run(args),
        Task::Fuzz(args) => fuzz::run(&workspace, args),
        Task::Bench(args) => bench::run(&workspace, args),
        Task::Traffic(args) => traffic::run(args),
    }
}
