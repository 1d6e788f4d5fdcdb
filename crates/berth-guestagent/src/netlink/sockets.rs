//! Sockets that take connections or datagrams: `sock_diag(7)`, `linux/inet_diag.h`.

use std::fmt;
use std::io;
use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};

use super::{ATTEMPTS, Dump, Group, Message, Progress, SOCK_DIAG};
use super::{changed_meanwhile, number, request, u16_at, u32_at};

/// Message types, groups, protocols and states.
mod diag {
    pub(super) const SOCK_DIAG_BY_FAMILY: u16 = 20;
    pub(super) const IPPROTO_TCP: u8 = 6;
    pub(super) const IPPROTO_UDP: u8 = 17;
    /// Also the state of a UDP socket that is not connected.
    pub(super) const TCP_CLOSE: u8 = 7;
    pub(super) const TCP_LISTEN: u8 = 10;
    /// `SKNLGRP_INET_UDP_DESTROY` and `SKNLGRP_INET6_UDP_DESTROY`.
    pub(super) const UDP_DESTROY: u32 = 1 << (2 - 1) | 1 << (4 - 1);
}

/// Length of `struct inet_diag_req_v2`.
const REQUEST: usize = 56;

/// A question to the kernel, which answers for one protocol and family at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Question {
    family: u8,
    protocol: u8,
    state: u8,
}

impl Question {
    /// Listening TCP sockets, IPv4 and IPv6.
    pub(crate) const TCP: [Self; 2] = [
        Self::listening_tcp(number::AF_INET),
        Self::listening_tcp(number::AF_INET6),
    ];
    /// UDP sockets that are not connected, IPv4 and IPv6.
    pub(crate) const UDP: [Self; 2] = [
        Self::unconnected_udp(number::AF_INET),
        Self::unconnected_udp(number::AF_INET6),
    ];

    const fn listening_tcp(family: u8) -> Self {
        Self {
            family,
            protocol: diag::IPPROTO_TCP,
            state: diag::TCP_LISTEN,
        }
    }

    const fn unconnected_udp(family: u8) -> Self {
        Self {
            family,
            protocol: diag::IPPROTO_UDP,
            state: diag::TCP_CLOSE,
        }
    }

    /// `struct inet_diag_req_v2`: family, protocol, extensions, padding, states (u32); the rest is for single sockets.
    fn request(self) -> Vec<u8> {
        let mut body = [0; REQUEST];
        [body[0], body[1]] = [self.family, self.protocol];
        let states: u32 = 1 << self.state;
        body[4..8].copy_from_slice(&states.to_ne_bytes());
        request(diag::SOCK_DIAG_BY_FAMILY, &body)
    }

    /// Not all kernels look at the states of the question.
    fn answer(self, message: Message<'_>) -> Option<BoundSocket> {
        let socket =
            (message.kind == diag::SOCK_DIAG_BY_FAMILY).then(|| bound(message.payload))??;
        (message.payload.get(1) == Some(&self.state)).then_some(socket)
    }
}

impl fmt::Display for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.protocol {
            diag::IPPROTO_TCP => "TCP",
            _ => "UDP",
        };
        let family = match self.family {
            number::AF_INET => "IPv4",
            _ => "IPv6",
        };
        write!(f, "{protocol} sockets of {family}")
    }
}

/// A socket that has a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BoundSocket {
    /// Where it is bound; a link-local address with the interface that it is bound to.
    pub(crate) address: SocketAddr,
    /// The kernel's name for it, not used again in the same boot.
    pub(crate) cookie: u64,
}

/// `struct inet_diag_msg`: family, state, timer, retransmissions, then `struct inet_diag_sockid`: ports, addresses (both in network
/// order), interface, cookie.
fn bound(payload: &[u8]) -> Option<BoundSocket> {
    let family = *payload.first()?;
    let port = u16::from_be_bytes(*payload.get(4..)?.first_chunk()?);
    let source: [u8; 16] = *payload.get(8..)?.first_chunk()?;
    let interface = u32_at(payload, 40)?;
    let cookie = u64::from(u32_at(payload, 44)?) | u64::from(u32_at(payload, 48)?) << 32;
    let address = match family {
        number::AF_INET => {
            let [a, b, c, d, ..] = source;
            SocketAddr::from(([a, b, c, d], port))
        }
        number::AF_INET6 => SocketAddrV6::new(Ipv6Addr::from(source), port, 0, interface).into(),
        _ => return None,
    };
    Some(BoundSocket { address, cookie })
}

/// The port of a message about a socket.
fn port(message: Message<'_>) -> Option<u16> {
    u16_at(message.payload, 4).map(u16::from_be)
}

/// Asks the kernel for sockets.
pub(crate) struct SocketDiag(Dump);

impl SocketDiag {
    /// Opens a way to ask.
    pub(crate) fn open() -> io::Result<Self> {
        Dump::new(Some(SOCK_DIAG)).map(Self)
    }

    /// Collects the answer to a question; `begin` forgets what was collected so far.
    ///
    /// Lets other tasks have their turn: there may be a million sockets. Drop this after an error.
    pub(crate) async fn ask<T>(
        &mut self,
        question: Question,
        begin: impl Fn() -> T,
        mut each: impl FnMut(&mut T, BoundSocket),
    ) -> io::Result<T> {
        for _ in 0..ATTEMPTS {
            let mut found = begin();
            self.0.ask(&question.request())?;
            loop {
                let progress = self.0.next(|message| {
                    if let Some(socket) = question.answer(message) {
                        each(&mut found, socket);
                    }
                })?;
                match progress {
                    Progress::Partial => tokio::task::yield_now().await,
                    Progress::Whole => return Ok(found),
                    Progress::Inconsistent => break,
                }
            }
        }
        Err(changed_meanwhile())
    }
}

/// Tells whether anything listens on a TCP port, at whatever address.
pub(crate) fn is_tcp_listening(port: u16) -> io::Result<bool> {
    let [ipv4, ipv6] = Question::TCP;
    if is_bound(ipv4, port)? {
        return Ok(true);
    }
    // A kernel without IPv6 refuses the question.
    Ok(is_bound(ipv6, port).unwrap_or(false))
}

fn is_bound(question: Question, port: u16) -> io::Result<bool> {
    super::dump(
        Some(SOCK_DIAG),
        &question.request(),
        || false,
        |found, message| {
            *found |= question
                .answer(message)
                .is_some_and(|socket| socket.address.port() == port);
        },
    )
}

/// UDP sockets that are gone.
#[derive(Debug)]
pub(crate) struct Destroyed(Group);

impl Destroyed {
    /// Begins to listen.
    pub(crate) fn listen() -> io::Result<Self> {
        Group::join(Some(SOCK_DIAG), diag::UDP_DESTROY).map(Self)
    }

    /// Waits until a socket is gone whose port `concerns`.
    pub(crate) async fn next(&self, concerns: impl Fn(u16) -> bool) -> io::Result<()> {
        self.0
            .next(|message| port(message).is_some_and(&concerns))
            .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sees_who_listens_on_this_machine() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(is_tcp_listening(port).unwrap());
        assert!(!is_tcp_listening(0).unwrap());
    }

    /// `struct inet_diag_msg` of a socket at port 8080.
    fn message(family: u8, state: u8, source: [u8; 16]) -> Vec<u8> {
        let mut bytes = vec![family, state, 0, 0];
        bytes.extend(8080_u16.to_be_bytes());
        bytes.extend([0; 2]);
        bytes.extend(source);
        bytes.extend([0; 16]);
        bytes.extend(3_u32.to_ne_bytes());
        bytes.extend(0x5566_7788_u32.to_ne_bytes());
        bytes.extend(0x1122_3344_u32.to_ne_bytes());
        bytes.resize(72, 0);
        bytes
    }

    fn answer(question: Question, payload: &[u8]) -> Option<BoundSocket> {
        question.answer(Message {
            kind: diag::SOCK_DIAG_BY_FAMILY,
            flags: 0,
            port: 0,
            payload,
        })
    }

    #[test]
    fn a_socket_is_told_by_address_and_cookie() {
        let mut source = [0; 16];
        source[..4].copy_from_slice(&[127, 0, 0, 1]);
        let ipv4 = message(number::AF_INET, diag::TCP_LISTEN, source);
        let [question, _] = Question::TCP;
        let expected = BoundSocket {
            address: "127.0.0.1:8080".parse().unwrap(),
            cookie: 0x1122_3344_5566_7788,
        };
        assert_eq!(answer(question, &ipv4), Some(expected));
        let source = "fe80::1".parse::<Ipv6Addr>().unwrap().octets();
        let ipv6 = message(number::AF_INET6, diag::TCP_CLOSE, source);
        let [_, question] = Question::UDP;
        let address = answer(question, &ipv6).unwrap().address;
        assert_eq!(address, "[fe80::1%3]:8080".parse().unwrap());
    }

    #[test]
    fn what_is_cut_or_in_another_state_is_no_socket() {
        let [question, _] = Question::TCP;
        let whole = message(number::AF_INET, diag::TCP_LISTEN, [0; 16]);
        for cut in 0..52 {
            assert_eq!(answer(question, &whole[..cut]), None, "{cut}");
        }
        assert!(answer(question, &whole[..52]).is_some());
        let closed = message(number::AF_INET, diag::TCP_CLOSE, [0; 16]);
        assert_eq!(answer(question, &closed), None);
        let unix = message(1, diag::TCP_LISTEN, [0; 16]);
        assert_eq!(answer(question, &unix), None);
    }
}
