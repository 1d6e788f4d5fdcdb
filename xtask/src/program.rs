//! Running other programs, with errors that name the program and how it ended.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::workspace::is_root;

/// What timeout(1) exits with.
const TIMED_OUT: i32 = 124;

/// A command line that is shown when it fails.
#[derive(Debug)]
pub(crate) struct Program {
    command: Command,
    words: Vec<String>,
}

impl Program {
    /// Names the program; nothing runs yet.
    pub(crate) fn new(name: impl AsRef<OsStr>) -> Self {
        let words = vec![name.as_ref().to_string_lossy().into_owned()];
        Self {
            command: Command::new(name),
            words,
        }
    }

    /// Names a program that is killed when it takes longer.
    pub(crate) fn within(minutes: u32, name: &str) -> Self {
        Self::new("timeout").args(["--kill-after=30s", &format!("{minutes}m"), name])
    }

    /// Adds one argument.
    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.words.push(arg.as_ref().to_string_lossy().into_owned());
        self.command.arg(arg);
        self
    }

    /// Adds several arguments.
    pub(crate) fn args<S: AsRef<OsStr>>(self, args: impl IntoIterator<Item = S>) -> Self {
        args.into_iter().fold(self, Self::arg)
    }

    /// Sets an environment variable.
    pub(crate) fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(key, value);
        self
    }

    /// Runs in this directory.
    pub(crate) fn current_dir(mut self, dir: &Path) -> Self {
        self.command.current_dir(dir);
        self
    }

    /// Runs it with our terminal and fails unless it exits with 0.
    pub(crate) fn run(mut self) -> Result<()> {
        let status = self
            .command
            .status()
            .with_context(|| format!("start `{}`", self.words[0]))?;
        if status.code() == Some(TIMED_OUT) && self.words[0] == "timeout" {
            bail!("`{}` took too long", shorten(&self.words));
        }
        if !status.success() {
            bail!("`{}` failed: {status}", shorten(&self.words));
        }
        Ok(())
    }

    /// Runs it and returns what it printed; its stderr is shown only when it fails.
    pub(crate) fn read(mut self) -> Result<String> {
        let output = self
            .command
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("start `{}`", self.words[0]))?;
        if !output.status.success() {
            bail!(
                "`{}` failed: {}\n{}",
                shorten(&self.words),
                output.status,
                String::from_utf8_lossy(&output.stderr).trim_end()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Whether it starts and exits with 0; its output is dropped.
    pub(crate) fn succeeds(mut self) -> bool {
        self.command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }
}

/// Names a program that runs as root: by sudo, unless we are.
pub(crate) fn as_root(name: &str) -> Result<Program> {
    if is_root() {
        return Ok(Program::new(name));
    }
    if find("sudo").is_none() {
        bail!("`{name}` must run as root, and there is no sudo");
    }
    Ok(Program::new("sudo").arg(name))
}

/// Joins the words of a command line, with long ones (embedded scripts) cut.
fn shorten(words: &[String]) -> String {
    let cut = |word: &String| match word.split_once('\n') {
        Some((first, _)) => format!("{first}…"),
        None => word.clone(),
    };
    words.iter().map(cut).collect::<Vec<_>>().join(" ")
}

/// Finds a program on PATH, or in the directories where Debian keeps root's programs.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|candidate| candidate.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_command_and_its_stderr() {
        let error = Program::new("sh")
            .args(["-c", "echo because >&2\nexit 3"])
            .read()
            .unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("`sh -c echo because >&2…` failed: exit status: 3"));
        assert!(text.contains("\nbecause"));
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = Program::new("no-such-program-here").run().unwrap_err();
        assert!(format!("{error:#}").starts_with("start `no-such-program-here`"));
        assert_eq!(find("no-such-program-here"), None);
        assert!(find("sh").is_some());
    }
}
