//! The address that a datagram was sent to, on Linux: control messages beside the datagram, ip(7) and ipv6(7).
#![allow(
    unsafe_code,
    reason = "no crate of ours reads or writes these control messages"
)]

use std::io;
use std::mem::{self, MaybeUninit};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::ptr;

use socket2::SockAddr;
use tokio::net::UdpSocket;

use crate::sys::Destination;

/// Room for one control message of either kind, aligned for its header.
#[derive(Debug, Default)]
#[repr(C)]
struct Control([u64; 8]);

/// Asks the kernel to tell where datagrams were sent to.
pub(crate) fn tell_destination(socket: &UdpSocket) -> io::Result<bool> {
    let (level, option) = match socket.local_addr()? {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_PKTINFO),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
    };
    let on: libc::c_int = 1;
    let length = socket_length(size_of_val(&on));
    // SAFETY: the pointer and the length are those of a number that outlives the call.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const on).cast(),
            length,
        )
    };
    if set < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(true)
}

/// Takes a datagram: its length, who sent it, and where to.
pub(crate) fn receive(
    socket: &UdpSocket,
    room: &mut [u8],
) -> io::Result<(usize, SocketAddr, Option<Destination>)> {
    let mut control = Control::default();
    let mut part = libc::iovec {
        iov_base: room.as_mut_ptr().cast(),
        iov_len: room.len(),
    };
    let mut message = empty_message();
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = size_of::<Control>() as _;
    let take = |name: *mut socket2::SockAddrStorage, length: *mut libc::socklen_t| {
        message.msg_name = name.cast();
        // SAFETY: the caller gives the length of the name that it gives.
        message.msg_namelen = unsafe { *length };
        // SAFETY: every pointer in the message is to memory of the length beside it, which outlives the call.
        let count = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, 0) };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        // SAFETY: as above; the kernel has filled as much of the name.
        unsafe { *length = message.msg_namelen };
        Ok(count)
    };
    // SAFETY: when the kernel takes a datagram it fills the name and its length.
    let (count, from) = unsafe { SockAddr::try_init(take) }?;
    let from = from
        .as_socket()
        .ok_or_else(|| io::Error::other("a datagram came without an address"))?;
    Ok((count, from, destination(&message)))
}

/// Sends a datagram from an address of this machine.
pub(crate) fn send(
    socket: &UdpSocket,
    datagram: &[u8],
    to: SocketAddr,
    from: Destination,
) -> io::Result<()> {
    let name = SockAddr::from(to);
    let mut control = Control::default();
    let mut part = libc::iovec {
        iov_base: datagram.as_ptr().cast_mut().cast(),
        iov_len: datagram.len(),
    };
    let mut message = empty_message();
    message.msg_name = name.as_ptr().cast_mut().cast();
    message.msg_namelen = name.len();
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = size_of::<Control>() as _;
    match from.address {
        IpAddr::V4(address) => {
            let info = libc::in_pktinfo {
                ipi_ifindex: 0,
                ipi_spec_dst: libc::in_addr {
                    s_addr: u32::from_ne_bytes(address.octets()),
                },
                ipi_addr: libc::in_addr { s_addr: 0 },
            };
            put(&mut message, libc::IPPROTO_IP, libc::IP_PKTINFO, info);
        }
        IpAddr::V6(address) => {
            let info = libc::in6_pktinfo {
                ipi6_addr: libc::in6_addr {
                    s6_addr: address.octets(),
                },
                ipi6_ifindex: from.interface as _,
            };
            put(&mut message, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, info);
        }
    }
    // SAFETY: every pointer in the message is to memory of the length beside it, which outlives the call and is only read.
    let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, 0) };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

fn empty_message() -> libc::msghdr {
    // SAFETY: numbers and pointers, for which zero means that there is nothing.
    unsafe { mem::zeroed() }
}

/// Puts the only control message into `message`, which has a whole [`Control`] for it.
fn put<T: Copy>(message: &mut libc::msghdr, level: libc::c_int, kind: libc::c_int, content: T) {
    const { assert!(size_of::<T>() <= size_of::<libc::in6_pktinfo>()) };
    let length = u32::try_from(size_of::<T>()).unwrap_or(u32::MAX);
    // SAFETY: only computes.
    message.msg_controllen = unsafe { libc::CMSG_SPACE(length) } as _;
    // SAFETY: the message has room for a header, as the length above says.
    let header = unsafe { libc::CMSG_FIRSTHDR(&raw const *message) };
    // SAFETY: only computes.
    let whole = unsafe { libc::CMSG_LEN(length) };
    // SAFETY: points into the control messages, aligned, all of which was zeroed.
    let head = unsafe { &mut *header };
    head.cmsg_level = level;
    head.cmsg_type = kind;
    head.cmsg_len = whole as _;
    // SAFETY: computes where the content begins, within the room that the length above has for it.
    let place = unsafe { libc::CMSG_DATA(header) };
    // SAFETY: a Control is longer than header and content together.
    unsafe { ptr::write_unaligned(place.cast::<T>(), content) };
}

/// Where a datagram that was taken had been sent to; `None` if answers cannot come from there, as from a multicast address.
fn destination(message: &libc::msghdr) -> Option<Destination> {
    // SAFETY: the kernel has filled the control messages and told their length.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(&raw const *message) };
    // SAFETY: null, or a whole header within the control messages.
    while let Some(head) = unsafe { header.as_ref() } {
        match (head.cmsg_level, head.cmsg_type) {
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                let info = content::<libc::in_pktinfo>(header);
                let address = Ipv4Addr::from(info.ipi_spec_dst.s_addr.to_ne_bytes());
                return Some(Destination {
                    address: address.into(),
                    interface: 0,
                });
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                let info = content::<libc::in6_pktinfo>(header);
                let address = Ipv6Addr::from(info.ipi6_addr.s6_addr);
                let needs_interface = address.is_unicast_link_local();
                return (!address.is_multicast()).then(|| Destination {
                    address: address.into(),
                    interface: if needs_interface {
                        info.ipi6_ifindex as _
                    } else {
                        0
                    },
                });
            }
            _ => {}
        }
        // SAFETY: both belong together, and the header is a whole one.
        header = unsafe { libc::CMSG_NXTHDR(&raw const *message, header) };
    }
    None
}

/// The content of a control message that the kernel has made and that has this type.
fn content<T: Copy>(header: *const libc::cmsghdr) -> T {
    // SAFETY: computes where the content begins.
    let place = unsafe { libc::CMSG_DATA(header) };
    let mut content = MaybeUninit::<T>::uninit();
    // SAFETY: the kernel puts whole contents of the type that level and kind stand for; the types are plain data.
    unsafe {
        ptr::copy_nonoverlapping(place, content.as_mut_ptr().cast(), size_of::<T>());
    }
    // SAFETY: all of it was just written.
    unsafe { content.assume_init() }
}

fn socket_length(length: usize) -> libc::socklen_t {
    libc::socklen_t::try_from(length).unwrap_or(libc::socklen_t::MAX)
}
