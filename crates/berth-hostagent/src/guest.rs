//! What the host knows of the guest: one view, fed by the link, read by every phase.

use std::io;
use std::mem::discriminant;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use berth_driver::driver::{Driver, VmEvent};
use berth_events::board::Board;
use berth_forward::address::GuestPorts;
use berth_link::event::{
    BootId, EARLY_SSHD, GuestEvent, PortInterest, Request, Snapshot, Stage, StageReached,
    StepOutcome, StepReport, Welcome,
};
use berth_link::host::{Carrier, Connector, LinkError, LinkEvent, LinkHandle, Supervisor};
use tokio::sync::{broadcast, mpsc, watch};

use crate::agent::Tasks;
use crate::cloud_init;
use crate::forwarding::guest_ports;

/// What the guest agent has told us, over all its sessions.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GuestView {
    /// Whether the agent has answered at all, ever.
    pub seen: bool,
    /// Whether a session is up now.
    pub connected: bool,
    /// The number of the last session, counted from 1.
    pub generation: u64,
    /// Which boot of the guest the rest is about.
    pub boot_id: Option<BootId>,
    /// Stages of this boot.
    pub stages: Vec<StageReached>,
    /// Boot steps that have ended.
    pub steps: Vec<StepReport>,
    /// cloud-init has finished its work of this boot, as far as we were told.
    pub cloud_init_done: bool,
    /// Why the last session ended.
    pub down_reason: Option<String>,
}

impl GuestView {
    /// Whether this boot has come that far; the count in `BootScriptsDone` does not matter.
    #[must_use]
    pub fn reached(&self, stage: Stage) -> bool {
        self.stages
            .iter()
            .any(|known| discriminant(&known.stage) == discriminant(&stage))
    }

    /// Whether a login can succeed now.
    #[must_use]
    pub fn login_possible(&self) -> bool {
        self.reached(Stage::UserReady) && self.reached(Stage::SshListening)
    }

    /// Whether sshd answers before its turn: a login can begin, though nobody is let in yet.
    #[must_use]
    pub fn login_may_begin(&self) -> bool {
        let mut steps = self.steps.iter();
        steps.any(|step| step.name == EARLY_SSHD && step.outcome == StepOutcome::Ok)
    }

    /// Whether every boot step has ended.
    #[must_use]
    pub fn boot_done(&self) -> bool {
        self.reached(Stage::BootScriptsDone { failed: 0 })
    }

    /// The stage reached last, in words.
    #[must_use]
    pub fn furthest(&self) -> Option<&'static str> {
        self.stages
            .iter()
            .max_by_key(|known| known.uptime)
            .map(|known| stage_name(known.stage))
    }

    /// One cause of degradation for each failed step: its name, exit code and last lines.
    #[must_use]
    pub fn failed_steps(&self) -> Vec<String> {
        let failed = self
            .steps
            .iter()
            .filter(|step| step.outcome == StepOutcome::Failed);
        failed.map(describe_failure).collect()
    }

    /// Takes in everything the guest knows; returns the stages that are news.
    fn replace(&mut self, snapshot: Snapshot) -> Vec<StageReached> {
        if self.boot_id != Some(snapshot.boot_id) {
            self.stages.clear();
            self.cloud_init_done = false;
        }
        self.boot_id = Some(snapshot.boot_id);
        self.steps = snapshot.steps;
        self.cloud_init_done |= snapshot.cloud_init.completed;
        snapshot
            .stages
            .into_iter()
            .filter(|stage| self.add(*stage))
            .collect()
    }

    /// Adds a stage; says whether it is news.
    fn add(&mut self, reached: StageReached) -> bool {
        let news = !self.reached(reached.stage);
        if news {
            self.stages.push(reached);
        }
        news
    }
}

/// The stage's name in timelines and messages.
#[must_use]
pub fn stage_name(stage: Stage) -> &'static str {
    match stage {
        Stage::KernelUp => "kernel up",
        Stage::NetworkUp => "network up",
        Stage::UserReady => "user ready",
        Stage::SshListening => "sshd listening",
        Stage::BootScriptsDone { .. } => "boot steps done",
    }
}

fn describe_failure(step: &StepReport) -> String {
    let code = step
        .exit_code
        .map_or_else(String::new, |code| format!(" (exit code {code})"));
    let tail = step.tail.trim_end();
    if tail.is_empty() {
        format!("guest step {} failed{code}", step.name)
    } else {
        format!("guest step {} failed{code}:\n{tail}", step.name)
    }
}

/// The agent's end of the guest link.
#[derive(Debug, Clone)]
pub struct GuestLink {
    /// What is known.
    pub view: watch::Receiver<GuestView>,
    /// What listens in the guest, once the agent was asked to watch them.
    pub ports: watch::Receiver<GuestPorts>,
    /// Requests to the guest agent.
    pub handle: LinkHandle,
}

impl GuestLink {
    /// Starts the link to our guest agent over the driver's carrier.
    pub(crate) fn start(
        driver: Arc<dyn Driver>,
        vm: broadcast::Receiver<VmEvent>,
        board: Arc<Board>,
        tasks: &Tasks,
    ) -> Self {
        let (handle, events) = Supervisor::start(
            Arc::new(DriverConnector(driver)),
            Arc::new(|| Welcome {
                host_time: SystemTime::now(),
            }),
            &tasks.tracker,
            tasks.cancel.clone(),
        );
        let (seen, view) = watch::channel(GuestView::default());
        let (ports_out, ports) = watch::channel(GuestPorts::default());
        let cancel = tasks.cancel.clone();
        let kicked = handle.clone();
        tasks.tracker.spawn(async move {
            let kicking = kick_on_events(vm, || kicked.kick());
            cancel.run_until_cancelled(kicking).await;
        });
        let cancel = tasks.cancel.clone();
        tasks.tracker.spawn(async move {
            cancel
                .run_until_cancelled(follow(events, seen, ports_out, board))
                .await;
        });
        Self {
            view,
            ports,
            handle,
        }
    }

    /// Has the guest report its ports, in this session and every later one.
    pub(crate) fn watch_ports(&self, interest: PortInterest, tasks: &Tasks) {
        let (mut view, handle) = (self.view.clone(), self.handle.clone());
        let cancel = tasks.cancel.clone();
        tasks.tracker.spawn(async move {
            let asking = async {
                let mut asked = 0;
                loop {
                    let new = |view: &GuestView| view.connected && view.generation != asked;
                    let Ok(generation) = view.wait_for(new).await.map(|view| view.generation)
                    else {
                        return;
                    };
                    ask_for_ports(&handle, &interest).await;
                    asked = generation;
                }
            };
            cancel.run_until_cancelled(asking).await;
        });
    }

    /// The number of the session that is up; `None` while there is none.
    pub(crate) fn sessions(&self, tasks: &Tasks) -> watch::Receiver<Option<u64>> {
        crate::forwarding::mapped(&self.view, tasks, |view| {
            view.connected.then_some(view.generation)
        })
    }
}

/// How often a guest that is too busy to answer is asked again in one session.
const PORT_REQUESTS: usize = 10;

/// Asks until the guest has agreed; gives up when the session ends, as the next one is asked anew.
async fn ask_for_ports(handle: &LinkHandle, interest: &PortInterest) {
    for _ in 0..PORT_REQUESTS {
        match handle.request(Request::WatchPorts(interest.clone())).await {
            Ok(Ok(())) => return,
            Ok(Err(refusal)) => {
                tracing::warn!(%refusal, "the guest agent reports no ports, so none are forwarded");
                return;
            }
            Err(why @ (LinkError::TimedOut(..) | LinkError::Busy)) => {
                tracing::warn!(error = %why, "asking the guest agent for its ports again");
            }
            Err(why) => {
                tracing::debug!(error = %why, "the guest agent was not asked for its ports");
                return;
            }
        }
    }
}

/// Dials the guest agent's port.
struct DriverConnector(Arc<dyn Driver>);

#[async_trait]
impl Connector for DriverConnector {
    async fn connect(&self) -> io::Result<Box<dyn Carrier>> {
        match self.0.guest_agent_conn().await {
            Ok(Some(stream)) => Ok(stream),
            Ok(None) => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "the driver has no carrier to the guest agent",
            )),
            Err(why) => Err(io::Error::other(why)),
        }
    }
}

/// Whatever the VM does to the port or to the whole guest is a reason to look at the connection to its agent at once.
pub(crate) async fn kick_on_events(mut vm: broadcast::Receiver<VmEvent>, kick: impl Fn()) {
    loop {
        match vm.recv().await {
            Ok(VmEvent::AgentPort { open: true } | VmEvent::Reset | VmEvent::Paused(false))
            | Err(broadcast::error::RecvError::Lagged(_)) => kick(),
            Ok(_) => {}
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}

async fn follow(
    mut events: mpsc::Receiver<LinkEvent>,
    view: watch::Sender<GuestView>,
    ports: watch::Sender<GuestPorts>,
    board: Arc<Board>,
) {
    let mut guest_clock = GuestClock::default();
    while let Some(event) = events.recv().await {
        let event = match event {
            LinkEvent::Guest(GuestEvent::Ports(update)) => {
                ports.send_if_modified(|known| guest_ports::apply(known, &update));
                continue;
            }
            other => other,
        };
        let mut news = Vec::new();
        view.send_modify(|view| match event {
            LinkEvent::Up { generation, peer } => {
                tracing::info!(
                    generation,
                    agent = peer.agent_version,
                    boot = %peer.boot_id,
                    "guest agent connected"
                );
                view.seen = true;
                view.connected = true;
                view.generation = generation;
                view.down_reason = None;
                if view.boot_id != Some(peer.boot_id) {
                    guest_clock = GuestClock::default();
                }
            }
            LinkEvent::Down { generation, reason } => {
                tracing::info!(generation, %reason, "guest agent disconnected");
                view.connected = false;
                view.down_reason = Some(reason.to_string());
            }
            LinkEvent::Guest(GuestEvent::Snapshot(snapshot)) => news = view.replace(*snapshot),
            LinkEvent::Guest(GuestEvent::Stage(reached)) => {
                if view.add(reached) {
                    news.push(reached);
                }
            }
            LinkEvent::Guest(GuestEvent::Step(step)) => {
                view.steps.retain(|known| known.name != step.name);
                view.steps.push(step);
            }
            LinkEvent::Guest(GuestEvent::CloudInit(progress)) => {
                view.cloud_init_done |= progress.completed;
                cloud_init::tell(&board, progress);
            }
            // Nobody asks for them yet.
            LinkEvent::Guest(GuestEvent::Ports(_)) => {}
        });
        for reached in news {
            let name = stage_name(reached.stage);
            tracing::debug!(stage = name, uptime = ?reached.uptime, "guest");
            board.phase_point(
                name,
                guest_clock.on_the_timeline(board.elapsed(), reached.uptime),
            );
        }
    }
}

/// The zero of the guest's uptime on the host's timeline, in milliseconds; before the start of the timeline (negative) when the
/// guest was up already, or when its kernel is the host's.
///
/// A message arrives some time after what it tells; the one that took the least time tells best.
#[derive(Debug, Default)]
struct GuestClock {
    zero: Option<i64>,
}

impl GuestClock {
    fn on_the_timeline(&mut self, now: Duration, uptime: Duration) -> Duration {
        let millis = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        let zero = millis(now).saturating_sub(millis(uptime));
        let best = self.zero.map_or(zero, |known| known.min(zero));
        self.zero = Some(best);
        let at = best.saturating_add(millis(uptime));
        Duration::from_millis(u64::try_from(at).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(stage: Stage, ms: u64) -> StageReached {
        StageReached {
            stage,
            uptime: Duration::from_millis(ms),
        }
    }

    fn snapshot(boot: u8, stages: Vec<StageReached>) -> Snapshot {
        Snapshot {
            boot_id: BootId([boot; 16]),
            kernel: "6.1".into(),
            agent_version: "0".into(),
            instance_id: "iid-1".into(),
            stages,
            steps: Vec::new(),
            host_keys: Vec::new(),
            cloud_init: berth_link::event::CloudInitProgress::default(),
        }
    }

    #[test]
    fn a_snapshot_repeats_no_news_and_a_new_boot_forgets_the_old_one() {
        let mut view = GuestView::default();
        let up = at(Stage::KernelUp, 10);
        assert_eq!(view.replace(snapshot(1, vec![up])), [up]);
        assert!(view.replace(snapshot(1, vec![up])).is_empty());
        let ssh = at(Stage::SshListening, 20);
        assert!(view.add(ssh) && !view.add(ssh));
        assert_eq!(view.furthest(), Some("sshd listening"));
        assert_eq!(view.replace(snapshot(2, vec![up])), [up]);
        assert!(
            !view.reached(Stage::SshListening),
            "the new boot has not come that far"
        );
    }

    #[test]
    fn stages_stand_on_the_hosts_timeline_by_the_quickest_message() {
        let mut clock = GuestClock::default();
        let seconds = Duration::from_secs;
        // Told two seconds late, then at once: the guest's zero is at 5 s.
        assert_eq!(clock.on_the_timeline(seconds(9), seconds(2)), seconds(9));
        assert_eq!(clock.on_the_timeline(seconds(9), seconds(4)), seconds(9));
        assert_eq!(clock.on_the_timeline(seconds(20), seconds(6)), seconds(11));
        // A container shares the host's uptime.
        let mut shared = GuestClock::default();
        assert_eq!(
            shared.on_the_timeline(seconds(1), seconds(5000)),
            seconds(1)
        );
        assert_eq!(
            shared.on_the_timeline(seconds(2), seconds(5001)),
            seconds(2)
        );
    }

    #[test]
    fn a_failed_step_is_named_with_its_code_and_last_lines() {
        let step = StepReport {
            name: "provision.system/00000003".into(),
            outcome: StepOutcome::Failed,
            exit_code: Some(7),
            tail: "no such package\n".into(),
            started: Duration::ZERO,
            ended: Duration::ZERO,
        };
        let view = GuestView {
            steps: vec![step],
            ..GuestView::default()
        };
        assert_eq!(
            view.failed_steps(),
            ["guest step provision.system/00000003 failed (exit code 7):\nno such package"]
        );
    }
}
