//! What differs by operating system, behind one set of names:
//!
//! - `Asking`: one question to a server;
//! - `Batch`: many datagrams with one call, where there is one for it;
//! - `HostChanges`: says when the host's configuration of names, or its network, may have changed;
//! - `lookup(name)`: the system's own resolver;
//! - `interface_index(name)`: the number of a network interface.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
pub(crate) use linux::{asking::Asking, batch::Batch, changes::HostChanges};

#[cfg(not(target_os = "linux"))]
mod one_by_one;
#[cfg(not(target_os = "linux"))]
pub(crate) use one_by_one::{Asking, Batch};

#[cfg(target_os = "macos")]
mod macos;
#[cfg(target_os = "macos")]
pub(crate) use macos::HostChanges;

#[cfg(unix)]
mod unix;
#[cfg(unix)]
pub(crate) use unix::{interface_index, lookup};

#[cfg(windows)]
mod windows;
#[cfg(windows)]
pub(crate) use windows::{changes::HostChanges, interface_index, lookup};

/// Datagrams that are taken and answered in one turn: enough to spread the cost of the calls, few enough to let others in.
pub(crate) const BATCH: usize = 32;

/// Longest query that is read over UDP. No client has reason to send a longer one.
pub(crate) const MAX_QUERY: usize = 1024;
