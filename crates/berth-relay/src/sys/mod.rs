//! What differs between operating systems: the address that a datagram was sent to, moving bytes between two sockets, and what
//! allocators keep.

#[cfg(not(target_os = "linux"))]
mod elsewhere;
#[cfg(target_os = "linux")]
mod linux;

#[cfg(not(target_os = "linux"))]
pub use elsewhere::Pipe;
#[cfg(not(target_os = "linux"))]
pub(crate) use elsewhere::{
    close_spare, give_memory_back, move_between, receive, send, tell_destination,
};
#[cfg(target_os = "linux")]
pub use linux::{Pipe, send_unpaced};
#[cfg(target_os = "linux")]
pub(crate) use linux::{
    close_spare, give_memory_back, move_between, receive, send, tell_destination,
};

use std::net::IpAddr;

/// The address of this machine that a client sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Destination {
    pub(crate) address: IpAddr,
    /// Index of the interface, for addresses that mean nothing without it; else 0.
    pub(crate) interface: u32,
}
