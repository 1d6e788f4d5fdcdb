//! What a boot step is, what it works with, and how it ends.

use std::fs;
use std::path::Path;
use std::pin::Pin;

use berth_link::boot::BootSpec;

use crate::accounts::Account;
use crate::boot::step_log::StepLog;
use crate::files::{FileError, failed};
use crate::guest::{Guest, Init};
use crate::programs::{Command, Finished, Output, ProgramError};
use crate::ready::Readiness;
use crate::watch::WaitError;

/// One piece of the boot's work, as a value: the engine decides when it runs.
///
/// Steps are idempotent: each looks first, and does only what is not done yet.
pub(crate) struct Step {
    /// What it is called in reports.
    pub(crate) name: String,
    /// Steps that must have ended before, well or badly: an order, not a condition.
    pub(crate) after: Vec<String>,
    /// Whether there is anything to it here; a step that does not apply is not reported.
    pub(crate) applies: fn(&BootSpec, &Guest) -> bool,
    /// Does the work.
    pub(crate) run: Box<dyn for<'a> Fn(&'a Work<'a>) -> Ending<'a>>,
}

/// The future of a step's work.
pub(crate) type Ending<'a> = Pin<Box<dyn Future<Output = Result<Done, StepError>> + 'a>>;

/// How a step ended that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Done {
    /// It changed something.
    Changed,
    /// All was as it should be.
    Already,
}

impl Done {
    /// [`Done::Changed`] if so.
    pub(crate) fn changed(changed: bool) -> Self {
        if changed {
            Self::Changed
        } else {
            Self::Already
        }
    }
}

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StepError {
    /// A file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// A program failed.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// Something did not come.
    #[error(transparent)]
    Wait(#[from] WaitError),
    /// The kernel did not tell about the network.
    #[error("could not ask the kernel for the network interfaces")]
    Network(#[source] std::io::Error),
    /// The step cannot do what `boot.json` asks for.
    #[error("{0}")]
    Impossible(String),
}

impl StepError {
    /// Exit code of the program that failed.
    pub(crate) fn exit_code(&self) -> Option<i32> {
        match self {
            Self::Program(ProgramError::Failed { code, .. }) => Some(*code),
            _ => None,
        }
    }
}

/// Makes the error of something that cannot be done.
pub(crate) fn impossible(why: impl Into<String>) -> StepError {
    StepError::Impossible(why.into())
}

/// What all steps of a boot work with.
#[derive(Debug)]
pub(crate) struct Site<'a> {
    /// What the host asks for.
    pub(crate) spec: &'a BootSpec,
    /// The system to apply it to.
    pub(crate) guest: &'a Guest,
    /// Where the cidata volume is mounted.
    pub(crate) volume: &'a Path,
    /// Who waits for the keys to be in place.
    pub(crate) readiness: &'a Readiness,
}

/// What one step works with.
#[derive(Debug)]
pub(crate) struct Work<'a> {
    /// What the host asks for.
    pub(crate) spec: &'a BootSpec,
    /// The system to apply it to.
    pub(crate) guest: &'a Guest,
    /// Where the cidata volume is mounted.
    pub(crate) volume: &'a Path,
    /// Who waits for the keys to be in place.
    pub(crate) readiness: &'a Readiness,
    /// Where its programs write to.
    pub(crate) log: StepLog,
}

impl<'a> Work<'a> {
    /// Sets out for the step of this name.
    pub(crate) fn new(site: &Site<'a>, name: &str) -> Self {
        Self {
            spec: site.spec,
            guest: site.guest,
            volume: site.volume,
            readiness: site.readiness,
            log: StepLog::new(site.guest, name),
        }
    }

    /// Runs a program to its end, its output to the step's log. A failing exit code is an error.
    pub(crate) async fn run(&self, command: Command) -> Result<(), StepError> {
        let code = self.exit_code(&command).await?;
        if code == 0 {
            return Ok(());
        }
        let program = command.name();
        Err(ProgramError::Failed { program, code }.into())
    }

    /// Runs a program to its end and gives its exit code.
    pub(crate) async fn exit_code(&self, command: &Command) -> Result<i32, StepError> {
        let output = Output::Log(self.log.open()?);
        Ok(self.guest.programs.run(command, output).await?.code)
    }

    /// Runs a program and gives what it prints, with its exit code: for questions that is often part of the answer.
    pub(crate) async fn ask(&self, command: Command) -> Result<Finished, StepError> {
        let output = Output::Answer(self.log.open()?);
        Ok(self.guest.programs.run(&command, output).await?)
    }

    /// Has systemd do something, without waiting for it to be done; nothing under other init systems.
    pub(crate) async fn systemctl_no_wait(&self, args: &[&str]) -> Result<(), StepError> {
        if self.guest.init != Init::Systemd {
            return Ok(());
        }
        self.run(Command::new("systemctl").arg("--no-block").args(args))
            .await
    }

    /// The login user's account. Steps that need it come after the one that waits for it.
    pub(crate) fn account(&self) -> Result<Account, StepError> {
        let name = &self.spec.user.name;
        self.guest.account(name)?.ok_or_else(|| {
            impossible(format!(
                "the guest has no user {name:?}: see cloud-init's log"
            ))
        })
    }

    /// Gives new files the labels that `SELinux` expects at their place, where there is `SELinux`.
    pub(crate) async fn restore_labels(&self, paths: &[&str]) -> Result<(), StepError> {
        if !self.guest.has_selinux() || !self.guest.has_program("restorecon") {
            return Ok(());
        }
        self.run(Command::new("restorecon").arg("-R").args(paths))
            .await
    }

    /// Reads a file of the volume.
    pub(crate) fn read_volume(&self, file: &str) -> Result<Vec<u8>, StepError> {
        let path = self.volume.join(file);
        Ok(fs::read(&path).map_err(failed("read", &path))?)
    }
}
