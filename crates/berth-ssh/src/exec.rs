//! Running scripts in the guest.
//!
//! A script goes to its interpreter's standard input. Variables go before it on the same stream, where no shell's quoting
//! rules and no list of processes see them: the remote command is a loop in plain `sh` that reads them and then becomes the
//! interpreter. It holds no character that any login shell reads in its own way.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use berth_process::escape::{escape_untrusted, escape_untrusted_lines};
use berth_process::exit::Exit;
use berth_process::spawn::{Child, SpawnError};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::process::ChildStdout;

use crate::run::{Finished, RunError, run, run_into};
use crate::session::{Session, Via};

/// What `ssh` exits with when it failed itself.
pub const SSH_FAILED: i32 = 255;

/// Longest line of a [`LineStream`]; the rest of a longer one is thrown away.
const LINE_MAX: usize = 4096;

/// A script for the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Script {
    text: String,
    env: Vec<(String, String)>,
}

/// What a script did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// How it ended; status 255 may also be `ssh`'s own failure.
    pub exit: Exit,
    /// The first 64 KiB of what it wrote; nothing, where that went elsewhere.
    pub stdout: Vec<u8>,
    /// The first 64 KiB of its messages, and `ssh`'s.
    pub stderr: Vec<u8>,
}

/// Why there is no output.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExecError {
    /// The instance has no SSH address yet.
    #[error("the guest is not reachable over ssh yet")]
    NotConnected,
    /// The script cannot be run as it is.
    #[error("the script cannot be run: {why}")]
    Script {
        /// What is wrong with it.
        why: String,
    },
    /// `ssh` could not be started.
    #[error("cannot run ssh")]
    Spawn(#[from] SpawnError),
    /// The pipes to `ssh` failed.
    #[error("cannot talk to ssh")]
    Pipes(#[source] std::io::Error),
    /// What the script wrote could not be passed on.
    #[error("cannot write what the guest sends")]
    Sink(#[source] std::io::Error),
    /// The script wrote more than the caller takes.
    #[error("the guest sends more than {0} bytes")]
    TooMuch(u64),
    /// The script or the connection took too long. `ssh` was stopped; the script may still run.
    #[error("no answer from the guest within {} s{}", .limit.as_secs(), said(.stderr))]
    TimedOut {
        /// How long was waited.
        limit: Duration,
        /// What was written to stderr until then, escaped.
        stderr: String,
    },
}

fn said(stderr: &str) -> String {
    if stderr.is_empty() {
        String::new()
    } else {
        format!(": {stderr}")
    }
}

impl From<RunError> for ExecError {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Spawn(error) => Self::Spawn(error),
            RunError::Pipes(error) => Self::Pipes(error),
            RunError::Sink(error) => Self::Sink(error),
            RunError::TooMuch(most) => Self::TooMuch(most),
            RunError::TimedOut { limit, stderr } => Self::TimedOut {
                limit,
                stderr: escape_untrusted_lines(stderr.trim_ascii()),
            },
        }
    }
}

impl Script {
    /// A script that begins with `#!` and its interpreter.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            env: Vec::new(),
        }
    }

    /// Sets a variable of the script's environment.
    #[must_use]
    pub fn with_env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// Sets `PARAM_name` for each parameter of the configuration.
    #[must_use]
    pub fn with_params(mut self, params: &BTreeMap<String, String>) -> Self {
        let params = params.iter();
        self.env
            .extend(params.map(|(name, value)| (format!("PARAM_{name}"), value.clone())));
        self
    }

    /// The command that the guest's login shell runs.
    fn command(&self) -> Result<String, ExecError> {
        let refuse = |why: String| Err(ExecError::Script { why });
        let first = self.text.lines().next().unwrap_or_default();
        let Some(interpreter) = first
            .strip_prefix("#!")
            .map(str::trim)
            .filter(|i| !i.is_empty())
        else {
            return refuse(format!(
                "its first line is {first:?}, not \"#!\" and an interpreter"
            ));
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || " /._+=:,@-".contains(c);
        if let Some(odd) = interpreter.chars().find(|c| !plain(*c)) {
            return refuse(format!("its interpreter has {odd:?} in it"));
        }
        Ok(format!(
            "/bin/sh -c 'while IFS= read -r line && test -n \"$line\"; do export \"$line\"; done; exec {interpreter}'"
        ))
    }

    /// Variables, an empty line, the script.
    fn input(&self) -> Result<Vec<u8>, ExecError> {
        let mut input = String::new();
        for (name, value) in &self.env {
            let (name, value) = (name.as_str(), value.as_str());
            let named = |c: char| c.is_ascii_alphanumeric() || c == '_';
            if name.is_empty() || !name.chars().all(named) || value.contains(['\n', '\0']) {
                let why = format!("the variable {name:?} cannot be set to {value:?}");
                return Err(ExecError::Script { why });
            }
            input.extend([name, "=", value, "\n"]);
        }
        input.push('\n');
        input.push_str(&self.text);
        Ok(input.into_bytes())
    }
}

impl From<Finished> for Output {
    fn from(ran: Finished) -> Self {
        Self {
            exit: ran.exit,
            stdout: ran.stdout,
            stderr: ran.stderr,
        }
    }
}

impl Output {
    /// Whether the script ended with status 0.
    #[must_use]
    pub fn success(&self) -> bool {
        self.exit.success()
    }

    /// How it ended and what it said, for people, escaped.
    #[must_use]
    pub fn describe(&self) -> String {
        let words =
            [&self.stderr, &self.stdout].map(|bytes| escape_untrusted_lines(bytes.trim_ascii()));
        let words = words.iter().filter(|words| !words.is_empty());
        words.fold(self.exit.describe(), |all, words| format!("{all}: {words}"))
    }
}

impl Session {
    /// Runs a script in the guest, over the `ControlMaster`'s connection where there is one.
    pub async fn run(&self, script: &Script, limit: Duration) -> Result<Output, ExecError> {
        self.run_via(Via::Master, script, limit).await
    }

    /// Runs a script in the guest over the given connection.
    pub async fn run_via(
        &self,
        via: Via,
        script: &Script,
        limit: Duration,
    ) -> Result<Output, ExecError> {
        let command = self.command(via).arg("--").arg(script.command()?);
        let ran = run(command, &script.input()?, limit).await?;
        Ok(ran.into())
    }

    /// Runs a script whose output goes into `sink` as it comes, at most `most` bytes; over the `ControlMaster`'s connection.
    ///
    /// Dropping the future ends the script's `ssh`.
    pub async fn run_into(
        &self,
        script: &Script,
        sink: &mut (impl AsyncWrite + Unpin),
        most: u64,
        limit: Duration,
    ) -> Result<Output, ExecError> {
        let command = self.command(Via::Master).arg("--").arg(script.command()?);
        let ran = run_into(command, &script.input()?, sink, most, limit).await?;
        Ok(ran.into())
    }

    /// Starts a script whose output is read line by line while it runs, over the `ControlMaster`'s connection.
    pub async fn follow(&self, script: &Script) -> Result<LineStream, ExecError> {
        let command = self.command(Via::Master).arg("--").arg(script.command()?);
        let input = script.input()?;
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop()
            .spawn()?;
        if let Some(mut stdin) = child.take_stdin().map_err(ExecError::Pipes)? {
            // An early end shows in the lines that do not come.
            let _ = stdin.write_all(&input).await;
        }
        let stdout = child.take_stdout().map_err(ExecError::Pipes)?;
        Ok(LineStream {
            _child: child,
            stdout: stdout.map(BufReader::new),
        })
    }
}

/// The lines of a script that runs in the guest. Dropping it ends the script's `ssh`.
#[derive(Debug)]
pub struct LineStream {
    _child: Child,
    stdout: Option<BufReader<ChildStdout>>,
}

impl LineStream {
    /// Waits for the next line, escaped and cut at 4 KiB; `None` when the output has ended.
    pub async fn next(&mut self) -> Option<String> {
        let stdout = self.stdout.as_mut()?;
        let mut line = Vec::new();
        let mut limited = stdout.take(LINE_MAX as u64);
        if !matches!(limited.read_until(b'\n', &mut line).await, Ok(1..)) {
            self.stdout = None;
            return None;
        }
        if line.last() == Some(&b'\n') {
            line.pop();
        } else {
            skip_line(stdout).await;
        }
        Some(escape_untrusted(line.strip_suffix(b"\r").unwrap_or(&line)))
    }
}

/// Throws away the rest of a line without keeping it.
async fn skip_line(stdout: &mut BufReader<ChildStdout>) {
    while let Ok(bytes @ [_, ..]) = stdout.fill_buf().await {
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let used = end.map_or(bytes.len(), |at| at + 1);
        stdout.consume(used);
        if end.is_some() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remote_command_is_plain() {
        let script = Script::new("#! /usr/bin/env  bash -e\necho hi\n").with_env("A", "it's $HOME");
        assert_eq!(
            script.command().unwrap(),
            "/bin/sh -c 'while IFS= read -r line && test -n \"$line\"; do export \"$line\"; done; exec /usr/bin/env  bash -e'"
        );
        let input = String::from_utf8(script.input().unwrap()).unwrap();
        assert_eq!(input, "A=it's $HOME\n\n#! /usr/bin/env  bash -e\necho hi\n");
    }

    #[test]
    fn scripts_that_cannot_be_run_are_refused() {
        for text in [
            "",
            "echo hi",
            "#!",
            "#!  \n",
            "#!/bin/sh 'x'",
            "#!/bin/sh -c $(x)",
            "#!/bin/\\sh",
        ] {
            assert!(Script::new(text).command().is_err(), "{text:?}");
        }
        for (name, value) in [("", "x"), ("A B", "x"), ("A=B", "x"), ("A", "x\ny")] {
            assert!(
                Script::new("#!/bin/sh")
                    .with_env(name, value)
                    .input()
                    .is_err(),
                "{name:?}"
            );
        }
    }
}
