//! The notice board: the one place where state, timeline and events are kept together.
//!
//! Everything that is said about an instance goes through here, so that events come in order, the state follows its table, and
//! nothing is said after the last word.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::clock::{Clock, Moment};
use crate::event::{
    CloudInitProgress, Event, EventTime, PhaseEvent, PhaseOutcome, PortForwardEvent, Status,
    VsockEvent,
};
use crate::state::State;
use crate::timeline::{Outcome, Timeline};
use crate::writer::EventWriter;

/// State, timeline and events of one instance.
///
/// Every method is short and may be called from any thread. What comes at the wrong time (a late `ready` while stopping, anything
/// after `exiting`) is refused without an error: it is the normal end of a race, and logged at debug level.
#[derive(Debug)]
pub struct Board {
    clock: Arc<dyn Clock>,
    writer: EventWriter,
    beginning: Duration,
    state: watch::Sender<State>,
    facts: Mutex<Facts>,
}

/// What the state does not say.
#[derive(Debug)]
struct Facts {
    ssh_local_port: Option<u16>,
    /// Causes of degradation that were named before the instance was ready.
    early_causes: Vec<String>,
    timeline: Timeline,
    /// The last event was written.
    closed: bool,
}

impl Board {
    /// An empty board: stopped, and the timeline begins now.
    #[must_use]
    pub fn new(writer: EventWriter, clock: Arc<dyn Clock>) -> Arc<Self> {
        let now = clock.now();
        let facts = Facts {
            ssh_local_port: None,
            early_causes: Vec::new(),
            timeline: Timeline::new(now.wall),
            closed: false,
        };
        Arc::new(Self {
            clock,
            writer,
            beginning: now.steady,
            state: watch::Sender::new(State::Stopped),
            facts: Mutex::new(facts),
        })
    }

    /// The state now.
    #[must_use]
    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// The state now, and every change.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    /// The port of the guest's sshd on the host, once [`Board::booting`] has said it.
    #[must_use]
    pub fn ssh_local_port(&self) -> Option<u16> {
        self.facts().ssh_local_port
    }

    /// The timeline as far as it goes.
    #[must_use]
    pub fn timeline(&self) -> Timeline {
        self.facts().timeline.clone()
    }

    /// Time since the timeline's beginning.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.since_beginning(self.clock.now())
    }

    /// A new agent takes over a living VM.
    pub fn adopting(&self) {
        let _facts = self.facts();
        self.become_or_refuse(State::Adopting);
    }

    /// The VM runs, and its sshd will be on this port of the host.
    pub fn booting(&self, ssh_local_port: u16) {
        let mut facts = self.facts();
        facts.ssh_local_port = Some(ssh_local_port);
        self.tell(&facts, |_| {});
    }

    /// A phase begins. The phase ends with the guard.
    pub fn phase_started(self: &Arc<Self>, name: impl Into<String>) -> PhaseGuard {
        let name = name.into();
        let now = self.clock.now();
        let mut facts = self.facts();
        let place = facts
            .timeline
            .begin(name.clone(), self.since_beginning(now));
        let current = self.state();
        if matches!(current, State::Stopped | State::Starting { .. }) && !facts.closed {
            self.become_or_refuse(State::Starting {
                phase: name.clone(),
            });
        }
        let phase = PhaseEvent {
            name,
            outcome: PhaseOutcome::Started,
            elapsed_ms: None,
        };
        self.tell_phase(&facts, now, phase);
        drop(facts);
        PhaseGuard {
            board: Arc::clone(self),
            place,
            finished: false,
        }
    }

    /// The guest has reached a stage, at this time since the timeline's beginning.
    pub fn phase_point(&self, name: impl Into<String>, at: Duration) {
        self.facts().timeline.pass(name.into(), at);
    }

    /// cloud-init has said something.
    pub fn cloud_init(&self, progress: CloudInitProgress) {
        self.tell(&self.facts(), |status| {
            status.cloud_init_progress = Some(progress);
        });
    }

    /// A port forward has changed.
    pub fn port_forward(&self, change: PortForwardEvent) {
        self.tell(&self.facts(), |status| status.port_forward = Some(change));
    }

    /// SSH over vsock was set up or not.
    pub fn vsock(&self, change: VsockEvent) {
        self.tell(&self.facts(), |status| status.vsock = Some(change));
    }

    /// The instance is ready; with causes, in a degraded state.
    pub fn ready(&self, causes: Vec<String>) {
        let mut facts = self.facts();
        let mut all = std::mem::take(&mut facts.early_causes);
        for cause in causes {
            add(&mut all, cause);
        }
        if self.become_or_refuse(ready_state(all.clone())) {
            facts.timeline.ready = Some(self.elapsed());
            self.tell(&facts, |status| status.errors = all);
        }
    }

    /// Something does not work (any more). Before the instance is ready, it is remembered.
    pub fn degrade(&self, cause: impl Into<String>) {
        let cause = cause.into();
        let mut facts = self.facts();
        self.change_causes(&mut facts, |causes| add(causes, cause));
    }

    /// A cause named earlier is gone. When it was the last one, the instance is running again.
    pub fn heal(&self, cause: &str) {
        let mut facts = self.facts();
        self.change_causes(&mut facts, |causes| causes.retain(|known| known != cause));
    }

    fn change_causes(&self, facts: &mut Facts, change: impl FnOnce(&mut Vec<String>)) {
        let before = match self.state() {
            State::Running => Vec::new(),
            State::Degraded { causes } => causes,
            State::Stopped | State::Starting { .. } | State::Adopting => {
                change(&mut facts.early_causes);
                return;
            }
            State::Stopping | State::Failed { .. } | State::Orphaned => return,
        };
        let mut after = before.clone();
        change(&mut after);
        if after != before && self.become_or_refuse(ready_state(after.clone())) {
            self.tell(facts, |status| status.errors = after);
        }
    }

    /// The way down begins. No event says so: Lima knows none for it.
    pub fn stopping(&self) {
        let _facts = self.facts();
        self.become_or_refuse(State::Stopping);
    }

    /// The last word: writes the `exiting` event and refuses everything later. With errors the instance has failed.
    pub fn exiting(&self, errors: Vec<String>) {
        let mut facts = self.facts();
        if facts.closed {
            return;
        }
        facts.closed = true;
        let end = if errors.is_empty() {
            State::Stopped
        } else {
            State::Failed {
                why: errors.join("; "),
            }
        };
        if self.state().can_become(&State::Stopping) {
            self.become_or_refuse(State::Stopping);
        }
        if self.state() != end {
            self.become_or_refuse(end);
        }
        let status = Status {
            exiting: true,
            errors,
            ..Status::default()
        };
        self.write(self.clock.now(), status, None);
    }

    fn end_phase(&self, place: usize, outcome: Outcome) {
        let now = self.clock.now();
        let mut facts = self.facts();
        let word = outcome.word();
        let took = facts
            .timeline
            .end(place, self.since_beginning(now), outcome);
        let phase = PhaseEvent {
            name: facts.timeline.phases[place].name.clone(),
            outcome: word,
            elapsed_ms: Some(u64::try_from(took.as_millis()).unwrap_or(u64::MAX)),
        };
        self.tell_phase(&facts, now, phase);
    }

    /// Changes the state if the table allows it.
    fn become_or_refuse(&self, next: State) -> bool {
        self.state.send_if_modified(|state| {
            let allowed = state.can_become(&next);
            if allowed {
                *state = next;
            } else {
                tracing::debug!(from = ?state, to = ?next, "change of state refused");
            }
            allowed
        })
    }

    /// Writes an event with what holds now, and something new.
    fn tell(&self, facts: &Facts, add_news: impl FnOnce(&mut Status)) {
        if facts.closed {
            tracing::debug!("event after the last one refused");
            return;
        }
        let mut status = self.standing(facts);
        add_news(&mut status);
        self.write(self.clock.now(), status, None);
    }

    fn tell_phase(&self, facts: &Facts, now: Moment, phase: PhaseEvent) {
        if !facts.closed {
            self.write(now, self.standing(facts), Some(phase));
        }
    }

    /// What every event repeats. Not the causes: readers would show them again and again.
    fn standing(&self, facts: &Facts) -> Status {
        let state = self.state.borrow();
        Status {
            running: state.is_ready(),
            degraded: matches!(*state, State::Degraded { .. }),
            ssh_local_port: facts.ssh_local_port.unwrap_or(0),
            ..Status::default()
        }
    }

    fn write(&self, now: Moment, status: Status, phase: Option<PhaseEvent>) {
        let time = EventTime {
            at: now.wall,
            offset: now.offset,
        };
        self.writer.write(Event {
            time,
            status,
            phase,
        });
    }

    fn since_beginning(&self, now: Moment) -> Duration {
        now.steady.saturating_sub(self.beginning)
    }

    /// Held for the length of a method, never across an await: it keeps state and events in one order.
    fn facts(&self) -> MutexGuard<'_, Facts> {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn ready_state(causes: Vec<String>) -> State {
    if causes.is_empty() {
        State::Running
    } else {
        State::Degraded { causes }
    }
}

fn add(causes: &mut Vec<String>, cause: String) {
    if !causes.contains(&cause) {
        causes.push(cause);
    }
}

/// A phase under way. Dropped without [`PhaseGuard::finish`], it counts as failed: it was interrupted.
#[derive(Debug)]
#[must_use = "the phase ends when this is dropped"]
pub struct PhaseGuard {
    board: Arc<Board>,
    place: usize,
    finished: bool,
}

impl PhaseGuard {
    /// Ends the phase.
    pub fn finish(mut self, outcome: Outcome) {
        self.finished = true;
        self.board.end_phase(self.place, outcome);
    }
}

impl Drop for PhaseGuard {
    fn drop(&mut self) {
        if !self.finished {
            self.board
                .end_phase(self.place, Outcome::Failed("interrupted".to_owned()));
        }
    }
}
