//! News of ports that become free: the kernel tells of every socket that is destroyed, to everybody who asks (`sock_diag(7)`,
//! groups `SKNLGRP_*_DESTROY`). A filter in the kernel lets only the ports pass that somebody waits for.
//!
//! It is a help and not the only way: a `shutdown` of a listener frees its port without this news.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};
use socket2::{SockFilter, SockRef};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::address::Transport;

/// Groups 1 to 4: TCP and UDP, IPv4 and IPv6.
const DESTROYED: u32 = 0b1111;

/// Of how many ports news is asked for; the others are tried again from time to time.
const MOST_PORTS: usize = 512;

/// Where the port of a destroyed socket stands: behind the header of the message (16 bytes) and four bytes of
/// `struct inet_diag_msg`, in network order, which is how the filter reads.
const PORT_AT: u32 = 20;

const LOAD_HALF: u16 = 0x28;
const JUMP_IF_EQUAL: u16 = 0x15;
const RETURN: u16 = 0x06;

/// Says when a port that somebody had may be free.
#[derive(Debug, Default)]
pub(crate) struct FreedPorts {
    ports: BTreeSet<u16>,
    news: Option<AsyncFd<OwnedFd>>,
}

impl FreedPorts {
    /// Asks for news of these ports and no others. Costs nothing while there are none.
    pub(crate) fn watch(&mut self, ports: &BTreeSet<(Transport, u16)>) {
        let ports = ports.iter().map(|(_, port)| *port);
        let ports: BTreeSet<u16> = ports.take(MOST_PORTS).collect();
        if ports == self.ports {
            return;
        }
        self.news = match (ports.is_empty(), self.news.take()) {
            (true, _) => None,
            (false, Some(news)) => filter(news.get_ref(), &ports).ok().map(|()| news),
            (false, None) => open(&ports)
                .inspect_err(|why| tracing::debug!(%why, "the kernel tells nothing of freed ports"))
                .ok(),
        };
        self.ports = ports;
    }

    /// Waits for news. Which port it was does not matter: the attempt to bind shows it.
    pub(crate) async fn next(&mut self) {
        let Some(news) = &self.news else {
            return std::future::pending().await;
        };
        match wait(news).await {
            Ok(()) => {}
            Err(why) => {
                tracing::debug!(%why, "no more news of freed ports");
                self.news = None;
            }
        }
    }
}

async fn wait(news: &AsyncFd<OwnedFd>) -> io::Result<()> {
    loop {
        let mut ready = news.readable().await?;
        let mut buffer = [0; 512];
        let mut any = false;
        loop {
            match recv(news.get_ref(), &mut buffer, RecvFlags::DONTWAIT) {
                // What did not fit into the queue was news as well.
                Ok(_) | Err(Errno::NOBUFS) => any = true,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(why) => return Err(why.into()),
            }
        }
        ready.clear_ready();
        if any {
            return Ok(());
        }
    }
}

fn open(ports: &BTreeSet<u16>) -> io::Result<AsyncFd<OwnedFd>> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        flags,
        Some(SOCK_DIAG),
    )?;
    filter(&socket, ports)?;
    bind(&socket, &SocketAddrNetlink::new(0, DESTROYED))?;
    when_readable(socket)
}

#[allow(unsafe_code, reason = "tokio's safe form is deprecated")]
fn when_readable(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned, so it is open, and it stays the same until the `AsyncFd` is dropped.
    Ok(unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }?)
}

fn filter(socket: &OwnedFd, ports: &BTreeSet<u16>) -> io::Result<()> {
    let mut program = vec![SockFilter::new(LOAD_HALF, 0, 0, PORT_AT)];
    for port in ports {
        program.push(SockFilter::new(JUMP_IF_EQUAL, 0, 1, u32::from(*port)));
        program.push(SockFilter::new(RETURN, 0, 0, u32::MAX));
    }
    program.push(SockFilter::new(RETURN, 0, 0, 0));
    SockRef::from(socket).attach_filter(&program)
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    /// More than any kernel needs.
    const LONG: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn a_closed_socket_is_news_if_somebody_waits_for_its_port() {
        let held = TcpListener::bind("127.0.0.1:0").unwrap();
        let other = TcpListener::bind("127.0.0.1:0").unwrap();
        let datagrams = UdpSocket::bind("[::1]:0").unwrap();
        let port = |at: io::Result<std::net::SocketAddr>| at.unwrap().port();
        let mut freed = FreedPorts::default();
        freed.watch(&[(Transport::Tcp, port(held.local_addr()))].into());
        assert!(freed.news.is_some(), "every user may ask");

        drop(other);
        let early = timeout(Duration::from_millis(50), freed.next()).await;
        assert!(early.is_err(), "nobody waits for that port");
        drop(held);
        timeout(LONG, freed.next()).await.expect("news of the port");

        freed.watch(&[(Transport::Udp, port(datagrams.local_addr()))].into());
        drop(datagrams);
        timeout(LONG, freed.next()).await.expect("news of the port");
        freed.watch(&BTreeSet::new());
        assert!(freed.news.is_none());
    }
}
