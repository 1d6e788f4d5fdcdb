//! System calls that neither std nor rustix has a safe form of.
#![allow(unsafe_code, reason = "the only place of this crate")]

pub(crate) mod bpf;

use std::io;
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::mount::MountFlags;
use rustix::process::Signal;
use rustix::thread::UnshareFlags;

/// Gives the calling thread namespaces of its own.
pub(crate) fn unshare(flags: UnshareFlags) -> io::Result<()> {
    assert!(
        !flags.contains(UnshareFlags::FILES),
        "descriptors are shared between our threads"
    );
    // SAFETY: the only hazard named is FILES, which is refused above.
    unsafe { rustix::thread::unshare_unsafe(flags)? };
    Ok(())
}

/// Has `command` run as the first process of a new pid namespace that dies with us, with a `/proc` of its own.
///
/// The caller has unshared its pid namespace for children, and its mount namespace.
pub(crate) fn first_process(command: &mut Command) {
    let prepare = || {
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        rustix::mount::mount(c"proc", c"/proc", c"proc", MountFlags::empty(), None)?;
        Ok(())
    };
    // SAFETY: between fork and exec the closure makes two system calls on constant arguments: no allocation, no lock.
    unsafe { command.pre_exec(prepare) };
}

/// What systemd takes for the power button: SIGRTMIN+4.
pub(crate) fn power_off_request() -> Signal {
    // SAFETY: the number is a signal's, and not one of those below SIGRTMIN that the C library keeps for itself.
    unsafe { Signal::from_raw_unchecked(libc::SIGRTMIN() + 4) }
}

/// A descriptor that becomes readable when one of `signals` is sent to this process. Blocks them for the calling thread,
/// and so for threads started later.
pub(crate) fn signal_descriptor(signals: &[Signal]) -> io::Result<OwnedFd> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set that it is given.
    unsafe { libc::sigemptyset(set.as_mut_ptr()) };
    for signal in signals {
        // SAFETY: the set was initialised above, and the number is a signal's.
        unsafe { libc::sigaddset(set.as_mut_ptr(), signal.as_raw()) };
    }
    // SAFETY: the set is initialised; no old mask is asked for.
    let blocked =
        unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut()) };
    if blocked != 0 {
        return Err(io::Error::from_raw_os_error(blocked));
    }
    // SAFETY: -1 asks for a new descriptor; the set is initialised.
    let fd = unsafe { libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    owned(fd)
}

/// Asks that [`receive_datagram`] learns where a datagram was sent to.
pub(crate) fn report_destinations(socket: BorrowedFd<'_>) -> io::Result<()> {
    let on: libc::c_int = 1;
    // SAFETY: value and length describe one int that lives across the call.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_IP,
            libc::IP_RECVORIGDSTADDR,
            (&raw const on).cast(),
            length_of::<libc::c_int>(),
        )
    };
    check(done)
}

/// One datagram: its bytes in `buffer`, its sender and its destination.
pub(crate) fn receive_datagram(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
) -> io::Result<(usize, SocketAddrV4, SocketAddrV4)> {
    let mut sender = zeroed_address();
    let mut control = [0u64; 16];
    let mut part = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    // SAFETY: all-zero bytes are a valid msghdr.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_name = (&raw mut sender).cast();
    message.msg_namelen = length_of::<libc::sockaddr_in>();
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: every pointer in the header names a live buffer of the length beside it.
    let length = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    // SAFETY: the kernel filled in the header; its control buffer is alive.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    while !header.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR return null or a whole header inside the buffer.
        let libc::cmsghdr {
            cmsg_level,
            cmsg_type,
            ..
        } = unsafe { header.read_unaligned() };
        if (cmsg_level, cmsg_type) == (libc::SOL_IP, libc::IP_ORIGDSTADDR) {
            let mut to = zeroed_address();
            // SAFETY: the data lies behind the header, inside the same buffer.
            let data = unsafe { libc::CMSG_DATA(header) };
            // SAFETY: this kind of message carries one sockaddr_in, which any alignment may be copied to.
            unsafe { data.copy_to_nonoverlapping((&raw mut to).cast(), size_of_val(&to)) };
            return Ok((length, address(&sender), address(&to)));
        }
        // SAFETY: as for CMSG_FIRSTHDR; `header` came from it or from this call.
        header = unsafe { libc::CMSG_NXTHDR(&raw const message, header) };
    }
    Err(io::Error::other("a datagram without its destination"))
}

fn zeroed_address() -> libc::sockaddr_in {
    // SAFETY: all-zero bytes are a valid sockaddr_in.
    unsafe { std::mem::zeroed() }
}

fn address(raw: &libc::sockaddr_in) -> SocketAddrV4 {
    let ip = Ipv4Addr::from(u32::from_be(raw.sin_addr.s_addr));
    SocketAddrV4::new(ip, u16::from_be(raw.sin_port))
}

/// Takes over a descriptor that a system call has just returned.
fn owned(fd: libc::c_int) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made it, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn length_of<T>() -> libc::socklen_t {
    libc::socklen_t::try_from(size_of::<T>()).expect("a few bytes")
}
