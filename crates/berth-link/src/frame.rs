//! Frames of a session: an eight-byte header, then the payload. All numbers are big endian.
//!
//! | bytes | content |
//! |---|---|
//! | 0 | kind |
//! | 1–3 | length of the payload |
//! | 4–7 | stream id; the host's are odd, the guest's even, each higher than the one before |
//!
//! | kind | payload | meaning |
//! |---|---|---|
//! | 1 OPEN | flow header, 1–256 bytes | a new stream; both directions begin with [`INITIAL_CREDIT`] |
//! | 2 DATA | 1–262144 bytes | the next bytes, at most as many as there is credit |
//! | 3 CREDIT | u32 | the receiver of this frame may send so many bytes more |
//! | 4 FIN | none | the sender will send no more; its other direction lives on |
//! | 5 RESET | u16 [`ResetCode`] | both directions are over, unread bytes are void |
//! | 6 BYE | none, stream 0 | the sender ends the session in good order |
//! | 7 RECALL | none | the receiver of this frame may return credit that it does not need now |
//! | 8 RETURN | u32 | the sender of this frame will send so many bytes less than it may |

use std::io;

use crate::flow::MAX_HEADER;
use crate::hello::MAGIC;

/// Length of a frame's header in bytes.
pub const HEADER_LEN: usize = 8;

/// Longest payload in bytes that comes from memory, or is kept there in one piece: what one system call copies well.
pub const MAX_PAYLOAD: usize = 64 * 1024;

/// Longest payload in bytes: what a pipe holds. Short enough that small frames need not wait long behind it.
pub const MAX_DATA: usize = 256 * 1024;

/// Bytes that each end may send on a new stream before it was given more. Small, because every stream may fill it at once.
pub const INITIAL_CREDIT: u32 = 8 * 1024;

/// Most credit that one direction may hold.
pub const MAX_CREDIT: u32 = 16 * 1024 * 1024;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameKind {
    /// A new stream.
    Open,
    /// Bytes.
    Data,
    /// More credit.
    Credit,
    /// End of one direction.
    Fin,
    /// End of both directions, in bad order.
    Reset,
    /// End of the session.
    Bye,
    /// A wish to have credit back.
    Recall,
    /// Less credit.
    Return,
}

impl FrameKind {
    const fn code(self) -> u8 {
        match self {
            Self::Open => 1,
            Self::Data => 2,
            Self::Credit => 3,
            Self::Fin => 4,
            Self::Reset => 5,
            Self::Bye => 6,
            Self::Recall => 7,
            Self::Return => 8,
        }
    }
}

/// A frame that no peer of this protocol sends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The kind's byte is none of ours.
    #[error("frame kind {0:#04x} does not exist")]
    Kind(u8),
    /// A payload that is too short or too long for the kind.
    #[error("a frame of kind {0:?} cannot have a payload of {1} bytes")]
    Length(FrameKind, u32),
    /// Stream 0 where a stream is needed, or another where none is.
    #[error("a frame of kind {0:?} cannot be about stream {1}")]
    Stream(FrameKind, u32),
    /// An id that is not the peer's to use, or not higher than its last.
    #[error("stream {0} was opened out of turn")]
    OutOfTurn(u32),
    /// A stream that was never opened.
    #[error("stream {0} was never opened")]
    NeverOpened(u32),
    /// More bytes than there was credit for.
    #[error("{excess} bytes beyond the credit of stream {stream}")]
    Overrun {
        /// Which stream.
        stream: u32,
        /// How many bytes too many.
        excess: u32,
    },
    /// Bytes or a second FIN after FIN.
    #[error("more frames on stream {0} after its FIN")]
    AfterFin(u32),
    /// Credit of nothing, or above [`MAX_CREDIT`], or more returned than there was.
    #[error("credit of stream {0} was changed by nothing, or by too much")]
    Credit(u32),
    /// The header of an OPEN cannot be read.
    #[error("stream {stream} was opened wrongly")]
    Open {
        /// Which stream.
        stream: u32,
        /// What is wrong.
        #[source]
        source: crate::flow::FlowHeaderError,
    },
    /// A greeting that does not belong here, or a damaged one.
    #[error("a greeting in the middle of the session that is damaged or not the peer's to send")]
    Greeting,
}

/// The head of one frame, checked by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// What it is.
    pub kind: FrameKind,
    /// Length of the payload in bytes, at most [`MAX_DATA`].
    pub length: usize,
    /// Which stream.
    pub stream: u32,
}

impl FrameHeader {
    /// Reads a header; everything that can be checked without knowing the streams is checked.
    pub fn decode(bytes: [u8; HEADER_LEN]) -> Result<Self, FrameError> {
        let [code, l0, l1, l2, s0, s1, s2, s3] = bytes;
        let kind = match code {
            1 => FrameKind::Open,
            2 => FrameKind::Data,
            3 => FrameKind::Credit,
            4 => FrameKind::Fin,
            5 => FrameKind::Reset,
            6 => FrameKind::Bye,
            7 => FrameKind::Recall,
            8 => FrameKind::Return,
            other => return Err(FrameError::Kind(other)),
        };
        let length = u32::from_be_bytes([0, l0, l1, l2]);
        let lengths = match kind {
            FrameKind::Open => 1..=MAX_HEADER,
            FrameKind::Data => 1..=MAX_DATA,
            FrameKind::Credit | FrameKind::Return => 4..=4,
            FrameKind::Fin | FrameKind::Bye | FrameKind::Recall => 0..=0,
            FrameKind::Reset => 2..=2,
        };
        let refused = FrameError::Length(kind, length);
        let length = usize::try_from(length).map_err(|_| refused.clone())?;
        if !lengths.contains(&length) {
            return Err(refused);
        }
        let stream = u32::from_be_bytes([s0, s1, s2, s3]);
        if (kind == FrameKind::Bye) != (stream == 0) {
            return Err(FrameError::Stream(kind, stream));
        }
        Ok(Self {
            kind,
            length,
            stream,
        })
    }

    pub(crate) fn encode(self) -> [u8; HEADER_LEN] {
        debug_assert!(self.length <= MAX_DATA);
        let [.., l0, l1, l2] = self.length.to_be_bytes();
        let [s0, s1, s2, s3] = self.stream.to_be_bytes();
        [self.kind.code(), l0, l1, l2, s0, s1, s2, s3]
    }
}

/// No frame kind can be taken for the first byte of a greeting.
const _: () = assert!(MAGIC[0] > 8);

/// Why a stream was reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ResetCode {
    /// The other end no longer wants it.
    #[error("the other end of the stream gave up")]
    Cancelled,
    /// Nothing listens at the address.
    #[error("connection refused in the guest")]
    Refused,
    /// No route to the address.
    #[error("address not reachable in the guest")]
    Unreachable,
    /// The dial took too long.
    #[error("connecting in the guest took too long")]
    TimedOut,
    /// The peer serves no such flows.
    #[error("the other end serves no such streams")]
    Unsupported,
    /// The peer has too many streams open.
    #[error("the other end has too many streams open")]
    TooMany,
    /// The peer may not open the address.
    #[error("permission denied in the guest")]
    Denied,
    /// The guest's boot has not come far enough to open the address.
    #[error("the guest is not ready for it yet")]
    NotReady,
    /// Anything else.
    #[error("the other end of the stream failed (code {0})")]
    Other(u16),
}

impl ResetCode {
    /// The code on the wire.
    #[must_use]
    pub fn code(self) -> u16 {
        match self {
            Self::Cancelled => 1,
            Self::Refused => 2,
            Self::Unreachable => 3,
            Self::TimedOut => 4,
            Self::Unsupported => 5,
            Self::TooMany => 6,
            Self::Denied => 7,
            Self::NotReady => 8,
            Self::Other(code) => code,
        }
    }

    /// Reads a code; unknown ones stay what they are.
    #[must_use]
    pub fn from_code(code: u16) -> Self {
        match code {
            1 => Self::Cancelled,
            2 => Self::Refused,
            3 => Self::Unreachable,
            4 => Self::TimedOut,
            5 => Self::Unsupported,
            6 => Self::TooMany,
            7 => Self::Denied,
            8 => Self::NotReady,
            other => Self::Other(other),
        }
    }

    /// The kind of I/O error that a reader or writer of the stream gets.
    #[must_use]
    pub fn io_kind(self) -> io::ErrorKind {
        match self {
            Self::Refused => io::ErrorKind::ConnectionRefused,
            Self::Unreachable => io::ErrorKind::HostUnreachable,
            Self::TimedOut => io::ErrorKind::TimedOut,
            Self::Unsupported => io::ErrorKind::Unsupported,
            Self::Denied => io::ErrorKind::PermissionDenied,
            Self::NotReady => io::ErrorKind::NetworkDown,
            Self::Cancelled | Self::TooMany | Self::Other(_) => io::ErrorKind::ConnectionReset,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(kind: u8, length: u32, stream: u32) -> [u8; HEADER_LEN] {
        let [_, l0, l1, l2] = length.to_be_bytes();
        let [s0, s1, s2, s3] = stream.to_be_bytes();
        [kind, l0, l1, l2, s0, s1, s2, s3]
    }

    #[test]
    fn headers_survive_the_wire() {
        for (kind, length) in [
            (FrameKind::Open, 256),
            (FrameKind::Data, MAX_DATA),
            (FrameKind::Credit, 4),
            (FrameKind::Fin, 0),
            (FrameKind::Reset, 2),
            (FrameKind::Recall, 0),
            (FrameKind::Return, 4),
        ] {
            let header = FrameHeader {
                kind,
                length,
                stream: 0x0102_0304,
            };
            assert_eq!(FrameHeader::decode(header.encode()), Ok(header));
        }
    }

    #[test]
    fn each_kind_takes_only_its_own_lengths() {
        for (kind, good, bad) in [
            (1, &[1, 256][..], &[0, 257][..]),
            (2, &[1, 262_144], &[0, 262_145, 0xff_ffff]),
            (3, &[4], &[0, 3, 5]),
            (4, &[0], &[1]),
            (5, &[2], &[0, 3]),
            (7, &[0], &[1]),
            (8, &[4], &[0, 5]),
        ] {
            for length in good {
                assert!(FrameHeader::decode(header(kind, *length, 1)).is_ok());
            }
            for length in bad {
                let error = FrameHeader::decode(header(kind, *length, 1)).unwrap_err();
                assert!(
                    matches!(error, FrameError::Length(..)),
                    "{kind} {length}: {error}"
                );
            }
        }
    }

    #[test]
    fn only_bye_is_about_stream_0() {
        assert!(FrameHeader::decode(header(6, 0, 0)).is_ok());
        assert_eq!(
            FrameHeader::decode(header(6, 0, 1)),
            Err(FrameError::Stream(FrameKind::Bye, 1))
        );
        assert_eq!(
            FrameHeader::decode(header(2, 1, 0)),
            Err(FrameError::Stream(FrameKind::Data, 0))
        );
    }

    #[test]
    fn unknown_kinds_are_refused() {
        for kind in [0, 9, MAGIC[0]] {
            assert_eq!(
                FrameHeader::decode(header(kind, 0, 1)),
                Err(FrameError::Kind(kind))
            );
        }
    }

    #[test]
    fn reset_codes_survive_the_wire() {
        for code in 0..20 {
            assert_eq!(ResetCode::from_code(code).code(), code);
        }
    }
}
