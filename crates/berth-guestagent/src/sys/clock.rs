//! The kernel's clock (`clock_adjtime(2)`).

use std::io;

/// Nanoseconds of a second, and of a microsecond.
const SECOND: i64 = 1_000_000_000;
const MICROSECOND: i64 = 1_000;

/// Whether an NTP daemon keeps it right. Where the kernel does not say, nobody does.
pub(crate) fn is_kept() -> bool {
    // SAFETY: a struct of numbers, for which zeros are values; modes 0 only reads.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    adjust(&mut state).is_ok() && state.status & libc::STA_UNSYNC == 0
}

/// Adds to the clock at once.
pub(crate) fn step(add_ns: i64) -> io::Result<()> {
    // SAFETY: a struct of numbers, for which zeros are values.
    let mut change: libc::timex = unsafe { std::mem::zeroed() };
    change.modes = libc::ADJ_SETOFFSET | libc::ADJ_NANO;
    change.time.tv_sec = add_ns.div_euclid(SECOND);
    // With ADJ_NANO, nanoseconds; never negative.
    change.time.tv_usec = add_ns.rem_euclid(SECOND);
    adjust(&mut change)
}

/// Adds to the clock bit by bit: half a millisecond a second.
pub(crate) fn slew(add_ns: i64) -> io::Result<()> {
    // SAFETY: a struct of numbers, for which zeros are values.
    let mut change: libc::timex = unsafe { std::mem::zeroed() };
    change.modes = libc::ADJ_OFFSET_SINGLESHOT;
    change.offset = add_ns / MICROSECOND;
    adjust(&mut change)
}

fn adjust(change: &mut libc::timex) -> io::Result<()> {
    // SAFETY: the pointer is to a whole struct that nobody else uses.
    let state = unsafe { libc::clock_adjtime(libc::CLOCK_REALTIME, change) };
    if state < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
