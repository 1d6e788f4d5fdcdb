//! An address family that rustix has no type for.
#![allow(unsafe_code, reason = "the only place of this crate")]

use rustix::net::AddressFamily;
use rustix::net::addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque};

/// An address of `AF_VSOCK` (`struct sockaddr_vm`, vsock(7)).
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct VsockAddress {
    family: u16,
    reserved: u16,
    port: u32,
    cid: u32,
    flags: u8,
    zero: [u8; 3],
}

impl VsockAddress {
    /// Any context id (`VMADDR_CID_ANY`).
    pub(crate) const ANY: u32 = u32::MAX;

    /// A port of a machine.
    pub(crate) fn new(cid: u32, port: u32) -> Self {
        Self {
            family: AddressFamily::VSOCK.as_raw(),
            reserved: 0,
            port,
            cid,
            flags: 0,
            zero: [0; 3],
        }
    }
}

// SAFETY: the pointer is to a whole, initialised value with the layout of sockaddr_vm and its own length, alive during the
// call.
unsafe impl SocketAddrArg for VsockAddress {
    unsafe fn with_sockaddr<R>(
        &self,
        f: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R,
    ) -> R {
        const LENGTH: SocketAddrLen = 16;
        const { assert!(size_of::<Self>() == LENGTH as usize) };
        f(std::ptr::from_ref(self).cast(), LENGTH)
    }
}
