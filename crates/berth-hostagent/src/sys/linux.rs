//! Linux: hearing of jumps of the clock.
#![allow(unsafe_code, reason = "the runtime asks for a promise")]

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Wakes when the host's clock jumps: after a sleep, or when somebody sets it.
///
/// A timer that never comes, and that the kernel cancels when the clock is set (`timerfd_settime(2)`, `TFD_TIMER_CANCEL_ON_SET`).
#[derive(Debug)]
pub(crate) struct ClockWatch(Option<AsyncFd<OwnedFd>>);

impl ClockWatch {
    pub(crate) fn new() -> Self {
        Self(armed().inspect_err(|why| {
            tracing::warn!(error = %why, "the guest's clock is not set at once when the host has slept");
        }).ok())
    }

    /// Waits for a jump.
    pub(crate) async fn changed(&mut self) {
        let Some(timer) = &self.0 else {
            return std::future::pending().await;
        };
        loop {
            let Ok(mut ready) = timer.readable().await else {
                return std::future::pending().await;
            };
            let read = ready.try_io(|timer| {
                let mut count = [0; 8];
                rustix::io::read(timer, &mut count).map_err(io::Error::from)
            });
            match read {
                // It came, in some centuries, or was cancelled.
                Ok(Ok(_)) => {}
                Ok(Err(why)) if Errno::from_io_error(&why) == Some(Errno::CANCELED) => {}
                Ok(Err(_)) => return std::future::pending().await,
                Err(_) => continue,
            }
            // A cancelled timer has to be set again to be cancelled again.
            let _ = arm(timer.get_ref());
            return;
        }
    }
}

fn armed() -> io::Result<AsyncFd<OwnedFd>> {
    let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
    let timer = timerfd_create(TimerfdClockId::Realtime, flags)?;
    arm(&timer)?;
    // SAFETY: the descriptor is moved into the AsyncFd, which deregisters it before it closes it; an OwnedFd always gives the
    // same descriptor.
    Ok(unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE) }?)
}

fn arm(timer: &OwnedFd) -> io::Result<()> {
    let never = Itimerspec {
        it_interval: Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        },
        it_value: Timespec {
            tv_sec: i64::from(u32::MAX),
            tv_nsec: 0,
        },
    };
    let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
    timerfd_settime(timer, flags, &never)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_clock_that_does_not_jump_wakes_nobody() {
        let mut watch = ClockWatch::new();
        assert!(watch.0.is_some(), "the kernel knows such timers");
        let waited = std::time::Duration::from_millis(20);
        assert!(tokio::time::timeout(waited, watch.changed()).await.is_err());
    }
}
