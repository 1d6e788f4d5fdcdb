//! What differs between operating systems: the guest's end of the carrier.

#[cfg(not(target_os = "linux"))]
mod elsewhere;
#[cfg(target_os = "linux")]
mod linux;

#[cfg(not(target_os = "linux"))]
pub(crate) use elsewhere::PortStream;
#[cfg(target_os = "linux")]
pub(crate) use linux::PortStream;
