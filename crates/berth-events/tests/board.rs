//! The board: what it says, in which order, and what it refuses to say.

use std::fs::File;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use berth_events::board::Board;
use berth_events::clock::{Clock, Moment};
use berth_events::event::Event;
use berth_events::event::{
    CloudInitProgress, PhaseOutcome, PortForwardEvent, PortForwardKind, Status, VsockEvent,
    VsockKind,
};
use berth_events::state::State;
use berth_events::timeline::Outcome;
use berth_events::writer::EventWriter;
use jiff::Timestamp;
use jiff::tz::Offset;

/// A clock that goes when told to.
#[derive(Debug, Default)]
struct ByHand(Mutex<Duration>);

impl ByHand {
    fn advance(&self, milliseconds: u64) {
        *self.0.lock().expect("sound") += Duration::from_millis(milliseconds);
    }
}

impl Clock for ByHand {
    fn now(&self) -> Moment {
        let steady = *self.0.lock().expect("sound");
        let begin: Timestamp = "2026-11-23T18:00:00Z".parse().expect("a time");
        Moment {
            wall: begin + steady,
            offset: Offset::UTC,
            steady,
        }
    }
}

struct Fixture {
    _dir: tempfile::TempDir,
    log: PathBuf,
    clock: Arc<ByHand>,
    board: Arc<Board>,
}

impl Fixture {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let log = dir.path().join("ha.stdout.log");
        let clock = Arc::new(ByHand::default());
        let writer = EventWriter::new(File::create(&log).expect("writable"));
        let board = Board::new(writer, Arc::clone(&clock) as Arc<dyn Clock>);
        Self {
            _dir: dir,
            log,
            clock,
            board,
        }
    }

    fn running() -> Self {
        let fixture = Self::new();
        fixture.board.phase_started("essential").finish(Outcome::Ok);
        fixture.board.booting(60022);
        fixture.board.ready(Vec::new());
        fixture
    }

    fn events(&self) -> Vec<Event> {
        let text = std::fs::read_to_string(&self.log).expect("readable");
        text.lines()
            .map(|line| {
                Event::parse(line.as_bytes())
                    .expect(line)
                    .expect("not empty")
            })
            .collect()
    }

    fn last(&self) -> Status {
        self.events().pop().expect("an event").status
    }
}

fn forward() -> PortForwardEvent {
    PortForwardEvent {
        kind: PortForwardKind::Forwarding,
        protocol: "tcp".into(),
        guest_addr: "127.0.0.1:80".into(),
        host_addr: "127.0.0.1:8080".into(),
        error: String::new(),
    }
}

#[test]
fn a_whole_life_in_events() {
    let f = Fixture::new();
    let phase = f.board.phase_started("start the VM");
    f.clock.advance(400);
    phase.finish(Outcome::Ok);
    f.board.booting(60022);
    let phase = f.board.phase_started("essential");
    f.board.port_forward(forward());
    f.board.cloud_init(CloudInitProgress {
        active: true,
        ..Default::default()
    });
    f.clock.advance(1600);
    phase.finish(Outcome::Degraded(vec!["probe".into()]));
    f.board.ready(Vec::new());
    f.board.port_forward(forward());
    f.board.stopping();
    f.board.exiting(Vec::new());

    let lines: Vec<String> = std::fs::read_to_string(&f.log)
        .unwrap()
        .lines()
        .map(|line| {
            line.replace("2026-11-23T18:00:0", "")
                .replace("0000000+00:00", "")
        })
        .collect();
    let forward = r#""portForward":{"type":"forwarding","protocol":"tcp","guestAddr":"127.0.0.1:80","hostAddr":"127.0.0.1:8080"}"#;
    assert_eq!(
        lines,
        [
            r#"{"time":"0.00","status":{},"phase":{"name":"start the VM","outcome":"started"}}"#.to_owned(),
            r#"{"time":"0.40","status":{},"phase":{"name":"start the VM","outcome":"ok","elapsedMs":400}}"#.to_owned(),
            r#"{"time":"0.40","status":{"sshLocalPort":60022}}"#.to_owned(),
            r#"{"time":"0.40","status":{"sshLocalPort":60022},"phase":{"name":"essential","outcome":"started"}}"#.to_owned(),
            format!(r#"{{"time":"0.40","status":{{"sshLocalPort":60022,{forward}}}}}"#),
            r#"{"time":"0.40","status":{"sshLocalPort":60022,"cloudInitProgress":{"active":true}}}"#.to_owned(),
            r#"{"time":"2.00","status":{"sshLocalPort":60022},"phase":{"name":"essential","outcome":"degraded","elapsedMs":1600}}"#.to_owned(),
            r#"{"time":"2.00","status":{"running":true,"sshLocalPort":60022}}"#.to_owned(),
            format!(r#"{{"time":"2.00","status":{{"running":true,"sshLocalPort":60022,{forward}}}}}"#),
            r#"{"time":"2.00","status":{"exiting":true}}"#.to_owned(),
        ]
    );
}

#[test]
fn the_state_follows_the_phases() {
    let f = Fixture::new();
    let mut seen = f.board.subscribe();
    assert_eq!(*seen.borrow_and_update(), State::Stopped);
    let first = f.board.phase_started("essential");
    let second = f.board.phase_started("mounts");
    assert_eq!(
        *seen.borrow_and_update(),
        State::Starting {
            phase: "mounts".into()
        }
    );
    first.finish(Outcome::Ok);
    second.finish(Outcome::Ok);
    f.board.ready(Vec::new());
    assert_eq!(f.board.state(), State::Running);
    let _late = f.board.phase_started("remount");
    assert_eq!(
        f.board.state(),
        State::Running,
        "phases after the start change nothing"
    );
    assert!(seen.has_changed().unwrap());
}

#[test]
fn causes_come_and_go() {
    let f = Fixture::running();
    f.board.degrade("mount /a");
    f.board.degrade("mount /b");
    f.board.degrade("mount /b");
    let causes = vec!["mount /a".to_owned(), "mount /b".to_owned()];
    assert_eq!(
        f.board.state(),
        State::Degraded {
            causes: causes.clone()
        }
    );
    assert_eq!(
        f.last(),
        Status {
            running: true,
            degraded: true,
            errors: causes,
            ssh_local_port: 60022,
            ..Status::default()
        }
    );
    f.board.port_forward(forward());
    let last = f.last();
    assert!(
        last.degraded && last.errors.is_empty(),
        "causes are not repeated"
    );
    f.board.heal("never named");
    f.board.heal("mount /a");
    f.board.heal("mount /b");
    assert_eq!(f.board.state(), State::Running);
    assert_eq!(
        f.last(),
        Status {
            running: true,
            ssh_local_port: 60022,
            ..Status::default()
        }
    );
}

#[test]
fn causes_named_before_the_instance_is_ready_are_kept() {
    let f = Fixture::new();
    f.board.degrade("healed in time");
    f.board.degrade("sshfs is missing");
    f.board.heal("healed in time");
    assert_eq!(f.events().len(), 0);
    let _phase = f.board.phase_started("final");
    f.board
        .ready(vec!["probe 2".into(), "sshfs is missing".into()]);
    let causes = vec!["sshfs is missing".to_owned(), "probe 2".to_owned()];
    assert_eq!(f.board.state(), State::Degraded { causes });
}

#[test]
fn a_late_ready_is_refused() {
    let f = Fixture::new();
    f.board.phase_started("essential").finish(Outcome::Ok);
    f.board.stopping();
    let before = f.events().len();
    f.board.ready(Vec::new());
    f.board.ready(vec!["x".into()]);
    f.board.degrade("x");
    assert_eq!(f.board.state(), State::Stopping);
    assert_eq!(f.events().len(), before);
    assert_eq!(f.board.timeline().ready, None);
}

#[test]
fn on_the_way_down_nothing_claims_to_run() {
    let f = Fixture::running();
    f.board.stopping();
    f.board.port_forward(PortForwardEvent {
        kind: PortForwardKind::Stopping,
        ..forward()
    });
    assert!(!f.last().running);
    let _phase = f.board.phase_started("power down");
    assert_eq!(f.board.state(), State::Stopping);
}

#[test]
fn nothing_is_said_after_the_last_word() {
    let f = Fixture::running();
    let open = f.board.phase_started("remount");
    f.board.exiting(vec![
        "the VM ended by itself: killed by signal 9 (SIGKILL)".into(),
    ]);
    let count = f.events().len();
    f.board.exiting(Vec::new());
    f.board.booting(1);
    f.board.ready(Vec::new());
    f.board.degrade("x");
    f.board.port_forward(forward());
    f.board.cloud_init(CloudInitProgress::default());
    f.board.vsock(VsockEvent {
        kind: VsockKind::Skipped,
        host_addr: String::new(),
        vsock_port: 0,
        reason: String::new(),
    });
    f.board.phase_started("late").finish(Outcome::Ok);
    open.finish(Outcome::Ok);
    f.board.stopping();
    assert_eq!(f.events().len(), count);
    let errors = vec!["the VM ended by itself: killed by signal 9 (SIGKILL)".to_owned()];
    assert_eq!(
        f.last(),
        Status {
            exiting: true,
            errors: errors.clone(),
            ..Status::default()
        }
    );
    assert_eq!(
        f.board.state(),
        State::Failed {
            why: errors[0].clone()
        }
    );
}

#[test]
fn exiting_ends_every_life() {
    for (begin, errors, end) in [
        (false, Vec::new(), State::Stopped),
        (
            false,
            vec!["e".to_owned()],
            State::Failed { why: "e".into() },
        ),
        (true, Vec::new(), State::Stopped),
        (
            true,
            vec!["e".to_owned()],
            State::Failed { why: "e".into() },
        ),
    ] {
        let f = Fixture::new();
        if begin {
            f.board.phase_started("essential").finish(Outcome::Ok);
        }
        f.board.exiting(errors);
        assert_eq!(f.board.state(), end);
        assert!(f.last().exiting);
    }
}

#[test]
fn a_phase_that_is_dropped_was_interrupted() {
    let f = Fixture::new();
    drop(f.board.phase_started("essential"));
    let timeline = f.board.timeline();
    assert_eq!(
        timeline.phases[0].outcome,
        Some(Outcome::Failed("interrupted".into()))
    );
    let phase = f.events().pop().unwrap().phase.unwrap();
    assert_eq!(
        (phase.outcome, phase.elapsed_ms),
        (PhaseOutcome::Failed, Some(0))
    );
}

#[test]
fn the_timeline_has_everything_in_its_place() {
    let f = Fixture::new();
    f.clock.advance(100);
    let phase = f.board.phase_started("essential");
    f.clock.advance(900);
    f.board.phase_point("sshd", Duration::from_millis(900));
    f.board.phase_point("kernel", Duration::from_millis(300));
    phase.finish(Outcome::Ok);
    f.board.ready(Vec::new());
    let timeline = f.board.timeline();
    assert_eq!(timeline.began.to_string(), "2026-11-23T18:00:00Z");
    assert_eq!(timeline.ready, Some(Duration::from_secs(1)));
    assert_eq!(timeline.phases[0].start, Duration::from_millis(100));
    assert_eq!(timeline.phases[0].end, Some(Duration::from_secs(1)));
    let stages: Vec<_> = timeline
        .guest
        .iter()
        .map(|stage| stage.name.as_str())
        .collect();
    assert_eq!(stages, ["kernel", "sshd"]);
}

#[test]
fn an_adopted_vm_becomes_ready() {
    let f = Fixture::new();
    f.board.adopting();
    let phase = f.board.phase_started("reconnect");
    assert_eq!(f.board.state(), State::Adopting);
    phase.finish(Outcome::Ok);
    f.board.ready(Vec::new());
    assert_eq!(f.board.state(), State::Running);
}
