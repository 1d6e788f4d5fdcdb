//! From wire messages to checked types and back. Whatever a guest can get wrong is caught here.

mod ports;
mod requests;

use std::time::Duration;

use super::{
    BootId, CloudInitProgress, GuestEvent, MAX_HOST_KEY, MAX_HOST_KEYS, MAX_LOG_LINE, MAX_NAME,
    MAX_REFUSAL, MAX_STEP_NAME, MAX_STEPS, MAX_TAIL, Refusal, Response, Snapshot, Stage,
    StageReached, StepOutcome, StepReport,
};
use crate::message::{self as wire, GuestKind, MessageError};
use crate::text;
pub(crate) use requests::{check, request};

/// What a guest message turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FromGuest {
    /// For whoever reads events.
    Event(GuestEvent),
    /// For whoever asked.
    Response { id: u64, response: Response },
    /// Something of a later version.
    Unknown,
}

impl TryFrom<wire::GuestMessage> for FromGuest {
    type Error = MessageError;

    fn try_from(message: wire::GuestMessage) -> Result<Self, MessageError> {
        Ok(match message.kind {
            None => Self::Unknown,
            Some(GuestKind::Snapshot(snapshot)) => {
                Self::Event(GuestEvent::Snapshot(Box::new(snapshot.try_into()?)))
            }
            Some(GuestKind::Stage(stage)) => match known_stage(stage) {
                Some(stage) => Self::Event(GuestEvent::Stage(stage)),
                None => Self::Unknown,
            },
            Some(GuestKind::Step(step)) => Self::Event(GuestEvent::Step(step.try_into()?)),
            Some(GuestKind::CloudInit(progress)) => {
                Self::Event(GuestEvent::CloudInit(progress.into()))
            }
            Some(GuestKind::Ports(ports)) => Self::Event(GuestEvent::Ports(ports.try_into()?)),
            Some(GuestKind::Response(response)) => Self::Response {
                id: response.id,
                response: match response.refusal {
                    None => Ok(()),
                    Some(why) => Err(Refusal(text::head(&why, MAX_REFUSAL))),
                },
            },
        })
    }
}

impl TryFrom<wire::Snapshot> for Snapshot {
    type Error = MessageError;

    fn try_from(snapshot: wire::Snapshot) -> Result<Self, MessageError> {
        let boot_id = snapshot.boot_id.as_slice().try_into().map_err(|_| {
            let problem = format!("has {} bytes, not 16", snapshot.boot_id.len());
            field("snapshot.boot_id", problem)
        })?;
        // A later version may know more stages, so unknown ones count too.
        at_most("snapshot.stages", snapshot.stages.len(), MAX_NAME)?;
        at_most("snapshot.steps", snapshot.steps.len(), MAX_STEPS)?;
        at_most(
            "snapshot.host_keys",
            snapshot.host_keys.len(),
            MAX_HOST_KEYS,
        )?;
        Ok(Self {
            boot_id: BootId(boot_id),
            kernel: name("snapshot.kernel", snapshot.kernel, MAX_NAME)?,
            agent_version: name("snapshot.agent_version", snapshot.agent_version, MAX_NAME)?,
            instance_id: name("snapshot.instance_id", snapshot.instance_id, MAX_NAME)?,
            stages: snapshot
                .stages
                .into_iter()
                .filter_map(known_stage)
                .collect(),
            steps: snapshot
                .steps
                .into_iter()
                .map(TryInto::try_into)
                .collect::<Result<_, _>>()?,
            host_keys: snapshot
                .host_keys
                .into_iter()
                .map(|key| name("snapshot.host_keys", key, MAX_HOST_KEY))
                .collect::<Result<_, _>>()?,
            cloud_init: snapshot.cloud_init.unwrap_or_default().into(),
        })
    }
}

impl TryFrom<wire::StepReport> for StepReport {
    type Error = MessageError;

    fn try_from(step: wire::StepReport) -> Result<Self, MessageError> {
        let outcome = match wire::Outcome::try_from(step.outcome) {
            Ok(wire::Outcome::Ok) => StepOutcome::Ok,
            Ok(wire::Outcome::Skipped) => StepOutcome::Skipped,
            Ok(wire::Outcome::Failed) => StepOutcome::Failed,
            Ok(wire::Outcome::Unknown) | Err(_) => {
                let problem = format!("is {}, which is no outcome", step.outcome);
                return Err(field("step.outcome", problem));
            }
        };
        if step.tail.len() > MAX_TAIL {
            return Err(too_long("step.tail", MAX_TAIL));
        }
        Ok(Self {
            name: name("step.name", step.name, MAX_STEP_NAME)?,
            outcome,
            exit_code: step.exit_code,
            tail: text::tail(&step.tail, MAX_TAIL),
            started: Duration::from_millis(step.started_ms),
            ended: Duration::from_millis(step.ended_ms),
        })
    }
}

impl From<wire::CloudInit> for CloudInitProgress {
    fn from(progress: wire::CloudInit) -> Self {
        Self {
            line: progress.line.map(|line| text::head(&line, MAX_LOG_LINE)),
            completed: progress.completed,
            dropped: progress.dropped,
        }
    }
}

/// The stage, unless it is one of a later version.
fn known_stage(reached: wire::StageReached) -> Option<StageReached> {
    let stage = match reached.stage() {
        wire::Stage::Unknown => return None,
        wire::Stage::KernelUp => Stage::KernelUp,
        wire::Stage::NetworkUp => Stage::NetworkUp,
        wire::Stage::UserReady => Stage::UserReady,
        wire::Stage::SshListening => Stage::SshListening,
        wire::Stage::BootScriptsDone => Stage::BootScriptsDone {
            failed: reached.failed,
        },
    };
    Some(StageReached {
        stage,
        uptime: Duration::from_millis(reached.uptime_ms),
    })
}

fn at_most(field: &'static str, count: usize, limit: usize) -> Result<(), MessageError> {
    if count > limit {
        return Err(MessageError::TooMany {
            field,
            count,
            limit,
        });
    }
    Ok(())
}

fn field(field: &'static str, problem: impl Into<String>) -> MessageError {
    MessageError::Field {
        field,
        problem: problem.into(),
    }
}

fn too_long(name: &'static str, limit: usize) -> MessageError {
    field(name, format!("is longer than {limit} bytes"))
}

fn name(field_name: &'static str, name: String, limit: usize) -> Result<String, MessageError> {
    if name.len() > limit {
        return Err(too_long(field_name, limit));
    }
    if !text::is_name(&name, limit) {
        return Err(field(field_name, "is not printable ASCII"));
    }
    Ok(name)
}

// The guest's own way out. Its notice board has cut every text already.

impl From<GuestEvent> for wire::GuestMessage {
    fn from(event: GuestEvent) -> Self {
        let kind = match event {
            GuestEvent::Snapshot(snapshot) => GuestKind::Snapshot((*snapshot).into()),
            GuestEvent::Stage(stage) => GuestKind::Stage(stage.into()),
            GuestEvent::Step(step) => GuestKind::Step(step.into()),
            GuestEvent::CloudInit(progress) => GuestKind::CloudInit(progress.into()),
            GuestEvent::Ports(update) => GuestKind::Ports(update.into()),
        };
        Self { kind: Some(kind) }
    }
}

impl From<Snapshot> for wire::Snapshot {
    fn from(snapshot: Snapshot) -> Self {
        Self {
            boot_id: snapshot.boot_id.0.to_vec(),
            kernel: snapshot.kernel,
            agent_version: snapshot.agent_version,
            instance_id: snapshot.instance_id,
            stages: snapshot.stages.into_iter().map(Into::into).collect(),
            steps: snapshot.steps.into_iter().map(Into::into).collect(),
            host_keys: snapshot.host_keys,
            cloud_init: Some(snapshot.cloud_init.into()),
        }
    }
}

impl From<StageReached> for wire::StageReached {
    fn from(reached: StageReached) -> Self {
        let (stage, failed) = match reached.stage {
            Stage::KernelUp => (wire::Stage::KernelUp, 0),
            Stage::NetworkUp => (wire::Stage::NetworkUp, 0),
            Stage::UserReady => (wire::Stage::UserReady, 0),
            Stage::SshListening => (wire::Stage::SshListening, 0),
            Stage::BootScriptsDone { failed } => (wire::Stage::BootScriptsDone, failed),
        };
        Self {
            stage: stage.into(),
            uptime_ms: millis(reached.uptime),
            failed,
        }
    }
}

impl From<StepReport> for wire::StepReport {
    fn from(step: StepReport) -> Self {
        let outcome = match step.outcome {
            StepOutcome::Ok => wire::Outcome::Ok,
            StepOutcome::Skipped => wire::Outcome::Skipped,
            StepOutcome::Failed => wire::Outcome::Failed,
        };
        Self {
            name: step.name,
            outcome: outcome.into(),
            exit_code: step.exit_code,
            tail: step.tail,
            started_ms: millis(step.started),
            ended_ms: millis(step.ended),
        }
    }
}

impl From<CloudInitProgress> for wire::CloudInit {
    fn from(progress: CloudInitProgress) -> Self {
        Self {
            line: progress.line,
            completed: progress.completed,
            dropped: progress.dropped,
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub(crate) fn response(id: u64, response: Response) -> wire::GuestMessage {
    let refusal = response
        .err()
        .map(|Refusal(why)| text::head(&why, MAX_REFUSAL));
    wire::GuestMessage {
        kind: Some(GuestKind::Response(wire::Response { id, refusal })),
    }
}
