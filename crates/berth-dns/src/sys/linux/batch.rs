//! Many datagrams with one call.
#![allow(
    unsafe_code,
    reason = "recvmmsg(2) and sendmmsg(2) have no safe wrapper"
)]

use std::io;
use std::mem;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::AsRawFd as _;
use std::ptr;

use tokio::net::UdpSocket;

use super::super::{BATCH, MAX_QUERY};

/// Datagrams that came, and answers to them that wait to be sent. The socket is one of IPv4.
pub(crate) struct Batch {
    queries: Box<[[u8; MAX_QUERY]]>,
    lengths: [usize; BATCH],
    from: [libc::sockaddr_in; BATCH],
    /// The answers, one after another.
    replies: Vec<u8>,
    /// For each answer, where it ends and whom it is for.
    ends: Vec<(usize, libc::sockaddr_in)>,
}

const NOBODY: libc::sockaddr_in = libc::sockaddr_in {
    sin_family: 0,
    sin_port: 0,
    sin_addr: libc::in_addr { s_addr: 0 },
    sin_zero: [0; 8],
};

impl Batch {
    pub(crate) fn new() -> Self {
        Self {
            queries: vec![[0; MAX_QUERY]; BATCH].into_boxed_slice(),
            lengths: [0; BATCH],
            from: [NOBODY; BATCH],
            replies: Vec::new(),
            ends: Vec::new(),
        }
    }

    /// Takes what has come; at least one datagram, or `WouldBlock`.
    pub(crate) fn receive(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        let mut parts: [libc::iovec; BATCH] = std::array::from_fn(|at| libc::iovec {
            iov_base: self.queries[at].as_mut_ptr().cast(),
            iov_len: MAX_QUERY,
        });
        let mut messages: [libc::mmsghdr; BATCH] =
            std::array::from_fn(|at| header(&mut self.from[at], &mut parts[at]));
        let count = u32::try_from(BATCH).unwrap_or_default();
        let (fd, flags) = (socket.as_raw_fd(), libc::MSG_DONTWAIT);
        // SAFETY: each header points to a buffer of `queries`, an address of `from` and a part of `parts`, which all outlive the
        // call and are borrowed by nobody else; the lengths are theirs.
        let received =
            unsafe { libc::recvmmsg(fd, messages.as_mut_ptr(), count, flags, ptr::null_mut()) };
        let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        for (length, message) in self.lengths.iter_mut().zip(&messages[..received]) {
            let is_cut = message.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
            // What is longer than any query is none.
            *length = if is_cut { 0 } else { message.msg_len as usize };
        }
        self.replies.clear();
        self.ends.clear();
        Ok(received)
    }

    /// A datagram that came, and the buffer to append its answer to. [`Batch::reply_to`] follows if there is one.
    pub(crate) fn query(&mut self, at: usize) -> (&[u8], &mut Vec<u8>) {
        (&self.queries[at][..self.lengths[at]], &mut self.replies)
    }

    /// Who sent it.
    pub(crate) fn from(&self, at: usize) -> SocketAddr {
        let from = &self.from[at];
        let address = Ipv4Addr::from(from.sin_addr.s_addr.to_ne_bytes());
        SocketAddrV4::new(address, u16::from_be(from.sin_port)).into()
    }

    /// What was appended since the last answer is the answer to this datagram.
    pub(crate) fn reply_to(&mut self, at: usize) {
        self.ends.push((self.replies.len(), self.from[at]));
    }

    /// Sends answers, beginning with number `first`; returns how many were sent, at least one, or `WouldBlock`.
    pub(crate) fn send(&mut self, socket: &UdpSocket, first: usize) -> io::Result<usize> {
        let mut parts: [libc::iovec; BATCH] = std::array::from_fn(|_| libc::iovec {
            iov_base: ptr::null_mut(),
            iov_len: 0,
        });
        let mut start = first.checked_sub(1).map_or(0, |before| self.ends[before].0);
        let waiting = &mut self.ends[first..];
        let count = waiting.len().min(BATCH);
        for ((end, _), part) in waiting.iter().zip(&mut parts) {
            let reply = &mut self.replies[start..*end];
            part.iov_len = reply.len();
            part.iov_base = reply.as_mut_ptr().cast();
            start = *end;
        }
        let mut messages: [libc::mmsghdr; BATCH] = std::array::from_fn(|at| {
            let to = waiting.get_mut(at).map(|(_, to)| to);
            header(to.unwrap_or(&mut { NOBODY }), &mut parts[at])
        });
        let length = u32::try_from(count).unwrap_or_default();
        let (fd, flags) = (socket.as_raw_fd(), libc::MSG_DONTWAIT);
        // SAFETY: the first `count` headers point to addresses of `ends`, to parts of `parts` and through them into `replies`,
        // which all outlive the call; those behind are not looked at.
        let sent = unsafe { libc::sendmmsg(fd, messages.as_mut_ptr(), length, flags) };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }

    /// How many answers wait.
    pub(crate) fn replies(&self) -> usize {
        self.ends.len()
    }
}

fn header(address: &mut libc::sockaddr_in, part: &mut libc::iovec) -> libc::mmsghdr {
    // SAFETY: the structure consists of integers and pointers, for which zero is a value.
    let mut message: libc::mmsghdr = unsafe { mem::zeroed() };
    let length = u32::try_from(size_of::<libc::sockaddr_in>()).unwrap_or_default();
    message.msg_hdr.msg_name = ptr::from_mut(address).cast();
    message.msg_hdr.msg_namelen = length;
    message.msg_hdr.msg_iov = part;
    message.msg_hdr.msg_iovlen = 1;
    message
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch")
            .field("replies", &self.ends.len())
            .finish_non_exhaustive()
    }
}
