//! gRPC's status codes, and how their text travels.

use std::fmt::{self, Write as _};

/// A status code other than "ok". Its text is gRPC's own name for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code(usize);

impl Code {
    /// What a handler answers whose failure has no code.
    pub const UNKNOWN: Self = Self(2);
    /// The caller's request makes no sense.
    pub const INVALID_ARGUMENT: Self = Self(3);
    /// The request came, and was not whole in time.
    pub const DEADLINE_EXCEEDED: Self = Self(4);
    /// The message is too large.
    pub const RESOURCE_EXHAUSTED: Self = Self(8);
    /// Not in this state.
    pub const FAILED_PRECONDITION: Self = Self(9);
    /// There is no such method.
    pub const UNIMPLEMENTED: Self = Self(12);
    /// Something that must not happen.
    pub const INTERNAL: Self = Self(13);

    /// Reads a code; `None`: ok. What is no number, or none of gRPC's, is [`Code::UNKNOWN`].
    #[must_use]
    pub fn read(text: &[u8]) -> Option<Self> {
        let number = std::str::from_utf8(text)
            .ok()
            .and_then(|text| text.parse().ok());
        match number {
            Some(0) => None,
            Some(code) if code < NAMES.len() => Some(Self(code)),
            _ => Some(Self::UNKNOWN),
        }
    }

    /// Its number on the wire.
    #[must_use]
    pub fn number(self) -> usize {
        self.0
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(NAMES.get(self.0).unwrap_or(&"unknown error"))
    }
}

/// gRPC's status codes from 0, in its own words.
const NAMES: [&str; 17] = [
    "ok",
    "cancelled",
    "unknown error",
    "invalid argument",
    "deadline exceeded",
    "not found",
    "already exists",
    "permission denied",
    "resource exhausted",
    "failed precondition",
    "aborted",
    "out of range",
    "not implemented",
    "internal error",
    "unavailable",
    "data loss",
    "not authenticated",
];

/// Reads `grpc-message`: `%` and two hexadecimal digits stand for a byte.
pub(crate) fn percent_decoded(text: &[u8]) -> String {
    let digit = |at: usize| text.get(at).and_then(|d| char::from(*d).to_digit(16));
    let mut bytes = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        let escaped = (byte == b'%')
            .then(|| Some(digit(at + 1)? * 16 + digit(at + 2)?))
            .flatten()
            .and_then(|byte| u8::try_from(byte).ok());
        at += if escaped.is_some() { 3 } else { 1 };
        bytes.push(escaped.unwrap_or(byte));
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Writes `grpc-message`.
pub(crate) fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if (b' '..=b'~').contains(&byte) && byte != b'%' {
            encoded.push(char::from(byte));
        } else {
            // Writing to a String does not fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_that_are_none_count_as_unknown() {
        assert_eq!(Code::read(b"0"), None);
        assert_eq!(Code::read(b"13"), Some(Code::INTERNAL));
        for code in [&b"\xff"[..], b"", b"-1", b"99999999999999999999", b"77"] {
            assert_eq!(Code::read(code), Some(Code::UNKNOWN));
        }
    }

    #[test]
    fn text_comes_back_as_it_was() {
        let text = "100% of \"it\"\nünd\x1b\0~";
        let encoded = percent_encoded(text);
        assert!(encoded.bytes().all(|byte| (b' '..=b'~').contains(&byte)));
        assert_eq!(percent_decoded(encoded.as_bytes()), text);
        assert_eq!(percent_decoded(b"%1b%zz%e4%4"), "\x1b%zz\u{fffd}%4");
    }
}
