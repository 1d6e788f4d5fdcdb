//! What stands before every message.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message;

/// Length of the prefix: whether the message is compressed, and its length.
pub const PREFIX: usize = 5;

/// What a peer sent is no message; in words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(pub &'static str);

/// How large a message may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// 4 MiB: what Go's gRPC accepts by default.
    Mib4,
    /// 16 MiB: what Lima accepts of its drivers.
    Mib16,
}

impl Limit {
    /// In bytes.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Self::Mib4 => 4 << 20,
            Self::Mib16 => 16 << 20,
        }
    }

    /// Reads a prefix: the length of the message behind it.
    pub fn message_length(self, prefix: [u8; PREFIX]) -> Result<usize, Malformed> {
        let [compressed, length @ ..] = prefix;
        if compressed != 0 {
            return Err(Malformed("a compressed message"));
        }
        usize::try_from(u32::from_be_bytes(length))
            .ok()
            .filter(|length| *length <= self.bytes())
            .ok_or(Malformed(match self {
                Self::Mib4 => "a message above 4 MiB",
                Self::Mib16 => "a message above 16 MiB",
            }))
    }

    /// Takes a whole message off the front, if one is there.
    pub fn take_message(self, begun: &mut BytesMut) -> Result<Option<Bytes>, Malformed> {
        let Some(prefix) = begun.first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        let length = self.message_length(*prefix)?;
        if begun.len() - PREFIX < length {
            return Ok(None);
        }
        begun.advance(PREFIX);
        Ok(Some(begun.split_to(length).freeze()))
    }
}

/// A message with its prefix.
#[must_use]
pub fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(PREFIX + length);
    put_prefix(&mut bytes, length);
    // Fails only without room, and there is all it asked for.
    let _ = message.encode(&mut bytes);
    bytes.freeze()
}

/// Writes a prefix. No message of ours is near the four gigabytes that it can tell.
pub fn put_prefix(bytes: &mut BytesMut, length: usize) {
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_comes_out_when_it_is_whole() {
        let mut begun = BytesMut::new();
        for byte in [0, 0, 0, 0, 2, b'a'] {
            begun.put_u8(byte);
            assert_eq!(Limit::Mib4.take_message(&mut begun), Ok(None));
        }
        begun.extend_from_slice(b"bc");
        let message = Limit::Mib4.take_message(&mut begun);
        assert_eq!(message, Ok(Some(Bytes::from_static(b"ab"))));
        assert_eq!(&begun[..], b"c");
    }

    #[test]
    fn what_is_too_large_or_compressed_is_refused_by_its_prefix() {
        let large = 4_194_305_u32.to_be_bytes();
        let large = [0, large[0], large[1], large[2], large[3]];
        let refused = Limit::Mib4.message_length(large);
        assert_eq!(refused, Err(Malformed("a message above 4 MiB")));
        assert_eq!(Limit::Mib16.message_length(large), Ok(4_194_305));
        let huge = Limit::Mib16.message_length([0, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(huge, Err(Malformed("a message above 16 MiB")));
        let compressed = Limit::Mib4.message_length([1, 0, 0, 0, 0]);
        assert_eq!(compressed, Err(Malformed("a compressed message")));
    }
}
