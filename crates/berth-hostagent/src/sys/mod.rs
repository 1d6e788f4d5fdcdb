//! What differs by operating system.

#[cfg(target_os = "linux")]
mod text;
#[cfg(target_os = "linux")]
pub(crate) use text::let_go_of_code;

/// Elsewhere nothing is let go of.
#[cfg(not(target_os = "linux"))]
#[allow(clippy::unnecessary_wraps, reason = "it fails on Linux")]
pub(crate) fn let_go_of_code() -> std::io::Result<()> {
    Ok(())
}

#[cfg(unix)]
mod unix;
#[cfg(unix)]
pub(crate) use unix::{LocalListener, Signals, connect_local};

#[cfg(windows)]
mod windows;
#[cfg(windows)]
pub(crate) use windows::{LocalListener, Signals, connect_local};

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
pub(crate) use linux::ClockWatch;

#[cfg(not(target_os = "linux"))]
mod elsewhere;
#[cfg(not(target_os = "linux"))]
pub(crate) use elsewhere::ClockWatch;
