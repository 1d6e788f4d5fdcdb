//! What depends on the operating system.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod other;

#[cfg(target_os = "linux")]
mod tree;

#[cfg(target_os = "linux")]
pub(crate) use tree::{TreeWatch, facts};

#[cfg(target_os = "linux")]
pub(crate) use linux::PathWatch;
#[cfg(not(target_os = "linux"))]
pub(crate) use other::{PathWatch, TreeWatch, facts};
