//! What a tunnel leads to, and how that is told to the agent.

use std::fmt;
use std::net::SocketAddr;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;

use super::read::DATA;
use crate::error::GuestApiError;
use crate::fields::LENGTH;
use crate::message::TunnelMessage;
use berth_grpc::frame::{PREFIX, put_prefix};

/// Longest path of a unix socket in a Linux guest, in bytes.
const MAX_SOCKET_PATH: usize = 107;

/// A socket in the guest that a tunnel leads to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TunnelTarget {
    /// A TCP port.
    Tcp(SocketAddr),
    /// A UDP port. The tunnel carries datagrams ([`super::Tunnel`] says how).
    Udp(SocketAddr),
    /// A unix socket.
    Unix(SocketPath),
}

/// An absolute path in the guest, short enough for a unix socket.
///
/// Lima's agent runs as root and dials with root's rights, whoever owns the socket.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SocketPath(String);

impl SocketPath {
    /// Checks a path.
    pub fn new(path: impl Into<String>) -> Result<Self, GuestApiError> {
        let path = path.into();
        // Go takes a leading @ or NUL for the abstract name space.
        if path.starts_with('/') && path.len() <= MAX_SOCKET_PATH && !path.contains('\0') {
            Ok(Self(path))
        } else {
            Err(GuestApiError::Unusable(
                "a socket in the guest has an absolute path of at most 107 bytes",
            ))
        }
    }
}

impl fmt::Display for TunnelTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Without the zone and flow of an IPv6 address: those of this side mean nothing in the guest.
            Self::Tcp(address) | Self::Udp(address) => {
                SocketAddr::new(address.ip(), address.port()).fmt(f)
            }
            Self::Unix(SocketPath(path)) => f.write_str(path),
        }
    }
}

impl TunnelTarget {
    /// The network in Go's words.
    fn network(&self) -> &'static str {
        match self {
            Self::Tcp(_) => "tcp",
            Self::Udp(_) => "udp",
            Self::Unix(_) => "unix",
        }
    }
}

/// What every message of a tunnel repeats, encoded: the fields before the payload, and the one after it.
#[derive(Debug)]
pub(super) struct Envelope {
    before: Bytes,
    after: Bytes,
}

impl Envelope {
    /// The label for the agent's log is made like Lima's: network, address and a number.
    pub(super) fn new(target: &TunnelTarget, number: u64) -> Self {
        let network = target.network();
        let before = TunnelMessage {
            id: format!("{network}-{target}-{number}"),
            protocol: network.to_owned(),
            ..TunnelMessage::default()
        };
        let after = TunnelMessage {
            guest_addr: target.to_string(),
            ..TunnelMessage::default()
        };
        Self {
            before: before.encode_to_vec().into(),
            after: after.encode_to_vec().into(),
        }
    }

    /// The first message, which has the agent dial.
    pub(super) fn handshake(&self) -> Bytes {
        let mut message = BytesMut::with_capacity(self.framed_length(0));
        put_prefix(&mut message, self.before.len() + self.after.len());
        message.put_slice(&self.before);
        message.put_slice(&self.after);
        message.freeze()
    }

    /// A message up to its payload of so many bytes, with room for the rest.
    pub(super) fn open(&self, payload: usize) -> BytesMut {
        let mut message = BytesMut::with_capacity(self.framed_length(payload));
        put_prefix(&mut message, self.framed_length(payload) - PREFIX);
        message.put_slice(&self.before);
        message.put_u8(DATA_KEY);
        prost::encode_length_delimiter(payload, &mut message).unwrap_or_default();
        message
    }

    /// Ends a message whose payload has been put in.
    pub(super) fn close(&self, mut message: BytesMut) -> Bytes {
        message.put_slice(&self.after);
        message.freeze()
    }

    /// Length on the wire of a message with such a payload.
    pub(super) fn framed_length(&self, payload: usize) -> usize {
        let field = 1 + prost::length_delimiter_len(payload) + payload;
        PREFIX + self.before.len() + field + self.after.len()
    }
}

/// Key of the payload's field.
#[allow(clippy::cast_possible_truncation, reason = "the value is 0x1a")]
const DATA_KEY: u8 = (DATA << 3 | LENGTH) as u8;

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(framed: &Bytes) -> TunnelMessage {
        let length = u32::try_from(framed.len() - PREFIX).unwrap();
        assert_eq!(framed[0], 0);
        assert_eq!(framed[1..PREFIX], length.to_be_bytes());
        TunnelMessage::decode(&framed[PREFIX..]).unwrap()
    }

    #[test]
    fn messages_are_those_of_limas_client() {
        let target = TunnelTarget::Tcp("127.0.0.1:80".parse().unwrap());
        let envelope = Envelope::new(&target, 1);
        let handshake = b"\0\0\0\0\x27\x0a\x12tcp-127.0.0.1:80-1\x12\x03tcp\x22\x0c127.0.0.1:80";
        assert_eq!(envelope.handshake(), handshake[..]);
        for length in [1, 127, 128, 32 * 1024] {
            let mut message = envelope.open(length);
            let capacity = message.capacity();
            message.put_bytes(7, length);
            let message = envelope.close(message);
            assert_eq!(message.len(), envelope.framed_length(length));
            assert_eq!(message.len(), capacity, "one allocation");
            let expected = TunnelMessage {
                id: "tcp-127.0.0.1:80-1".into(),
                protocol: "tcp".into(),
                data: vec![7; length],
                guest_addr: "127.0.0.1:80".into(),
                udp_target_addr: String::new(),
            };
            assert_eq!(decoded(&message), expected);
        }
    }

    #[test]
    fn addresses_are_written_as_go_reads_them() {
        let written = |target: TunnelTarget| {
            let message = decoded(&Envelope::new(&target, 9).handshake());
            (message.protocol, message.guest_addr)
        };
        let udp = TunnelTarget::Udp("[fe80::1%3]:53".parse().unwrap());
        assert_eq!(written(udp), ("udp".into(), "[fe80::1]:53".into()));
        let unix = TunnelTarget::Unix(SocketPath::new("/run/docker.sock").unwrap());
        assert_eq!(written(unix), ("unix".into(), "/run/docker.sock".into()));
    }

    #[test]
    fn paths_that_no_socket_can_have_are_refused() {
        let long = format!("/{}", "x".repeat(107));
        for path in ["", "run/x.sock", "@abstract", "/a\0b", &long] {
            assert!(SocketPath::new(path).is_err(), "{path:?}");
        }
        assert!(SocketPath::new(&long[..107]).is_ok());
    }
}
