//! What depends on the operating system or the CPU: sparse files, clones, syncing, locks on directories, the TLS provider.

pub(crate) mod tls;

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "linux")]
pub(crate) use linux::*;

#[cfg(not(target_os = "linux"))]
mod other;
#[cfg(not(target_os = "linux"))]
pub(crate) use other::*;
