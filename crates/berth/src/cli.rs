//! The command line as `clap` reads it: what is common to all commands, and the list of commands.
//!
//! Names, short forms and defaults are `limactl`'s, so that scripts written for it work.

use std::fmt;

use clap::{Args, Parser, Subcommand, ValueEnum};
use tracing_subscriber::filter::LevelFilter;

use crate::commands::{
    copy, create, delete, disk, dns, hostagent, list, restart, shell, show_ssh, start, status,
    stop, validate,
};
use crate::logging::Shape;

/// Runs Linux virtual machines for people who use Lima.
#[derive(Debug, Parser)]
#[command(
    version,
    disable_help_subcommand = true,
    propagate_version = false,
    max_term_width = 100
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: GlobalArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

impl Cli {
    /// How the last word of a failure is written, given whether stderr is a terminal. The agent's log is always JSON.
    pub(crate) fn log_shape(&self, stderr_is_terminal: bool) -> Shape {
        match self.command {
            Command::Hostagent(_) => Shape::Json,
            _ => self.global.shape(stderr_is_terminal),
        }
    }
}

/// What every command understands.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct GlobalArgs {
    /// Log everything of interest to a developer
    #[arg(long, global = true)]
    pub(crate) debug: bool,
    /// Log lines of this level and above; wins over --debug
    #[arg(long, global = true, value_name = "LEVEL")]
    log_level: Option<Level>,
    /// Shape of the log lines on stderr
    #[arg(long, global = true, value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,
    /// Talk to a person: colours, progress display, questions [default: stdout is a terminal]
    #[arg(long, global = true, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    tty: Option<GoBool>,
    /// Ask no questions, same as --tty=false
    #[arg(short, long, global = true, conflicts_with = "tty")]
    yes: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create an instance, and fetch its image
    Create(create::CreateArgs),
    /// Start an instance, creating it first if need be
    Start(start::StartArgs),
    /// Stop instances
    Stop(stop::StopArgs),
    /// Stop an instance and start it again
    Restart(restart::RestartArgs),
    /// Delete instances
    #[command(visible_aliases = ["rm", "remove"])]
    Delete(delete::DeleteArgs),
    /// List instances
    #[command(visible_alias = "ls")]
    List(list::ListArgs),
    /// Show what an instance is doing and where its start spent its time
    Status(status::StatusArgs),
    /// Run a command or a shell in an instance
    Shell(shell::ShellArgs),
    /// Copy files between this computer and instances
    #[command(visible_alias = "cp")]
    Copy(copy::CopyArgs),
    /// Show how to reach an instance with ssh
    ShowSsh(show_ssh::ShowSshArgs),
    /// Additional disks, which outlive the instances that use them
    Disk(disk::DiskArgs),
    /// Ask what the guest asks for names
    Dns(dns::DnsArgs),
    /// Check configuration files
    Validate(validate::ValidateArgs),
    /// Own the virtual machine of an instance until its end (started by `start`)
    #[command(hide = true)]
    Hostagent(hostagent::HostAgentArgs),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Level {
    Trace,
    Debug,
    Info,
    #[value(alias = "warning")]
    Warn,
    Error,
    #[value(hide = true)]
    Fatal,
    #[value(hide = true)]
    Panic,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

/// A truth value in the words that Go reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct GoBool(pub(crate) bool);

impl std::str::FromStr for GoBool {
    type Err = NotABool;
    fn from_str(text: &str) -> Result<Self, NotABool> {
        match text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Self(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Self(false)),
            _ => Err(NotABool),
        }
    }
}

/// A word that is neither.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NotABool;

impl fmt::Display for NotABool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("write true or false")
    }
}

impl std::error::Error for NotABool {}

impl GlobalArgs {
    /// The least important lines to log.
    pub(crate) fn level(&self) -> LevelFilter {
        match self.log_level {
            Some(Level::Trace) => LevelFilter::TRACE,
            Some(Level::Debug) => LevelFilter::DEBUG,
            Some(Level::Warn) => LevelFilter::WARN,
            Some(Level::Error | Level::Fatal | Level::Panic) => LevelFilter::ERROR,
            None if self.debug => LevelFilter::DEBUG,
            Some(Level::Info) | None => LevelFilter::INFO,
        }
    }

    /// Whether lines for developers are logged; the guest's agent then logs them too.
    pub(crate) fn debug_is_logged(&self) -> bool {
        self.level() >= LevelFilter::DEBUG
    }

    /// How to write log lines, given whether stderr is a terminal.
    pub(crate) fn shape(&self, stderr_is_terminal: bool) -> Shape {
        match self.log_format {
            LogFormat::Json => Shape::Json,
            LogFormat::Text if stderr_is_terminal => Shape::Plain,
            LogFormat::Text => Shape::Text,
        }
    }

    /// Whether to talk to a person, given whether stdout is a terminal.
    pub(crate) fn interactive(&self, stdout_is_terminal: bool) -> bool {
        match self.tty {
            Some(GoBool(wish)) => wish,
            None => stdout_is_terminal && !self.yes,
        }
    }

    /// Whether a person was asked for explicitly.
    pub(crate) fn interactive_demanded(&self) -> bool {
        self.tty == Some(GoBool(true))
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    fn global(arguments: &[&str]) -> GlobalArgs {
        let line = ["berth", "list"].iter().chain(arguments);
        Cli::try_parse_from(line).unwrap().global
    }

    #[test]
    fn the_level_wins_over_debug() {
        assert_eq!(global(&[]).level(), LevelFilter::INFO);
        assert_eq!(global(&["--debug"]).level(), LevelFilter::DEBUG);
        assert_eq!(
            global(&["--debug", "--log-level", "warning"]).level(),
            LevelFilter::WARN
        );
    }

    #[test]
    fn tty_is_a_go_bool_and_yes_turns_it_off() {
        assert!(global(&[]).interactive(true));
        assert!(!global(&["-y"]).interactive(true));
        assert!(!global(&["--tty=F"]).interactive(true));
        assert!(global(&["--tty"]).interactive(false));
        assert!(Cli::try_parse_from(["berth", "list", "-y", "--tty"]).is_err());
    }

    #[test]
    fn global_flags_stand_before_or_after_the_command() {
        let before = Cli::try_parse_from(["limactl", "--debug", "hostagent", "--socket", "s", "n"]);
        let after = Cli::try_parse_from(["limactl", "hostagent", "--socket", "s", "n", "--debug"]);
        assert!(before.unwrap().global.debug && after.unwrap().global.debug);
    }
}
