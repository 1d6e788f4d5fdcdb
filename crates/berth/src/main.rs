//! The front door: the command line.

mod cli;
mod commands;
mod context;
mod creation;
mod driver_server;
mod duration;
mod environment;
mod failure;
mod guest_agent;
mod halt;
mod instances;
mod interrupt;
mod launch;
mod log_queue;
mod logging;
mod output;
mod platform;
mod prepare;
mod progress;
mod readiness;
mod render;
mod sys;
mod target;

use std::io::{self, IsTerminal as _};
use std::process::ExitCode;

use clap::Parser as _;
use clap::error::ErrorKind;

use crate::cli::Cli;
use crate::context::Context;

fn main() -> ExitCode {
    if let Some(driver) = driver_server::called_as() {
        return driver_server::run(&driver);
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(usage) => return explain_usage(&usage),
    };
    let shape = cli.log_shape(io::stderr().is_terminal());
    let context = Context::new(cli.global);
    match commands::run(cli.command, &context) {
        Ok(code) => code,
        Err(error) => {
            failure::report(&error, shape);
            failure::exit_code(&error)
        }
    }
}

/// Help and version are no failures; a wrong command line is one, with Lima's exit code.
fn explain_usage(usage: &clap::Error) -> ExitCode {
    // Nobody is there to read it when this fails.
    let _ = usage.print();
    match usage.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
