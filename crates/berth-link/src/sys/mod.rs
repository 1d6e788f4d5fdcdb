//! What differs between operating systems: the guest's end of the carrier.

#[cfg(not(target_os = "linux"))]
mod elsewhere;
#[cfg(target_os = "linux")]
mod linux;

#[cfg(not(target_os = "linux"))]
pub(crate) use elsewhere::{PortStream, VsockListener, ring_over_vsock};
#[cfg(target_os = "linux")]
pub(crate) use linux::{PortStream, VsockListener, ring_over_vsock};
