//! The guest's network, from the kernel: its interfaces (rtnetlink(7)), its sockets (`sock_diag(7)`), its packet filter (`nf_tables`).
//!
//! Interfaces not from `/sys/class/net`: that shows another network namespace than ours where the guest is a container. Sockets not
//! from `/proc/net/tcp`: to read it the kernel goes through its whole table of connections, which is sized by the memory.

mod interfaces;
mod nftables;
mod sockets;

use std::io;
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::net::{bind, recv, send, socket_with};
use tokio::io::unix::AsyncFd;

pub(crate) use interfaces::{Changes, Interface, interfaces};
pub(crate) use nftables::{Deleted, Deletions, Redirection, RedirectionTable};
pub(crate) use sockets::{BoundSocket, Destroyed, Question, SocketDiag, is_tcp_listening};

use crate::sys::when_readable;

/// `NETLINK_SOCK_DIAG`.
const SOCK_DIAG: Protocol = Protocol::from_raw(NonZeroU32::new(4).unwrap());

/// The kernel answers a dump in messages of at most this size.
const BUFFER: usize = 32 * 1024;

/// How often a dump is begun anew when what it tells changed meanwhile.
const ATTEMPTS: u32 = 5;

/// Message types and flags of `linux/netlink.h`, and address families.
mod number {
    pub(super) const NLMSG_ERROR: u16 = 2;
    pub(super) const NLMSG_DONE: u16 = 3;
    pub(super) const NLM_F_DUMP_INTR: u16 = 0x10;
    pub(super) const NLM_F_REQUEST_DUMP: u16 = 0x301;
    pub(super) const AF_INET: u8 = 2;
    pub(super) const AF_INET6: u8 = 10;
}

/// Length of a message's header: length, type, flags, sequence number, port.
const HEADER: usize = 16;

/// Opens a socket of a netlink protocol; without one it is the routing protocol, whose number is 0.
fn socket(protocol: Option<Protocol>, flags: SocketFlags, groups: u32) -> io::Result<OwnedFd> {
    let flags = flags | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, protocol)?;
    bind(&socket, &SocketAddrNetlink::new(0, groups))?;
    Ok(socket)
}

/// An answer on its way: all objects of a kind.
struct Dump {
    socket: OwnedFd,
    buffer: Vec<u8>,
    is_consistent: bool,
}

/// How far a dump is.
#[derive(Debug, PartialEq, Eq)]
enum Progress {
    /// There is more.
    Partial,
    /// That was all.
    Whole,
    /// That was all, but what it tells changed meanwhile: some may be missing.
    Inconsistent,
}

impl Dump {
    /// Opens a socket of a netlink protocol, without one the routing protocol's.
    fn new(protocol: Option<Protocol>) -> io::Result<Self> {
        Ok(Self {
            socket: socket(protocol, SocketFlags::empty(), 0)?,
            buffer: vec![0; BUFFER],
            is_consistent: true,
        })
    }

    /// Asks, when the answer before has come to its end.
    fn ask(&mut self, request: &[u8]) -> io::Result<()> {
        self.is_consistent = true;
        send(&self.socket, request, SendFlags::empty())?;
        Ok(())
    }

    /// Takes the next messages. The kernel puts them together when they are asked for: there is nothing to wait for.
    fn next(&mut self, each: impl FnMut(Message<'_>)) -> io::Result<Progress> {
        let (length, _) = recv(&self.socket, &mut self.buffer[..], RecvFlags::DONTWAIT)?;
        take(
            Messages(&self.buffer[..length]),
            &mut self.is_consistent,
            each,
        )
    }
}

fn take(
    messages: Messages<'_>,
    is_consistent: &mut bool,
    mut each: impl FnMut(Message<'_>),
) -> io::Result<Progress> {
    for message in messages {
        *is_consistent &= message.flags & number::NLM_F_DUMP_INTR == 0;
        match message.kind {
            number::NLMSG_DONE | number::NLMSG_ERROR => {
                verdict(message.payload)?;
                return Ok(if *is_consistent {
                    Progress::Whole
                } else {
                    Progress::Inconsistent
                });
            }
            _ => each(message),
        }
    }
    Ok(Progress::Partial)
}

/// Asks for all objects of a kind; `begin` forgets what was collected so far.
fn dump<T>(
    protocol: Option<Protocol>,
    request: &[u8],
    begin: impl Fn() -> T,
    mut each: impl FnMut(&mut T, Message<'_>),
) -> io::Result<T> {
    let mut dump = Dump::new(protocol)?;
    for _ in 0..ATTEMPTS {
        let mut found = begin();
        dump.ask(request)?;
        loop {
            match dump.next(|message| each(&mut found, message))? {
                Progress::Partial => {}
                Progress::Whole => return Ok(found),
                Progress::Inconsistent => break,
            }
        }
    }
    Err(changed_meanwhile())
}

fn changed_meanwhile() -> io::Error {
    io::Error::other("what the kernel tells changed again and again while it was told")
}

/// Multicast messages that tell that something changed.
#[derive(Debug)]
struct Group(AsyncFd<OwnedFd>);

impl Group {
    /// Begins to listen to groups: a bit for each.
    fn join(protocol: Option<Protocol>, groups: u32) -> io::Result<Self> {
        let socket = socket(protocol, SocketFlags::NONBLOCK, groups)?;
        Ok(Self(when_readable(socket)?))
    }

    /// Waits for messages that `concern`. That some were lost concerns always.
    async fn next(&self, concern: impl Fn(Message<'_>) -> bool) -> io::Result<()> {
        let mut buffer = [0_u8; 4096];
        loop {
            let mut ready = self.0.readable().await?;
            let read = ready.try_io(|fd| match recv(fd, &mut buffer[..], RecvFlags::empty()) {
                Ok((length, _)) => Ok(Messages(&buffer[..length]).any(&concern)),
                Err(Errno::NOBUFS) => Ok(true),
                Err(why) => Err(why.into()),
            });
            match read {
                Ok(Ok(false)) | Err(_) => {}
                Ok(concerns) => return concerns.map(drop),
            }
        }
    }
}

fn request(kind: u16, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + body.len()).unwrap_or_default();
    let mut request = Vec::with_capacity(HEADER + body.len());
    request.extend(length.to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend(number::NLM_F_REQUEST_DUMP.to_ne_bytes());
    request.resize(HEADER, 0);
    request.extend(body);
    request
}

/// The last message of a dump holds a negative error number, or 0.
fn verdict(payload: &[u8]) -> io::Result<()> {
    match u32_at(payload, 0).map(u32::cast_signed) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code.wrapping_neg())),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// One netlink message.
#[derive(Debug, Clone, Copy)]
struct Message<'a> {
    kind: u16,
    flags: u16,
    /// Number of the socket whose request it answers, or tells others of.
    port: u32,
    payload: &'a [u8],
}

/// The messages of one datagram; ends at the first that does not fit.
struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let length = usize::try_from(u32_at(self.0, 0)?).ok()?;
        let kind = u16_at(self.0, 4)?;
        let flags = u16_at(self.0, 6)?;
        let port = u32_at(self.0, 12)?;
        let payload = self.0.get(HEADER..length)?;
        self.0 = self.0.get(aligned(length)..).unwrap_or_default();
        Some(Message {
            kind,
            flags,
            port,
            payload,
        })
    }
}

/// The attributes after a message's fixed body; ends at the first that does not fit.
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<(u16, &'a [u8])> {
        let length = usize::from(u16_at(self.0, 0)?);
        let kind = u16_at(self.0, 2)?;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(aligned(length)..).unwrap_or_default();
        Some((kind, value))
    }
}

/// Messages and attributes begin at multiples of four bytes.
fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A message with a flag and a payload of 4 bytes.
    fn message(kind: u16, flags: u16, payload: i32) -> Vec<u8> {
        let mut bytes = 20_u32.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(flags.to_ne_bytes());
        bytes.resize(HEADER, 0);
        bytes.extend(payload.to_ne_bytes());
        bytes
    }

    #[test]
    fn an_answer_that_changed_meanwhile_is_none() {
        let changed = message(20, number::NLM_F_DUMP_INTR, 1);
        let done = message(number::NLMSG_DONE, 0, 0);
        let mut is_consistent = true;
        let mut seen = 0;
        let mut take = |bytes: &[u8]| take(Messages(bytes), &mut is_consistent, |_| seen += 1);
        assert_eq!(take(&message(20, 0, 1)).unwrap(), Progress::Partial);
        assert_eq!(take(&changed).unwrap(), Progress::Partial);
        assert_eq!(take(&done).unwrap(), Progress::Inconsistent);
        assert_eq!(seen, 2);
        let mut is_consistent = true;
        let whole = super::take(Messages(&done), &mut is_consistent, |_| {});
        assert_eq!(whole.unwrap(), Progress::Whole);
    }

    #[test]
    fn an_answer_may_end_in_an_error() {
        for kind in [number::NLMSG_ERROR, number::NLMSG_DONE] {
            let refused = message(kind, 0, -2);
            let why = take(Messages(&refused), &mut true, |_| {}).unwrap_err();
            assert_eq!(why.kind(), io::ErrorKind::NotFound);
        }
        let cut = &message(number::NLMSG_DONE, 0, 0)[..HEADER];
        let cut = [&16_u32.to_ne_bytes(), &cut[4..]].concat();
        let why = take(Messages(&cut), &mut true, |_| {}).unwrap_err();
        assert_eq!(why.kind(), io::ErrorKind::InvalidData);
    }
}
