//! What this boot has reached: told to the host, to the console, and to an agent that takes over from this one.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::time::Duration;

use berth_link::event::{Stage, StepOutcome, StepReport};
use berth_link::guest::Board;
use serde::{Deserialize, Serialize};

use crate::args::chain;
use crate::clock::uptime;
use crate::console::Console;
use crate::files::{Attributes, FileError, Loss, ensure_directory, put, read_text};

/// Where the agent keeps what it must know until the next boot.
pub(crate) const RUNTIME_DIRECTORY: &str = "/run/lima-guestagent";

/// The record of one boot, in the runtime directory.
const RECORD: &str = "progress.json";

/// How many stages a boot has.
const STAGES: usize = 5;

/// What this boot has reached so far.
///
/// Everything is recorded in the runtime directory, so that an agent that is restarted in the middle tells the host the same
/// and repeats nothing.
#[derive(Debug)]
pub(crate) struct Progress {
    record: RefCell<Record>,
    /// Where the record is kept; `None`: nowhere.
    file: Option<PathBuf>,
    /// The record was begun by an agent before this one.
    is_resumed: bool,
    /// The host's view; `None` without a link.
    board: Option<Board>,
    console: Console,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Record {
    /// The kernel's; a record of another boot does not count.
    boot_id: String,
    stages: Vec<ReachedRecord>,
    steps: Vec<StepRecord>,
}

#[derive(Debug, Serialize, Deserialize)]
struct ReachedRecord {
    #[serde(with = "StageForm")]
    stage: Stage,
    uptime: Duration,
}

#[derive(Debug, Serialize, Deserialize)]
struct StepRecord(#[serde(with = "StepForm")] StepReport);

#[derive(Serialize, Deserialize)]
#[serde(remote = "Stage")]
enum StageForm {
    KernelUp,
    NetworkUp,
    UserReady,
    SshListening,
    BootScriptsDone { failed: u32 },
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "StepReport")]
struct StepForm {
    name: String,
    #[serde(with = "OutcomeForm")]
    outcome: StepOutcome,
    exit_code: Option<i32>,
    tail: String,
    started: Duration,
    ended: Duration,
}

#[derive(Serialize, Deserialize)]
#[serde(remote = "StepOutcome")]
enum OutcomeForm {
    Ok,
    Skipped,
    Failed,
}

impl Progress {
    /// Takes up the record of the boot with this id in `directory`, or begins one; tells `board` what is known already.
    pub(crate) fn open(
        directory: &Path,
        boot_id: &str,
        board: Option<Board>,
        console: Console,
    ) -> Result<Self, FileError> {
        ensure_directory(directory, Attributes::root(0o755))?;
        let file = directory.join(RECORD);
        let record = read_text(&file)?
            .and_then(|text| serde_json::from_str::<Record>(&text).ok())
            .filter(|record| record.boot_id == boot_id)
            .unwrap_or_else(|| Record {
                boot_id: boot_id.to_owned(),
                ..Record::default()
            });
        if let Some(board) = &board {
            for reached in &record.stages {
                board.reach(reached.stage, reached.uptime);
            }
            for StepRecord(step) in &record.steps {
                board.report(step.clone());
            }
        }
        Ok(Self {
            is_resumed: !record.stages.is_empty(),
            record: RefCell::new(record),
            file: Some(file),
            board,
            console,
        })
    }

    /// Keeps what is reached for itself.
    pub(crate) fn unrecorded() -> Self {
        Self {
            record: RefCell::default(),
            file: None,
            is_resumed: false,
            board: None,
            console: Console::none(),
        }
    }

    /// Tells whether an agent before this one has worked in the same boot.
    pub(crate) fn is_resumed(&self) -> bool {
        self.is_resumed
    }

    /// Notes that a stage was reached now. Only the first time counts.
    pub(crate) fn reach(&self, stage: Stage) {
        if self.has_reached(stage) {
            return;
        }
        let uptime = uptime();
        tracing::info!(?stage, uptime_ms = uptime.as_millis(), "stage reached");
        if let Some(board) = &self.board {
            board.reach(stage, uptime);
        }
        self.record
            .borrow_mut()
            .stages
            .push(ReachedRecord { stage, uptime });
        self.save();
        if self.record.borrow().stages.len() == STAGES {
            self.console.print(&self.last_line());
        }
    }

    /// Tells whether a stage was reached, however its boot scripts ended.
    pub(crate) fn has_reached(&self, stage: Stage) -> bool {
        let same = |other: Stage| std::mem::discriminant(&other) == std::mem::discriminant(&stage);
        self.record
            .borrow()
            .stages
            .iter()
            .any(|reached| same(reached.stage))
    }

    /// Notes that a step has ended.
    pub(crate) fn report(&self, step: StepReport) {
        match step.outcome {
            StepOutcome::Failed => tracing::warn!(step = step.name, "step failed: {}", step.tail),
            outcome => tracing::debug!(step = step.name, ?outcome, "step ended"),
        }
        if let Some(board) = &self.board {
            board.report(step.clone());
        }
        self.record.borrow_mut().steps.push(StepRecord(step));
        self.save();
    }

    /// Tells whether the step has ended in this boot, perhaps before the agent was restarted.
    pub(crate) fn has_ended(&self, step: &str) -> bool {
        self.record
            .borrow()
            .steps
            .iter()
            .any(|StepRecord(ended)| ended.name == step)
    }

    /// How many steps of this boot have failed.
    pub(crate) fn failed(&self) -> u32 {
        let record = self.record.borrow();
        let failed = record
            .steps
            .iter()
            .filter(|step| step.0.outcome == StepOutcome::Failed);
        u32::try_from(failed.count()).unwrap_or(u32::MAX)
    }

    /// The steps that have ended in this boot.
    pub(crate) fn steps(&self) -> Vec<StepReport> {
        self.record
            .borrow()
            .steps
            .iter()
            .map(|StepRecord(step)| step.clone())
            .collect()
    }

    fn last_line(&self) -> String {
        match self.failed() {
            0 => "berth: boot done".to_owned(),
            1 => "berth: boot done, 1 step failed".to_owned(),
            failed => format!("berth: boot done, {failed} steps failed"),
        }
    }

    /// Losing the record costs a repetition of steps that do no harm when repeated: not worth ending the agent.
    fn save(&self) {
        let Some(file) = &self.file else {
            return;
        };
        // Strings and numbers are always JSON.
        let bytes = serde_json::to_vec(&*self.record.borrow()).unwrap_or_default();
        if let Err(why) = put(file, &bytes, Attributes::root(0o600), Loss::Repaired) {
            tracing::warn!("the progress of this boot is not recorded: {}", chain(&why));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn step(name: &str, outcome: StepOutcome) -> StepReport {
        StepReport {
            name: name.to_owned(),
            outcome,
            exit_code: Some(3),
            tail: "last words".to_owned(),
            started: Duration::from_millis(1500),
            ended: Duration::from_millis(1700),
        }
    }

    fn open(directory: &Path, boot: &str) -> Progress {
        Progress::open(directory, boot, None, Console::none()).unwrap()
    }

    #[test]
    fn a_restarted_agent_knows_what_was_done_in_this_boot_only() {
        let dir = tempfile::tempdir().unwrap();
        let first = open(dir.path(), "boot-1");
        assert!(!first.is_resumed());
        first.reach(Stage::KernelUp);
        first.report(step("host-name", StepOutcome::Ok));
        first.report(step("provision.system/00000003", StepOutcome::Failed));

        let second = open(dir.path(), "boot-1");
        assert!(second.is_resumed());
        assert!(second.has_reached(Stage::KernelUp));
        assert!(!second.has_reached(Stage::NetworkUp));
        assert!(second.has_ended("host-name"));
        assert_eq!(second.failed(), 1);
        assert_eq!(
            second.steps()[1],
            step("provision.system/00000003", StepOutcome::Failed)
        );

        let other = open(dir.path(), "boot-2");
        assert!(!other.is_resumed());
        assert!(!other.has_ended("host-name"));
    }

    #[test]
    fn a_broken_record_is_begun_anew() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(
            dir.path().join(RECORD),
            "{\"boot_id\": \"boot-1\", \"stages\": [",
        )
        .unwrap();
        assert!(!open(dir.path(), "boot-1").is_resumed());
    }

    #[test]
    fn the_console_hears_of_the_last_stage_once() {
        let dir = tempfile::tempdir().unwrap();
        let console = dir.path().join("console");
        fs::write(&console, "").unwrap();
        let progress = Progress::open(dir.path(), "b", None, Console::to(&console)).unwrap();
        progress.report(step("dns", StepOutcome::Failed));
        for stage in [
            Stage::KernelUp,
            Stage::NetworkUp,
            Stage::BootScriptsDone { failed: 1 },
            Stage::UserReady,
        ] {
            progress.reach(stage);
        }
        assert_eq!(fs::read_to_string(&console).unwrap(), "");
        progress.reach(Stage::SshListening);
        progress.reach(Stage::SshListening);
        assert_eq!(
            fs::read_to_string(&console).unwrap(),
            "berth: boot done, 1 step failed\n"
        );
    }
}
