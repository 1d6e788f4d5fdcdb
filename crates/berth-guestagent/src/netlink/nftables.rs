//! The kernel's packet filter (`nf_tables`), without the program `nft`: one table of our own that sends packets elsewhere.
//!
//! Messages are those of `linux/netfilter/nf_tables.h`: nested attributes, numbers in network order. A batch is one transaction: it is
//! applied as a whole or not at all.

use std::cell::Cell;
use std::io;
use std::net::Ipv4Addr;
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{Protocol, RecvFlags, SendFlags, SocketFlags, getsockname, recv, send};

use super::{Attributes, Group, HEADER, Message, Messages, number, socket, u32_at};

/// `NETLINK_NETFILTER`.
const NETFILTER: Protocol = Protocol::from_raw(NonZeroU32::new(12).unwrap());
/// `NFNLGRP_NFTABLES`, as a bit.
const NFTABLES_GROUP: u32 = 1 << (7 - 1);
/// `NFNL_SUBSYS_NFTABLES`, the upper byte of a message's type.
const SUBSYSTEM: u16 = 10;

const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = SUBSYSTEM << 8;
const DELETE_TABLE: u16 = SUBSYSTEM << 8 | 2;
const NEW_CHAIN: u16 = SUBSYSTEM << 8 | 3;
const DELETE_CHAIN: u16 = SUBSYSTEM << 8 | 5;
const NEW_RULE: u16 = SUBSYSTEM << 8 | 6;
const DELETE_RULE: u16 = SUBSYSTEM << 8 | 8;

const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
const CREATE: u16 = 0x400;
/// Rules are added at the end.
const APPEND: u16 = 0x800;
const NESTED: u16 = 0x8000;

/// Before the distribution's own translation of addresses, which stands at -100: whichever translates first, wins.
const PRIORITY: i32 = -110;
/// Where packets come in from others (containers), and where the guest's own go out: numbers of hooks.
const CHAINS: [(&[u8], u32); 2] = [(b"forwarded\0", 0), (b"own\0", 3)];

/// Packets to a port of one address that go to a port of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Redirection {
    /// `IPPROTO_UDP` or `IPPROTO_TCP`.
    pub(crate) protocol: u8,
    /// Where they were sent.
    pub(crate) from: (Ipv4Addr, u16),
    /// Where they go.
    pub(crate) to: (Ipv4Addr, u16),
}

/// A table of redirections, made by this value's socket, so that news of others' changes can be told from our own.
#[derive(Debug)]
pub(crate) struct RedirectionTable {
    name: Vec<u8>,
    socket: OwnedFd,
    /// The socket's number, as the kernel gives it to those who are told of changes.
    port: u32,
    sequence: Cell<u32>,
}

impl RedirectionTable {
    /// Opens the way to the kernel. Nothing is changed yet.
    pub(crate) fn named(name: &str) -> io::Result<Self> {
        let socket = socket(Some(NETFILTER), SocketFlags::NONBLOCK, 0)?;
        let address = SocketAddrNetlink::try_from(getsockname(&socket)?)?;
        Ok(Self {
            name: [name.as_bytes(), b"\0"].concat(),
            socket,
            port: address.pid(),
            sequence: Cell::new(0),
        })
    }

    /// Puts the table in place, with these redirections and nothing else, whatever it held before.
    pub(crate) fn set(&self, redirections: &[Redirection]) -> io::Result<()> {
        self.send(&self.batch(redirections))?;
        self.hear()
    }

    fn batch(&self, redirections: &[Redirection]) -> Vec<u8> {
        let mut batch = Batch::new(self.next_sequence());
        let table = attribute(1, &self.name);
        // Made first, because what is not there cannot be deleted.
        batch.message(NEW_TABLE, CREATE, &table);
        batch.message(DELETE_TABLE, 0, &table);
        batch.message(NEW_TABLE, CREATE, &table);
        for (chain, hook) in CHAINS {
            let hook = [
                attribute(1, &hook.to_be_bytes()),
                attribute(2, &PRIORITY.to_be_bytes()),
            ];
            let body = [
                table.clone(),
                attribute(3, chain),
                nested(4, &hook),
                attribute(7, b"nat\0"),
            ];
            batch.message(NEW_CHAIN, CREATE | ACKNOWLEDGE, &body.concat());
        }
        for (chain, _) in CHAINS {
            for redirection in redirections {
                let body = [
                    table.clone(),
                    attribute(2, chain),
                    nested(4, &redirection.expressions()),
                ];
                batch.message(NEW_RULE, CREATE | APPEND | ACKNOWLEDGE, &body.concat());
            }
        }
        batch.end()
    }

    fn next_sequence(&self) -> u32 {
        self.sequence.update(|last| last.wrapping_add(1));
        self.sequence.get()
    }

    fn send(&self, batch: &[u8]) -> io::Result<()> {
        let sent = send(&self.socket, batch, SendFlags::empty())?;
        if sent == batch.len() {
            Ok(())
        } else {
            Err(io::ErrorKind::WriteZero.into())
        }
    }

    /// Hears what became of a batch. The kernel works it off while it is sent: there is nothing to wait for.
    fn hear(&self) -> io::Result<()> {
        let mut verdict = Err(io::Error::other(
            "the kernel says nothing of a change to nf_tables",
        ));
        let mut buffer = [0; 8192];
        loop {
            let length = match recv(&self.socket, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((length, _)) => length,
                Err(Errno::AGAIN) => return verdict,
                Err(Errno::INTR) => continue,
                Err(why) => return Err(why.into()),
            };
            for message in Messages(&buffer[..length]) {
                if message.kind == number::NLMSG_ERROR {
                    match u32_at(message.payload, 0).map(u32::cast_signed) {
                        Some(0) if verdict.is_err() => verdict = Ok(()),
                        Some(0) => {}
                        code => {
                            let code = code.unwrap_or_default().wrapping_neg();
                            self.drain();
                            return Err(io::Error::from_raw_os_error(code));
                        }
                    }
                }
            }
        }
    }

    /// Takes what the kernel still has to say of a batch that failed.
    fn drain(&self) {
        let mut buffer = [0; 8192];
        while recv(&self.socket, &mut buffer[..], RecvFlags::DONTWAIT).is_ok() {}
    }
}

/// News of tables, chains and rules that are deleted.
#[derive(Debug)]
pub(crate) struct Deletions(Group);

impl Deletions {
    /// Begins to listen.
    pub(crate) fn listen() -> io::Result<Self> {
        Group::join(Some(NETFILTER), NFTABLES_GROUP).map(Self)
    }

    /// Waits until somebody else has taken something out of a table of ours, or out of one of this name.
    pub(crate) async fn next(&self, ours: &RedirectionTable, other: &str) -> io::Result<Deleted> {
        let other = [other.as_bytes(), b"\0"].concat();
        let deleted = Cell::new(Deleted::FromOther);
        let concerns = |message: Message<'_>| {
            let from_ours = is_deletion(message, &ours.name) && message.port != ours.port;
            if from_ours {
                deleted.set(Deleted::FromTable);
            }
            from_ours || is_deletion(message, &other)
        };
        self.0.next(concerns).await?;
        Ok(deleted.get())
    }
}

/// What somebody has taken something out of. When news were lost, it may have been either.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Deleted {
    /// A table of ours.
    FromTable,
    /// Another.
    FromOther,
}

/// The first attribute names the table, behind the four bytes of `struct nfgenmsg`.
fn is_deletion(message: Message<'_>, table: &[u8]) -> bool {
    let is_of_table = || {
        let attributes = message.payload.get(4..).unwrap_or_default();
        Attributes(attributes).any(|(kind, value)| kind == 1 && value == table)
    };
    matches!(message.kind, DELETE_TABLE | DELETE_CHAIN | DELETE_RULE) && is_of_table()
}

impl Redirection {
    /// The rule: destination, protocol and port are these, so the packet gets another destination.
    fn expressions(&self) -> [Vec<u8>; 9] {
        const EQUAL: u32 = 0;
        const L4_PROTOCOL: u32 = 16;
        const NETWORK_HEADER: u32 = 1;
        const TRANSPORT_HEADER: u32 = 2;
        const DESTINATION: u32 = 1;
        let number = |kind, value: u32| attribute(kind, &value.to_be_bytes());
        let data = |kind, value: &[u8]| nested(kind, &[attribute(1, value)]);
        let load = |base, offset, length| {
            let parts = [
                number(1, 1),
                number(2, base),
                number(3, offset),
                number(4, length),
            ];
            expression(b"payload\0", &parts)
        };
        let compare =
            |value: &[u8]| expression(b"cmp\0", &[number(1, 1), number(2, EQUAL), data(3, value)]);
        let set = |register, value: &[u8]| {
            expression(b"immediate\0", &[number(1, register), data(2, value)])
        };
        let (from, to) = (self.from, self.to);
        let translate = [
            number(1, DESTINATION),
            number(2, number::AF_INET.into()),
            number(3, 1),
            number(4, 1),
            number(5, 2),
            number(6, 2),
        ];
        [
            load(NETWORK_HEADER, 16, 4),
            compare(&from.0.octets()),
            expression(b"meta\0", &[number(1, 1), number(2, L4_PROTOCOL)]),
            compare(&[self.protocol]),
            load(TRANSPORT_HEADER, 2, 2),
            compare(&from.1.to_be_bytes()),
            set(1, &to.0.octets()),
            set(2, &to.1.to_be_bytes()),
            expression(b"nat\0", &translate),
        ]
    }
}

fn expression(name: &[u8], parts: &[Vec<u8>]) -> Vec<u8> {
    nested(1, &[attribute(1, name), nested(2, parts)])
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    // Values here are a few hundred bytes at most.
    let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
    bytes.extend(value);
    bytes.resize(super::aligned(bytes.len()), 0);
    bytes
}

fn nested(kind: u16, parts: &[Vec<u8>]) -> Vec<u8> {
    attribute(kind | NESTED, &parts.concat())
}

/// Messages that the kernel applies together.
struct Batch {
    bytes: Vec<u8>,
    sequence: u32,
}

impl Batch {
    fn new(sequence: u32) -> Self {
        let mut batch = Self {
            bytes: Vec::new(),
            sequence,
        };
        batch.put(BATCH_BEGIN, REQUEST, 0, SUBSYSTEM, &[]);
        batch
    }

    fn message(&mut self, kind: u16, flags: u16, attributes: &[u8]) {
        self.put(kind, REQUEST | flags, number::AF_INET, 0, attributes);
    }

    fn end(mut self) -> Vec<u8> {
        self.put(BATCH_END, REQUEST, 0, SUBSYSTEM, &[]);
        self.bytes
    }

    /// `struct nlmsghdr`, `struct nfgenmsg` (family, version, resource), attributes.
    fn put(&mut self, kind: u16, flags: u16, family: u8, resource: u16, attributes: &[u8]) {
        let length = u32::try_from(HEADER + 4 + attributes.len()).unwrap_or(u32::MAX);
        self.bytes.extend(length.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(flags.to_ne_bytes());
        self.bytes.extend(self.sequence.to_ne_bytes());
        self.bytes.extend(0_u32.to_ne_bytes());
        self.bytes.extend([family, 0]);
        self.bytes.extend(resource.to_be_bytes());
        self.bytes.extend(attributes);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddrV4, UdpSocket};
    use std::process::Command;

    use super::*;

    fn redirection(protocol: u8, to: u16) -> Redirection {
        Redirection {
            protocol,
            from: (Ipv4Addr::new(192, 168, 5, 3), 53),
            to: (Ipv4Addr::LOCALHOST, to),
        }
    }

    /// Runs a test in a network of its own, with an independent look at it; skipped without the right to make one.
    fn in_a_network(test: impl FnOnce() + Send + 'static) {
        let thread = std::thread::spawn(|| {
            if crate::sys::leave_the_network().is_err() {
                eprintln!("skipped: no right to make a network namespace");
                return;
            }
            let ip = |words: &str| {
                let status = Command::new("ip").args(words.split(' ')).status();
                assert!(status.unwrap().success(), "ip {words}");
            };
            ip("link set lo up");
            ip("addr add 192.168.5.15/24 dev lo");
            test();
        });
        thread.join().unwrap();
    }

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.unwrap().block_on(future)
    }

    #[test]
    fn packets_go_where_the_table_says() {
        in_a_network(|| {
            let table = RedirectionTable::named("berth-test").unwrap();
            let server = UdpSocket::bind("127.0.0.1:0").unwrap();
            let port = server.local_addr().unwrap().port();
            for _ in 0..2 {
                table
                    .set(&[redirection(17, port), redirection(6, port)])
                    .unwrap();
                let client = UdpSocket::bind("127.0.0.1:0").unwrap();
                let to = SocketAddrV4::new(Ipv4Addr::new(192, 168, 5, 3), 53);
                client.send_to(b"question", to).unwrap();
                let mut buffer = [0; 16];
                server
                    .set_read_timeout(Some(std::time::Duration::from_secs(10)))
                    .unwrap();
                let (length, from) = server.recv_from(&mut buffer).unwrap();
                assert_eq!(&buffer[..length], b"question");
                server.send_to(b"answer", from).unwrap();
                client
                    .set_read_timeout(Some(std::time::Duration::from_secs(10)))
                    .unwrap();
                let (_, from) = client.recv_from(&mut buffer).unwrap();
                assert_eq!(
                    from,
                    to.into(),
                    "the answer comes from where the question went"
                );
            }
        });
    }

    #[test]
    fn only_what_others_take_away_is_news() {
        in_a_network(|| {
            let table = RedirectionTable::named("berth-test").unwrap();
            let other = RedirectionTable::named("berth-other").unwrap();
            let intruder = RedirectionTable::named("berth-test").unwrap();
            block_on(async {
                use futures_util::FutureExt as _;
                let deletions = Deletions::listen().unwrap();
                table.set(&[redirection(17, 1)]).unwrap();
                table.set(&[redirection(17, 2)]).unwrap();
                other.set(&[redirection(17, 3)]).unwrap();
                other.set(&[]).unwrap();
                tokio::task::yield_now().await;
                assert!(deletions.next(&table, "nat").now_or_never().is_none());
                intruder.set(&[redirection(17, 4)]).unwrap();
                assert_eq!(
                    deletions.next(&table, "nat").await.unwrap(),
                    Deleted::FromTable
                );
            });
        });
    }

    #[test]
    fn a_change_that_the_kernel_refuses_is_an_error() {
        in_a_network(|| {
            let long = "x".repeat(300);
            let table = RedirectionTable::named(&long).unwrap();
            table.set(&[redirection(17, 1)]).unwrap_err();
            table.set(&[redirection(17, 1)]).unwrap_err();
        });
    }
}
