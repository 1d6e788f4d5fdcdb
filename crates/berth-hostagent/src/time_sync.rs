//! Keeping the guest's clock right: by the host's, when the guest connects, after either has slept, and now and then.
//!
//! An NTP daemon in the guest that is in sync has the last word, unless the machine has slept: then the kernel takes a clock for
//! kept that has stood still.

use std::time::{Duration, Instant, SystemTime};

use berth_driver::driver::VmEvent;
use berth_link::flow::FlowHeader;
use berth_link::host::LinkHandle;
use berth_link::time::{Ask, HostEnd, TalkError, Told};
use tokio::sync::{broadcast, watch};
use tokio::time::timeout;

use crate::agent::Tasks;
use crate::guest::GuestLink;
use crate::sys::ClockWatch;

/// How often drift is looked for.
const LOOK: Duration = Duration::from_secs(300);
/// Questions of one look; the one that was answered fastest counts.
const QUESTIONS: usize = 5;
/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(3);

/// Less than this is never changed: what a few context switches cost.
const TOLERANCE: Duration = Duration::from_millis(5);
/// From here on the clock is stepped; slewing half a second takes a quarter of an hour.
const STEP: Duration = Duration::from_millis(500);
/// After a sleep, a clock that is off by so much is not believed to be kept.
const SLEPT: Duration = Duration::from_secs(1);

/// Starts the task.
pub(crate) fn start(link: &GuestLink, vm: broadcast::Receiver<VmEvent>, tasks: &Tasks) {
    let keeper = Keeper {
        handle: link.handle.clone(),
        sessions: link.sessions(tasks),
    };
    let cancel = tasks.cancel.clone();
    tasks.tracker.spawn(async move {
        let keeping = Box::pin(keeper.run(vm, ClockWatch::new()));
        cancel.run_until_cancelled(keeping).await;
    });
}

struct Keeper {
    handle: LinkHandle,
    sessions: watch::Receiver<Option<u64>>,
}

impl Keeper {
    async fn run(mut self, mut vm: broadcast::Receiver<VmEvent>, mut host: ClockWatch) {
        let mut slept = false;
        loop {
            if self.sessions.wait_for(Option::is_some).await.is_err() {
                return;
            }
            self.sessions.mark_unchanged();
            match self.sync(slept).await {
                Ok(()) => slept = false,
                Err(why) => {
                    tracing::debug!(
                        error = crate::error::chain(&why),
                        "the clocks were not compared"
                    );
                }
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                changed = self.sessions.changed() => if changed.is_err() { return },
                () = host.changed() => slept = true,
                () = resumed(&mut vm) => slept = true,
            }
        }
    }

    /// Compares the clocks, and has the guest change its own if need be.
    async fn sync(&self, slept: bool) -> Result<(), TalkError> {
        let stream = self.handle.open_stream(&FlowHeader::time());
        let stream = stream.map_err(|why| TalkError::Io(std::io::Error::other(why)))?;
        let mut talk = HostEnd::new(stream);
        let measured = measure(&mut talk).await?;
        let Some(step) = decide(measured, slept) else {
            return Ok(());
        };
        let add_ns = measured.behind;
        match within(talk.ask(Ask::Adjust { add_ns, step })).await? {
            Told::Adjusted => {
                let by_ms = add_ns / 1_000_000;
                tracing::info!(by_ms, step, "the guest's clock was adjusted");
            }
            Told::Refused(why) => tracing::warn!(why, "the guest's clock is off, and stays so"),
            Told::Clock(_) => tracing::debug!("the guest answers another question"),
        }
        Ok(())
    }
}

/// Waits until a VM that was paused goes on.
async fn resumed(vm: &mut broadcast::Receiver<VmEvent>) {
    loop {
        match vm.recv().await {
            Ok(VmEvent::Paused(false)) => return,
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}

/// What was found out about the guest's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Measured {
    /// Nanoseconds that it is behind the host's; negative: ahead.
    behind: i64,
    /// How long the answer took: the error is half of it at most.
    round_trip: Duration,
    /// Somebody in the guest keeps it.
    kept: bool,
}

async fn measure(talk: &mut HostEnd) -> Result<Measured, TalkError> {
    let mut best: Option<Measured> = None;
    for _ in 0..QUESTIONS {
        let (wall, begin) = (SystemTime::now(), Instant::now());
        let Told::Clock(reading) = within(talk.ask(Ask::Read)).await? else {
            continue;
        };
        let round_trip = begin.elapsed();
        let found = Measured {
            behind: between(reading.time, wall + round_trip / 2),
            round_trip,
            kept: reading.kept,
        };
        if best.is_none_or(|best| found.round_trip < best.round_trip) {
            best = Some(found);
        }
    }
    best.ok_or(TalkError::Ended)
}

async fn within(answer: impl Future<Output = Result<Told, TalkError>>) -> Result<Told, TalkError> {
    timeout(ANSWER, answer)
        .await
        .unwrap_or_else(|_| Err(TalkError::Io(std::io::ErrorKind::TimedOut.into())))
}

/// Nanoseconds from one time to another.
fn between(from: SystemTime, to: SystemTime) -> i64 {
    let nanos = |gap: Duration| i64::try_from(gap.as_nanos()).unwrap_or(i64::MAX);
    match to.duration_since(from) {
        Ok(gap) => nanos(gap),
        Err(other_way) => -nanos(other_way.duration()),
    }
}

/// Whether the guest's clock is to be changed, and if so, at once.
fn decide(measured: Measured, slept: bool) -> Option<bool> {
    let off = Duration::from_nanos(measured.behind.unsigned_abs());
    if off <= TOLERANCE.max(measured.round_trip) {
        return None;
    }
    if measured.kept && !(slept && off >= SLEPT) {
        return None;
    }
    Some(off >= STEP)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: i64 = 1_000_000;

    fn measured(behind_ms: i64, round_trip_ms: u64, kept: bool) -> Measured {
        Measured {
            behind: behind_ms * MS,
            round_trip: Duration::from_millis(round_trip_ms),
            kept,
        }
    }

    #[test]
    fn small_is_slewed_large_is_stepped_and_noise_is_left_alone() {
        assert_eq!(decide(measured(4, 0, false), false), None);
        assert_eq!(
            decide(measured(-40, 60, false), false),
            None,
            "within the error"
        );
        assert_eq!(decide(measured(40, 1, false), false), Some(false));
        assert_eq!(decide(measured(-40, 1, false), false), Some(false));
        assert_eq!(decide(measured(-3_600_000, 1, false), false), Some(true));
    }

    #[test]
    fn a_clock_that_is_kept_is_changed_only_after_a_sleep() {
        assert_eq!(decide(measured(3_600_000, 1, true), false), None);
        assert_eq!(decide(measured(400, 1, true), true), None);
        assert_eq!(decide(measured(3_600_000, 1, true), true), Some(true));
    }

    #[test]
    fn times_are_subtracted_both_ways() {
        let early = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
        let late = early + Duration::from_millis(3);
        assert_eq!(between(early, late), 3 * MS);
        assert_eq!(between(late, early), -3 * MS);
    }
}
