//! `shell`: a command or a login shell in the guest, through ssh.
//!
//! This program is replaced by ssh, which attaches to the login that the agent holds open. What stands before that is on the
//! way of every command, so it reads what it needs and nothing else.

mod preserved_env;
mod remote_command;

use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, bail, ensure};
use berth_config::model::Config;
use berth_config::name::InstanceName;
use berth_instance::dir::InstanceDir;
use berth_instance::pids::Processes;
use berth_ssh::tool::SshTool;
use clap::Args;

use crate::commands::start::{self, StartOptions};
use crate::context::{Context, Host};
use crate::instances;
use crate::interrupt;
use crate::sys;
use crate::target::Target;
use preserved_env::PreservedEnv;
use remote_command::{Share, WorkDir};

/// Run a command or a shell in an instance.
#[derive(Debug, Args)]
pub(crate) struct ShellArgs {
    /// Instance, then the command and its arguments
    #[arg(
        value_name = "INSTANCE [COMMAND]",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub(crate) words: Vec<String>,
    /// Instance; then all words are the command
    #[arg(long, hide = true)]
    pub(crate) instance: Option<String>,
    /// Shell to run instead of the user's own
    #[arg(long, value_name = "SHELL")]
    pub(crate) shell: Option<String>,
    /// Directory in the guest to run in
    #[arg(long, value_name = "DIR")]
    pub(crate) workdir: Option<String>,
    /// Log in anew, so that changed groups take effect
    #[arg(long)]
    pub(crate) reconnect: bool,
    /// Hand on the environment, but for what would confuse the guest
    #[arg(long)]
    pub(crate) preserve_env: bool,
    /// Start the instance if it does not run
    #[arg(long)]
    pub(crate) start: bool,
}

pub(crate) fn run(args: &ShellArgs, context: &Context) -> anyhow::Result<ExitCode> {
    let (name, words) = split(args)?;
    let host = context.host()?;
    let name = InstanceName::parse(name)?;
    let dir = host.home.instance(&name);
    ensure!(
        dir.lima_yaml().exists(),
        "instance {:?} does not exist, run `{} start {name}` to create it",
        name.as_str(),
        context.program
    );
    if Processes::look(&dir, None).agent.is_none() && !start_first(args, &name, context, &host)? {
        return Ok(ExitCode::FAILURE);
    }
    ensure!(
        dir.ssh_config().exists(),
        "instance {:?} has no {}: it is still starting",
        name.as_str(),
        dir.ssh_config().display()
    );
    let config = instances::load(&host, &dir)?.config;
    let line = remote_line(args, words, &config, context)?;
    let hostname = name.hostname();
    let ssh = Ssh::new(context, &dir, &hostname)?;
    if args.reconnect {
        ssh.end_shared_login()?;
    }
    sys::become_program(&mut ssh.run(&line, context)).context("cannot run ssh")
}

/// The instance, and the words of the command.
fn split(args: &ShellArgs) -> anyhow::Result<(&str, &[String])> {
    let words = &args.words;
    if let Some(instance) = &args.instance {
        return Ok((instance, without_dashes(words)));
    }
    match without_dashes(words) {
        [instance, words @ ..] => Ok((instance, without_dashes(words))),
        [] => bail!("name the instance to run in"),
    }
}

fn without_dashes(words: &[String]) -> &[String] {
    match words {
        [first, rest @ ..] if first == "--" => rest,
        words => words,
    }
}

/// Starts an instance that does not run, if that is wished. False: it is not.
fn start_first(
    args: &ShellArgs,
    name: &InstanceName,
    context: &Context,
    host: &Host,
) -> anyhow::Result<bool> {
    let may_ask = context.interactive && io::stdin().is_terminal();
    if !args.start && !may_ask {
        bail!(
            "instance {:?} is stopped, run `{} start {name}` to start the instance",
            name.as_str(),
            context.program
        );
    }
    if !args.start && !asked(name)? {
        return Ok(false);
    }
    let target = Target::Existing(name.clone());
    let options = StartOptions::default();
    interrupt::run(start::start(&target, &options, context, host))?;
    Ok(true)
}

fn asked(name: &InstanceName) -> anyhow::Result<bool> {
    let question = format!("Instance \"{name}\" is stopped. Start it now? [Y/n] ");
    let mut answer = String::new();
    io::stderr()
        .write_all(question.as_bytes())
        .and_then(|()| io::stdin().read_line(&mut answer))
        .context("cannot ask whether to start the instance")?;
    Ok(matches!(
        answer.trim().to_ascii_lowercase().as_str(),
        "" | "y" | "yes"
    ))
}

fn remote_line(
    args: &ShellArgs,
    words: &[String],
    config: &Config,
    context: &Context,
) -> anyhow::Result<String> {
    let env = &context.env;
    let preserved = if args.preserve_env {
        let block = env.get("LIMA_SHELLENV_BLOCK");
        PreservedEnv::new(block, env.get("LIMA_SHELLENV_ALLOW"))?.choose(env.pairs())
    } else {
        Vec::new()
    };
    let workdir = if let Some(dir) = &args.workdir {
        WorkDir::Exactly(dir.clone())
    } else {
        let shares: Vec<Share> = config.mounts.iter().map(share).collect();
        let current = std::env::current_dir().ok();
        let home = env.get("HOME").unwrap_or_default();
        WorkDir::shared(&shares, current.as_deref(), Path::new(home))
    };
    let shell = args.shell.as_deref().unwrap_or(&config.user.shell);
    Ok(remote_command::line(&workdir, &preserved, shell, words))
}

fn share(mount: &berth_config::model::Mount) -> Share {
    Share {
        host: mount.location.clone(),
        guest: mount.mount_point.clone(),
    }
}

/// Ways to call ssh for one instance.
struct Ssh<'a> {
    tool: SshTool,
    dir: &'a InstanceDir,
    hostname: &'a str,
}

impl<'a> Ssh<'a> {
    fn new(context: &Context, dir: &'a InstanceDir, hostname: &'a str) -> anyhow::Result<Self> {
        let path = context.env.get("PATH").unwrap_or_default();
        Ok(Self {
            tool: SshTool::find(context.env.get("SSH"), path.as_ref())?,
            dir,
            hostname,
        })
    }

    fn command(&self) -> Command {
        self.tool.with_config(&self.dir.ssh_config())
    }

    fn run(&self, line: &str, context: &Context) -> Command {
        let mut command = self.command();
        if io::stdout().is_terminal() {
            command.arg("-t");
        }
        // `ERROR` keeps "Shared connection to … closed." to itself.
        command.args(["-o", "LogLevel=ERROR"]);
        if context
            .env
            .get("COLORTERM")
            .is_some_and(|value| !value.is_empty())
        {
            command.args(["-o", "SendEnv=COLORTERM"]);
        }
        command.args([self.hostname, "--", line]);
        command
    }

    /// Groups are read at login, so changed ones need a new one. The agent opens the next shared login by itself.
    fn end_shared_login(&self) -> anyhow::Result<()> {
        let mut command = self.command();
        command.args(["-O", "exit", self.hostname]);
        let quiet = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        // Without a shared login there is nothing to end.
        quiet.status().context("cannot run ssh")?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn split_line(line: &[&str]) -> (String, Vec<String>) {
        let words = ["berth", "shell"].iter().chain(line);
        let Command::Shell(args) = Cli::try_parse_from(words).unwrap().command else {
            panic!("not the shell")
        };
        let (name, words) = split(&args).unwrap();
        (name.to_owned(), words.to_vec())
    }

    #[test]
    fn flags_of_the_command_are_the_commands() {
        for (line, name, command) in [
            (&["x"][..], "x", &[][..]),
            (&["x", "ls", "-l", "--debug"], "x", &["ls", "-l", "--debug"]),
            (&["x", "--", "ls", "--", "-l"], "x", &["ls", "--", "-l"]),
            (&["--", "x", "ls"], "x", &["ls"]),
            (
                &["--workdir", "/tmp", "x", "pwd", "--workdir"],
                "x",
                &["pwd", "--workdir"],
            ),
            (&["--instance", "x", "ls", "-l"], "x", &["ls", "-l"]),
            (&["--instance", "x", "--", "ls"], "x", &["ls"]),
            (&["x", "-c", "true"], "x", &["-c", "true"]),
        ] {
            let command: Vec<_> = command.iter().map(|word| (*word).to_owned()).collect();
            assert_eq!(split_line(line), (name.to_owned(), command), "{line:?}");
        }
    }
}
