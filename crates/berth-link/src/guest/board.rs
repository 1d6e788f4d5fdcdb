//! The notice board: what the boot has reached.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{broadcast, watch};

use crate::event::{
    BootId, CloudInitProgress, GuestEvent, GuestSocket, MAX_HOST_KEY, MAX_HOST_KEYS, MAX_LOG_LINE,
    MAX_NAME, MAX_STEP_NAME, MAX_STEPS, MAX_TAIL, Snapshot, Stage, StageReached, StepOutcome,
    StepReport,
};
use crate::text;

/// Notices that a session may be behind before it gets a snapshot instead.
const BEHIND: usize = 32;

/// Bytes of step output that the board keeps for snapshots, so that one fits into a message.
const KEPT_TAILS: usize = 24 * 1024;

/// Who this guest is; constant while the agent runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GuestIdentity {
    /// Which boot this is.
    pub boot_id: BootId,
    /// Kernel release.
    pub kernel: String,
    /// Version of this agent.
    pub agent_version: String,
    /// `instance_id` of `boot.json`; empty while it was not read, see [`Board::set_instance_id`].
    pub instance_id: String,
}

/// The notice board: what the boot has reached. The agent writes, every session reads.
///
/// Clones share one board. Nothing here blocks, and nothing is lost when no host is connected: each session begins with a
/// snapshot. Texts that are too long or hold control characters are cut and escaped here, so that the host accepts them.
#[derive(Debug, Clone)]
pub struct Board {
    notices: Arc<Mutex<Notices>>,
    ports: Arc<watch::Sender<Ports>>,
}

/// The guest's sockets; `None` while nobody has looked.
pub(super) type Ports = Option<Arc<BTreeSet<GuestSocket>>>;

#[derive(Debug)]
struct Notices {
    snapshot: Snapshot,
    /// Lines of cloud-init's log so far.
    lines: u64,
    posts: broadcast::Sender<Post>,
}

/// A notice on its way to sessions.
#[derive(Debug, Clone)]
pub(super) struct Post {
    pub(super) event: GuestEvent,
    /// Lines of cloud-init's log so far, this one included.
    pub(super) lines: u64,
}

/// What a session begins with: all there is, and what follows.
#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) snapshot: Snapshot,
    pub(super) lines: u64,
    pub(super) posts: broadcast::Receiver<Post>,
}

impl Board {
    /// Makes an empty board.
    #[must_use]
    pub fn new(identity: GuestIdentity) -> Self {
        let GuestIdentity {
            boot_id,
            kernel,
            agent_version,
            instance_id,
        } = identity;
        let snapshot = Snapshot {
            boot_id,
            kernel: text::name(&kernel, MAX_NAME),
            agent_version: text::name(&agent_version, MAX_NAME),
            instance_id: text::name(&instance_id, MAX_NAME),
            stages: Vec::new(),
            steps: Vec::new(),
            host_keys: Vec::new(),
            cloud_init: CloudInitProgress::default(),
        };
        let notices = Notices {
            snapshot,
            lines: 0,
            posts: broadcast::Sender::new(BEHIND),
        };
        Self {
            notices: Arc::new(Mutex::new(notices)),
            ports: Arc::new(watch::Sender::new(None)),
        }
    }

    /// Notes that a stage was reached. A stage that is noted already stays as it is, except that another count of failed
    /// scripts replaces the first.
    pub fn reach(&self, stage: Stage, uptime: Duration) {
        let reached = StageReached { stage, uptime };
        let mut notices = self.notices();
        let stages = &mut notices.snapshot.stages;
        if stages.iter().any(|known| known.stage == stage) {
            return;
        }
        if matches!(stage, Stage::BootScriptsDone { .. }) {
            stages.retain(|known| !matches!(known.stage, Stage::BootScriptsDone { .. }));
        }
        stages.push(reached);
        notices.post(GuestEvent::Stage(reached));
    }

    /// Notes that a step has ended; an earlier report of the same name is replaced. More than [`MAX_STEPS`] steps are told to
    /// hosts that listen now, but not kept.
    pub fn report(&self, mut step: StepReport) {
        step.name = text::name(&step.name, MAX_STEP_NAME);
        step.tail = text::tail(last_bytes(&step.tail, MAX_TAIL), MAX_TAIL);
        let mut notices = self.notices();
        let steps = &mut notices.snapshot.steps;
        steps.retain(|known| known.name != step.name);
        if steps.len() < MAX_STEPS {
            steps.push(step.clone());
            forget_tails(steps);
        }
        notices.post(GuestEvent::Step(step));
    }

    /// Notes the SSH host keys (public key lines), at most [`MAX_HOST_KEYS`].
    pub fn set_host_keys(&self, keys: Vec<String>) {
        let keys = keys.into_iter().take(MAX_HOST_KEYS);
        let keys = keys
            .map(|key| text::name(key.trim(), MAX_HOST_KEY))
            .collect();
        let mut notices = self.notices();
        notices.snapshot.host_keys = keys;
        notices.post_snapshot();
    }

    /// Notes the instance id, once `boot.json` was read.
    pub fn set_instance_id(&self, id: &str) {
        let mut notices = self.notices();
        notices.snapshot.instance_id = text::name(id, MAX_NAME);
        notices.post_snapshot();
    }

    /// Notes a line of cloud-init's log. Lines are for whoever listens now: only the last one is kept.
    pub fn cloud_init_line(&self, line: &str) {
        let mut notices = self.notices();
        notices.lines += 1;
        let line = text::head(line.trim_end(), MAX_LOG_LINE);
        notices.snapshot.cloud_init.line = Some(line);
        notices.post_cloud_init();
    }

    /// Notes that cloud-init has finished.
    pub fn cloud_init_completed(&self) {
        let mut notices = self.notices();
        notices.snapshot.cloud_init.completed = true;
        notices.snapshot.cloud_init.line = None;
        notices.post_cloud_init();
    }

    /// Notes which sockets there are. Hosts that asked for them are told the difference, at their own pace.
    pub fn set_ports(&self, ports: Arc<BTreeSet<GuestSocket>>) {
        self.ports.send_replace(Some(ports));
    }

    /// Follows what [`Board::set_ports`] says; what it says now counts as unseen.
    pub(super) fn ports(&self) -> watch::Receiver<Ports> {
        let mut ports = self.ports.subscribe();
        ports.mark_changed();
        ports
    }

    /// What is on the board now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.notices().snapshot.clone()
    }

    /// All there is and what follows, with nothing between them or in both.
    pub(super) fn subscribe(&self) -> Subscription {
        let notices = self.notices();
        Subscription {
            snapshot: notices.snapshot.clone(),
            lines: notices.lines,
            posts: notices.posts.subscribe(),
        }
    }

    fn notices(&self) -> MutexGuard<'_, Notices> {
        self.notices.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Notices {
    fn post(&self, event: GuestEvent) {
        // Nobody listens between sessions: the next one reads the snapshot.
        let _ = self.posts.send(Post {
            event,
            lines: self.lines,
        });
    }

    fn post_snapshot(&self) {
        self.post(GuestEvent::Snapshot(Box::new(self.snapshot.clone())));
    }

    fn post_cloud_init(&self) {
        self.post(GuestEvent::CloudInit(self.snapshot.cloud_init.clone()));
    }
}

/// Empties the tails that snapshots need not repeat: all of successes, and of failures the oldest that are too much.
fn forget_tails(steps: &mut [StepReport]) {
    let mut left = KEPT_TAILS;
    for step in steps.iter_mut().rev() {
        let keeps = step.outcome == StepOutcome::Failed && step.tail.len() <= left;
        if keeps {
            left -= step.tail.len();
        } else {
            step.tail = String::new();
        }
    }
}

fn last_bytes(text: &str, count: usize) -> &str {
    let from = text.len().saturating_sub(count);
    let start = (from..=text.len()).find(|at| text.is_char_boundary(*at));
    start.map_or("", |start| &text[start..])
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::event::wire::FromGuest;
    use crate::message::{GuestMessage, MAX_MESSAGE};

    fn board() -> Board {
        Board::new(GuestIdentity {
            boot_id: BootId([7; 16]),
            kernel: "k".repeat(1000),
            agent_version: "v".repeat(1000),
            instance_id: "i".repeat(1000),
        })
    }

    fn failed(name: &str, tail: &str) -> StepReport {
        StepReport {
            name: name.into(),
            outcome: StepOutcome::Failed,
            exit_code: Some(i32::MIN),
            tail: tail.into(),
            started: Duration::MAX,
            ended: Duration::MAX,
        }
    }

    #[test]
    fn the_fullest_board_fits_into_one_message_that_the_host_takes() {
        let board = board();
        for number in 0..2 * MAX_STEPS {
            board.report(failed(
                &format!("{number:0<200}\x1b"),
                &"\x1b".repeat(20_000),
            ));
        }
        board.set_host_keys(vec!["ssh-rsa \n".repeat(1000); 100]);
        board.set_instance_id(&"ü".repeat(1000));
        board.cloud_init_line(&"\x07".repeat(10_000));
        for stage in [
            Stage::KernelUp,
            Stage::NetworkUp,
            Stage::UserReady,
            Stage::SshListening,
            Stage::BootScriptsDone { failed: u32::MAX },
        ] {
            board.reach(stage, Duration::MAX);
        }
        let snapshot = board.snapshot();
        assert!(snapshot.steps.len() > 100, "{}", snapshot.steps.len());
        assert_eq!(snapshot.host_keys.len(), MAX_HOST_KEYS);
        let message = GuestMessage::from(GuestEvent::Snapshot(Box::new(snapshot)));
        assert!(
            message.encoded_len() <= MAX_MESSAGE,
            "{}",
            message.encoded_len()
        );
        FromGuest::try_from(message).unwrap();
    }

    #[test]
    fn every_event_of_a_board_is_one_that_the_host_takes_as_it_is() {
        let board = board();
        let mut posts = board.subscribe().posts;
        board.report(StepReport {
            started: Duration::from_millis(1),
            ended: Duration::from_millis(2),
            ..failed("\u{202e}näme\n", &"ü\x1b\n".repeat(3000))
        });
        board.cloud_init_line(&"\x1b[0m".repeat(1000));
        board.cloud_init_completed();
        for _ in 0..3 {
            let event = posts.try_recv().unwrap().event;
            let taken = FromGuest::try_from(GuestMessage::from(event.clone())).unwrap();
            assert_eq!(taken, FromGuest::Event(event));
        }
    }

    #[test]
    fn stages_are_noted_once_and_a_new_count_of_failures_replaces_the_old() {
        let board = board();
        board.reach(Stage::NetworkUp, Duration::from_secs(1));
        board.reach(Stage::NetworkUp, Duration::from_secs(2));
        board.reach(Stage::BootScriptsDone { failed: 0 }, Duration::from_secs(3));
        board.reach(Stage::BootScriptsDone { failed: 1 }, Duration::from_secs(4));
        let snapshot = board.snapshot();
        let stages: Vec<_> = snapshot
            .stages
            .iter()
            .map(|s| (s.stage, s.uptime.as_secs()))
            .collect();
        assert_eq!(
            stages,
            [
                (Stage::NetworkUp, 1),
                (Stage::BootScriptsDone { failed: 1 }, 4)
            ]
        );
    }

    #[test]
    fn snapshots_keep_the_newest_failures_tails() {
        let board = board();
        let tail = "x".repeat(MAX_TAIL);
        for number in 0..8 {
            board.report(failed(&format!("step {number}"), &tail));
        }
        board.report(StepReport {
            outcome: StepOutcome::Ok,
            ..failed("fine", &tail)
        });
        let snapshot = board.snapshot();
        let kept: Vec<_> = snapshot
            .steps
            .iter()
            .map(|step| !step.tail.is_empty())
            .collect();
        assert_eq!(
            kept,
            [false, false, true, true, true, true, true, true, false]
        );
    }
}
