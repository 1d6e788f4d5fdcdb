//! Starting the host agent: its command line, its log files, its own session.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use berth_instance::dir::InstanceDir;
use berth_process::spawn::{Child, Spec};

use crate::prepare::Prepared;

/// What the agent is started with.
#[derive(Debug)]
pub(crate) struct Launch<'a> {
    pub(crate) name: &'a str,
    pub(crate) dir: &'a InstanceDir,
    pub(crate) prepared: &'a Prepared,
    /// Report the progress of cloud-init.
    pub(crate) progress: bool,
    pub(crate) debug: bool,
}

impl Launch<'_> {
    /// The arguments, in Lima's order.
    fn arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = Vec::new();
        if self.debug {
            arguments.push("--debug".into());
        }
        arguments.extend([
            "hostagent".into(),
            "--pidfile".into(),
            self.dir.ha_pid().into(),
        ]);
        arguments.extend(["--socket".into(), self.dir.ha_sock().into()]);
        if self.prepared.run_gui {
            arguments.push("--run-gui".into());
        }
        if let Some(path) = &self.prepared.guest_agent {
            arguments.extend(["--guestagent".into(), path.into()]);
        }
        if let Some(path) = &self.prepared.nerdctl_archive {
            arguments.extend(["--nerdctl-archive".into(), path.into()]);
        }
        if self.progress {
            arguments.push("--progress".into());
        }
        arguments.push(self.name.into());
        arguments
    }

    /// Starts the agent in a session of its own, with new log files: it survives this program and its terminal. Its working
    /// directory is the instance's, so that it keeps no other file system busy.
    ///
    /// The caller keeps other starts of the instance out until the agent holds the instance's lock.
    pub(crate) fn spawn(&self) -> anyhow::Result<Child> {
        let child = Spec::new(own_executable()?)
            .args(self.arguments())
            .cwd(self.dir.path())
            .stdout(new_log(&self.dir.ha_stdout_log())?)
            .stderr(new_log(&self.dir.ha_stderr_log())?)
            .new_session()
            .spawn()?;
        Ok(child)
    }

    /// The command that this program becomes with `--foreground`: the same, but a person at a terminal sees the log.
    pub(crate) fn in_foreground(&self, log_to_terminal: bool) -> anyhow::Result<Command> {
        let mut command = Command::new(own_executable()?);
        command.args(self.arguments());
        command.stdout(new_log(&self.dir.ha_stdout_log())?);
        let log = new_log(&self.dir.ha_stderr_log())?;
        if !log_to_terminal {
            command.stderr(log);
        }
        Ok(command)
    }
}

fn own_executable() -> anyhow::Result<PathBuf> {
    std::env::current_exe().context("cannot find this program's own file")
}

/// Makes the file anew: whoever follows the old one goes on reading that one to its end.
fn new_log(path: &Path) -> anyhow::Result<File> {
    let removed = match std::fs::remove_file(path) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => Err(why),
        _ => Ok(()),
    };
    removed.with_context(|| format!("cannot remove {}", path.display()))?;
    OpenOptions::new()
        .append(true)
        .create_new(true)
        .open(path)
        .with_context(|| format!("cannot create {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(prepared: &Prepared, progress: bool, debug: bool) -> Vec<String> {
        let dir = InstanceDir::new(PathBuf::from("/h/x"));
        let launch = Launch {
            name: "x",
            dir: &dir,
            prepared,
            progress,
            debug,
        };
        let arguments = launch.arguments().into_iter();
        arguments
            .map(|argument| argument.into_string().unwrap())
            .collect()
    }

    #[test]
    fn the_arguments_are_those_of_lima() {
        let bare = Prepared {
            guest_agent: None,
            nerdctl_archive: None,
            run_gui: false,
        };
        let all = Prepared {
            guest_agent: Some("/g".into()),
            nerdctl_archive: Some("/n".into()),
            run_gui: true,
        };
        assert_eq!(
            arguments(&bare, false, false).join(" "),
            "hostagent --pidfile /h/x/ha.pid --socket /h/x/ha.sock x"
        );
        assert_eq!(
            arguments(&all, true, true).join(" "),
            "--debug hostagent --pidfile /h/x/ha.pid --socket /h/x/ha.sock --run-gui --guestagent /g --nerdctl-archive /n \
             --progress x"
        );
    }
}
