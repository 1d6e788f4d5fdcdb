//! The handshake: how two ends find each other on a byte stream that may still hold an earlier peer's bytes.
//!
//! Three frames of one fixed layout, all numbers big endian:
//!
//! | bytes | content |
//! |---|---|
//! | 0–7 | [`MAGIC`] |
//! | 8–9 | protocol version |
//! | 10 | 1 HELLO, 2 ACK, 3 KNOCK |
//! | 11 | 0 |
//! | 12–27 | session id (HELLO, ACK) |
//! | 28–43 | boot id (ACK) |
//! | 44–59 | agent version, ASCII, padded with zeros (ACK) |
//! | 60–63 | CRC-32 (IEEE) of bytes 0–59 |
//!
//! What a kind does not use is zero when sent and ignored when read.

use std::fmt;

use crate::event::BootId;

/// How every greeting begins. The first byte is no frame kind and no ASCII; CR LF shows a carrier that rewrites line ends.
pub const MAGIC: [u8; 8] = *b"\xb5berth\r\n";

/// Length of every greeting, in bytes.
pub const GREETING_LEN: usize = 64;

/// The protocol version that this build speaks, and the only one so far.
pub const VERSION: u16 = 1;

/// Longest agent version that fits into an ACK, in bytes.
pub const MAX_AGENT_VERSION: usize = 16;

const KIND_HELLO: u8 = 1;
const KIND_ACK: u8 = 2;
const KIND_KNOCK: u8 = 3;
const CHECKED: usize = GREETING_LEN - 4;

/// Names one session; chosen at random by the host.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SessionId(pub [u8; 16]);

impl SessionId {
    /// Makes a new one from the system's random numbers.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut id = [0; 16];
        getrandom::fill(&mut id)?;
        Ok(Self(id))
    }
}

impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SessionId(")?;
        for byte in self.0 {
            write!(f, "{byte:02x}")?;
        }
        write!(f, ")")
    }
}

/// The host begins a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hello {
    /// The highest protocol version that the host speaks.
    pub version: u16,
    /// The new session.
    pub session: SessionId,
}

impl Hello {
    /// The version that both ends speak.
    #[must_use]
    pub fn agreed_version(&self) -> u16 {
        self.version.min(VERSION)
    }
}

/// The guest joins a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ack {
    /// The protocol version of the session: the lower of both ends'.
    pub version: u16,
    /// The session of the HELLO that it answers.
    pub session: SessionId,
    /// Which boot of the guest.
    pub boot_id: BootId,
    /// Version of the guest agent: printable ASCII, at most [`MAX_AGENT_VERSION`] bytes.
    pub agent_version: String,
}

/// One of the three frames outside of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Greeting {
    /// Host to guest: a new session begins here.
    Hello(Hello),
    /// Guest to host: joined; frames of the session follow.
    Ack(Ack),
    /// Guest to host: I have just opened the port, or lost my place; whatever session there was is over.
    Knock,
}

impl Greeting {
    /// The frame's bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; GREETING_LEN] {
        let mut frame = [0; GREETING_LEN];
        frame[..8].copy_from_slice(&MAGIC);
        let (version, kind) = match self {
            Self::Hello(hello) => {
                frame[12..28].copy_from_slice(&hello.session.0);
                (hello.version, KIND_HELLO)
            }
            Self::Ack(ack) => {
                frame[12..28].copy_from_slice(&ack.session.0);
                frame[28..44].copy_from_slice(&ack.boot_id.0);
                let agent = ack.agent_version.as_bytes();
                let length = agent.len().min(MAX_AGENT_VERSION);
                frame[44..44 + length].copy_from_slice(&agent[..length]);
                (ack.version, KIND_ACK)
            }
            Self::Knock => (VERSION, KIND_KNOCK),
        };
        frame[8..10].copy_from_slice(&version.to_be_bytes());
        frame[10] = kind;
        let checksum = crc32(&frame[..CHECKED]);
        frame[CHECKED..].copy_from_slice(&checksum.to_be_bytes());
        frame
    }

    /// Reads a frame; `None` when it is none, whatever the reason.
    #[must_use]
    pub fn decode(frame: &[u8; GREETING_LEN]) -> Option<Self> {
        let checksum = u32::from_be_bytes(array(&frame[CHECKED..]));
        if frame[..8] != MAGIC || crc32(&frame[..CHECKED]) != checksum {
            return None;
        }
        let version = u16::from_be_bytes(array(&frame[8..10]));
        let session = SessionId(array(&frame[12..28]));
        match frame[10] {
            _ if version == 0 => None,
            KIND_HELLO => Some(Self::Hello(Hello { version, session })),
            KIND_ACK => {
                let padded = &frame[44..CHECKED];
                let length = padded
                    .iter()
                    .rposition(|byte| *byte != 0)
                    .map_or(0, |at| at + 1);
                let agent = &padded[..length];
                if !agent.iter().all(u8::is_ascii_graphic) {
                    return None;
                }
                Some(Self::Ack(Ack {
                    version,
                    session,
                    boot_id: BootId(array(&frame[28..44])),
                    agent_version: String::from_utf8_lossy(agent).into_owned(),
                }))
            }
            KIND_KNOCK => Some(Self::Knock),
            _ => None,
        }
    }
}

/// Finds greetings in a stream of arbitrary bytes.
///
/// Holds at most one frame, looks at each byte a bounded number of times, and accepts every byte sequence.
#[derive(Debug)]
pub struct Scanner {
    held: [u8; GREETING_LEN],
    len: usize,
    skipped: u64,
}

impl Default for Scanner {
    fn default() -> Self {
        Self {
            held: [0; GREETING_LEN],
            len: 0,
            skipped: 0,
        }
    }
}

impl Scanner {
    /// Bytes so far that belonged to no greeting.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Takes bytes off the front of `input` until a greeting is complete, or all of them.
    pub fn scan(&mut self, input: &mut &[u8]) -> Option<Greeting> {
        while let Some((&byte, rest)) = input.split_first() {
            if self.len < MAGIC.len() {
                *input = rest;
                self.match_magic(byte);
                continue;
            }
            let taken = input.len().min(GREETING_LEN - self.len);
            self.held[self.len..self.len + taken].copy_from_slice(&input[..taken]);
            self.len += taken;
            *input = &input[taken..];
            if self.len == GREETING_LEN {
                let greeting = Greeting::decode(&self.held);
                if greeting.is_some() {
                    self.len = 0;
                    return greeting;
                }
                self.resume_inside();
            }
        }
        None
    }

    /// Follows [`MAGIC`] by one byte. Its first byte occurs only once in it, so a mismatch starts over at most one byte in.
    fn match_magic(&mut self, byte: u8) {
        if byte == MAGIC[self.len] {
            self.held[self.len] = byte;
            self.len += 1;
            return;
        }
        self.skipped += self.len as u64;
        self.len = usize::from(byte == MAGIC[0]);
        self.held[0] = byte;
        self.skipped += u64::from(self.len == 0);
    }

    /// Looks for the next magic behind the first byte of a held frame that is none.
    fn resume_inside(&mut self) {
        let held = self.held;
        self.len = 0;
        self.skipped += 1;
        let mut rest = &held[1..];
        // One byte short of a frame: this cannot find one.
        let found = self.scan(&mut rest);
        debug_assert!(found.is_none());
    }
}

/// A slice of exactly the array's length, as an array.
fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut copy = [0; N];
    copy.copy_from_slice(bytes);
    copy
}

/// CRC-32 as in IEEE 802.3 and zlib. Two frames a session: a table would cost more than it saves.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |mut crc, byte| {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            let lowest_set = 0u32.wrapping_sub(crc & 1);
            crc = crc >> 1 ^ 0xedb8_8320 & lowest_set;
        }
        crc
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ack() -> Greeting {
        Greeting::Ack(Ack {
            version: VERSION,
            session: SessionId(*b"0123456789abcdef"),
            boot_id: BootId(*b"BOOTbootBOOTboot"),
            agent_version: "0.1.0".into(),
        })
    }

    fn hello() -> Greeting {
        Greeting::Hello(Hello {
            version: VERSION,
            session: SessionId(*b"0123456789abcdef"),
        })
    }

    fn find_all(bytes: &[u8], chunk: usize) -> Vec<Greeting> {
        let mut scanner = Scanner::default();
        let mut found = Vec::new();
        for mut piece in bytes.chunks(chunk.max(1)) {
            while let Some(greeting) = scanner.scan(&mut piece) {
                found.push(greeting);
            }
        }
        found
    }

    #[test]
    fn checksum_is_the_common_one() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn a_greeting_right_behind_a_cut_one_is_found() {
        let frame = hello().encode();
        for cut in 0..GREETING_LEN {
            let mut bytes = frame[..cut].to_vec();
            bytes.extend(ack().encode());
            assert_eq!(find_all(&bytes, 7), [ack()], "cut at {cut}");
        }
    }

    #[test]
    fn one_flipped_bit_anywhere_makes_it_no_greeting() {
        let frame = ack().encode();
        for bit in 0..GREETING_LEN * 8 {
            let mut flipped = frame;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Greeting::decode(&flipped), None, "bit {bit}");
        }
    }

    #[test]
    fn skipped_bytes_are_counted_exactly() {
        let mut scanner = Scanner::default();
        let mut bytes = b"\xb5\xb5ber junk".to_vec();
        bytes.extend(Greeting::Knock.encode());
        bytes.extend(b"after");
        let mut input = &bytes[..];
        assert_eq!(scanner.scan(&mut input), Some(Greeting::Knock));
        assert_eq!((scanner.skipped(), input), (10, &b"after"[..]));
    }

    #[test]
    fn an_agent_version_that_could_steer_a_terminal_is_refused() {
        let mut frame = ack().encode();
        frame[44] = 0x1b;
        let checksum = crc32(&frame[..CHECKED]);
        frame[CHECKED..].copy_from_slice(&checksum.to_be_bytes());
        assert_eq!(Greeting::decode(&frame), None);
    }

    /// Garbage that is likely to come close: pieces of real frames between random bytes.
    fn near_miss() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..80),
            (0..GREETING_LEN).prop_map(|cut| hello().encode()[..cut].to_vec()),
            (0..GREETING_LEN, any::<u8>()).prop_map(|(at, byte)| {
                let mut frame = ack().encode();
                frame[at] = frame[at].wrapping_add(byte | 1);
                frame.to_vec()
            }),
            Just(MAGIC.repeat(9)),
        ];
        proptest::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn whatever_comes_before_it_a_greeting_is_found(garbage in near_miss(), chunk in 1..200usize) {
            let mut bytes = garbage;
            bytes.extend(ack().encode());
            prop_assert_eq!(find_all(&bytes, chunk).pop(), Some(ack()));
        }

        #[test]
        fn pieces_change_nothing(garbage in near_miss(), chunk in 1..200usize) {
            prop_assert_eq!(find_all(&garbage, chunk), find_all(&garbage, usize::MAX));
        }
    }
}
