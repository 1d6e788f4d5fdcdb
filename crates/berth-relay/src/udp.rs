//! Datagrams through streams: each client of a UDP port has a stream of its own.
//!
//! On a stream every datagram is its length, two bytes in big endian, and then its bytes, [`MAX_DATAGRAM`] at most. Nothing else is
//! said: a flow begins with its stream, and ends with it when nobody has sent anything for as long as [`Patience`] says.
//!
//! Datagrams are lost where something is too slow for them, as on any network; they are counted, and nobody waits for others.

mod activity;
mod backlog;
mod carry;
mod flow;
mod framing;
mod serve;
mod socket;

use std::io;
use std::time::Duration;

pub use carry::carry;
pub use serve::serve;

/// Longest datagram in bytes: what IPv4 can carry.
pub const MAX_DATAGRAM: usize = 65_507;

/// Port of the domain name system.
const DNS: u16 = 53;

/// How long a flow is kept when nobody sends anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// After a datagram of the client, and after the last one of either side in general.
    pub for_answer: Duration,
    /// After a datagram of the server.
    pub after_answer: Duration,
}

impl Patience {
    /// What the protocols of a port need: a minute, and ten seconds after an answer of a name server.
    #[must_use]
    pub const fn of_port(port: u16) -> Self {
        let after_answer = if port == DNS { 10 } else { 60 };
        Self {
            for_answer: Duration::from_secs(60),
            after_answer: Duration::from_secs(after_answer),
        }
    }

    /// Twice as long: for the end that leaves it to the other to say when a flow is over.
    #[must_use]
    pub const fn twice(self) -> Self {
        Self {
            for_answer: self.for_answer.saturating_mul(2),
            after_answer: self.after_answer.saturating_mul(2),
        }
    }
}

/// What one listening socket may keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Clients at a time; the one that has been silent longest makes room for the next.
    pub flows: usize,
    /// Bytes of all clients that wait for their streams.
    pub backlog: usize,
    /// When a flow ends by itself.
    pub patience: Patience,
    /// Whether datagrams that do not come from this machine are ignored.
    pub only_loopback: bool,
}

impl Limits {
    /// 512 clients and 4 MiB, from everywhere.
    #[must_use]
    pub const fn of_port(port: u16) -> Self {
        Self {
            flows: 512,
            backlog: 4 * 1024 * 1024,
            patience: Patience::of_port(port),
            only_loopback: false,
        }
    }
}

/// Why a flow ended before its time.
#[derive(Debug, thiserror::Error)]
pub enum FlowError {
    /// There is no stream for it.
    #[error("the flow could not be opened")]
    Dial(#[source] io::Error),
    /// The stream failed.
    #[error("the stream of the flow failed")]
    Stream(#[source] io::Error),
    /// The socket failed, which is more than an ICMP error.
    #[error("the socket of the flow failed")]
    Socket(#[source] io::Error),
    /// The other end announced a datagram that cannot be.
    #[error("a datagram of {0} bytes was announced, more than {MAX_DATAGRAM}")]
    TooLong(usize),
    /// The stream ended within a datagram.
    #[error("the stream ended in the middle of a datagram")]
    Truncated,
}

impl FlowError {
    /// Whether this is how flows end every day: the other end has let it go.
    fn is_reset(&self) -> bool {
        matches!(self, Self::Stream(why) if why.kind() == io::ErrorKind::ConnectionReset)
    }
}

/// Whether an error of a UDP socket is about one datagram and not about the socket: ICMP errors of earlier ones, no route, too long.
fn is_passing(why: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionRefused, ConnectionReset, HostUnreachable, NetworkDown, NetworkUnreachable,
        PermissionDenied, WouldBlock,
    };
    matches!(
        why.kind(),
        ConnectionRefused
            | ConnectionReset
            | HostUnreachable
            | NetworkDown
            | NetworkUnreachable
            | PermissionDenied
            | WouldBlock
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_forgotten_soon_after_their_answer() {
        assert_eq!(Patience::of_port(53).after_answer, Duration::from_secs(10));
        assert_eq!(Patience::of_port(53).for_answer, Duration::from_secs(60));
        assert_eq!(Patience::of_port(443).after_answer, Duration::from_secs(60));
    }
}
