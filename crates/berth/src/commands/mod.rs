//! The commands, one file each.

pub(crate) mod copy;
pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod disk;
pub(crate) mod dns;
pub(crate) mod hostagent;
pub(crate) mod list;
pub(crate) mod restart;
pub(crate) mod shell;
pub(crate) mod show_ssh;
pub(crate) mod start;
pub(crate) mod status;
pub(crate) mod stop;
pub(crate) mod validate;

use std::process::ExitCode;

use crate::cli::Command;
use crate::context::Context;

/// Runs one command and says how the program ends.
pub(crate) fn run(command: Command, context: &Context) -> anyhow::Result<ExitCode> {
    if !matches!(command, Command::Hostagent(_)) {
        context.log_to_stderr();
    }
    match command {
        Command::Copy(args) => copy::run(&args, context),
        Command::Create(args) => create::run(&args, context),
        Command::Start(args) => start::run(&args, context),
        Command::Stop(args) => stop::run(&args, context),
        Command::Restart(args) => restart::run(&args, context),
        Command::Delete(args) => delete::run(&args, context),
        Command::Disk(args) => disk::run(&args, context),
        Command::List(args) => list::run(&args, context),
        Command::Status(args) => status::run(&args, context),
        Command::Shell(args) => shell::run(&args, context),
        Command::ShowSsh(args) => show_ssh::run(&args, context),
        Command::Dns(args) => dns::run(&args, context),
        Command::Validate(args) => validate::run(&args, context),
        Command::Hostagent(args) => hostagent::run(args, context),
    }
}
