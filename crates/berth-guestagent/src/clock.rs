//! The clock that reports carry: time since the kernel started, which setting the wall clock does not change.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Time since the kernel started, sleep included (`CLOCK_BOOTTIME`).
pub(crate) fn uptime() -> Duration {
    let now = clock_gettime(ClockId::Boottime);
    Duration::new(
        u64::try_from(now.tv_sec).unwrap_or_default(),
        u32::try_from(now.tv_nsec).unwrap_or_default(),
    )
}
