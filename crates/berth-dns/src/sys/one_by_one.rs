//! Datagrams, one by one.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::UdpSocket;

use super::{BATCH, MAX_QUERY};
use crate::wire::SAFE_UDP;

/// Datagrams that came, and answers to them that wait to be sent.
#[derive(Debug)]
pub(crate) struct Batch {
    queries: Vec<(Vec<u8>, SocketAddr)>,
    replies: Vec<u8>,
    ends: Vec<(usize, SocketAddr)>,
}

impl Batch {
    pub(crate) fn new() -> Self {
        Self {
            queries: Vec::new(),
            replies: Vec::new(),
            ends: Vec::new(),
        }
    }

    pub(crate) fn receive(&mut self, socket: &UdpSocket) -> io::Result<usize> {
        self.queries.clear();
        self.replies.clear();
        self.ends.clear();
        while self.queries.len() < BATCH {
            let mut buffer = [0; MAX_QUERY + 1];
            match socket.try_recv_from(&mut buffer) {
                Ok((length, from)) => {
                    let query = if length > MAX_QUERY {
                        &[][..]
                    } else {
                        &buffer[..length]
                    };
                    self.queries.push((query.to_vec(), from));
                }
                Err(_) if !self.queries.is_empty() => break,
                Err(why) => return Err(why),
            }
        }
        Ok(self.queries.len())
    }

    pub(crate) fn query(&mut self, at: usize) -> (&[u8], &mut Vec<u8>) {
        (&self.queries[at].0, &mut self.replies)
    }

    pub(crate) fn from(&self, at: usize) -> SocketAddr {
        self.queries[at].1
    }

    pub(crate) fn reply_to(&mut self, at: usize) {
        self.ends.push((self.replies.len(), self.queries[at].1));
    }

    pub(crate) fn send(&mut self, socket: &UdpSocket, first: usize) -> io::Result<usize> {
        let start = first.checked_sub(1).map_or(0, |before| self.ends[before].0);
        let (end, to) = self.ends[first];
        socket.try_send_to(&self.replies[start..end], to)?;
        Ok(1)
    }

    pub(crate) fn replies(&self) -> usize {
        self.ends.len()
    }
}

/// A socket that a question was sent from, at a port that the system chose at random.
#[derive(Debug)]
pub(crate) struct Asking(UdpSocket);

impl Asking {
    /// Sends a question to a server.
    pub(crate) async fn send(server: SocketAddr, question: &[u8]) -> io::Result<Self> {
        let any: IpAddr = match server {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0)).await?;
        socket.connect(server).await?;
        socket.send(question).await?;
        Ok(Self(socket))
    }

    /// Waits for a datagram of the server: its bytes, one more than [`SAFE_UDP`] at most.
    pub(crate) async fn receive(&self) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0; SAFE_UDP + 1];
        let length = self.0.recv(&mut buffer).await?;
        buffer.truncate(length);
        Ok(buffer)
    }
}
