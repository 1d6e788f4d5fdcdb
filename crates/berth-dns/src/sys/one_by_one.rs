//! Where datagrams are taken one by one, and nobody tells of changes.

use std::io;
use std::net::SocketAddr;

use tokio::net::UdpSocket;

use super::{BATCH, MAX_QUERY};
use crate::host::HostFiles;

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

/// Tells nothing yet on this system: answers are kept no longer than they say.
#[derive(Debug)]
pub(crate) struct HostChanges;

impl HostChanges {
    #[allow(clippy::unnecessary_wraps, reason = "it can fail elsewhere")]
    pub(crate) fn watch(_files: &HostFiles) -> io::Result<Self> {
        Ok(Self)
    }

    pub(crate) async fn next(&mut self) -> io::Result<()> {
        std::future::pending().await
    }
}
