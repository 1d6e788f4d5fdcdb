//! What can go wrong while talking to Lima's guest agent.

use std::io;
use std::time::Duration;

/// Why a call failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum GuestApiError {
    /// No answer in time; an agent that hangs, or nobody behind the socket.
    #[error("Lima's guest agent did not answer {method} within {after:?}")]
    TimedOut {
        /// Method without the service's name.
        method: &'static str,
        /// How long it had.
        after: Duration,
    },
    /// The connection broke before or during the call: it has to be made anew.
    #[error("the connection to Lima's guest agent broke during {method}: {why}")]
    Lost {
        /// Method without the service's name.
        method: &'static str,
        /// What broke.
        why: String,
    },
    /// The agent reset the call's stream; the connection lives.
    #[error("Lima's guest agent reset {method}: {why}")]
    Reset {
        /// Method without the service's name.
        method: &'static str,
        /// HTTP/2's reason.
        why: String,
    },
    /// The agent answered with a gRPC error.
    #[error("{method} of Lima's guest agent failed: {message} ({code})")]
    Failed {
        /// Method without the service's name.
        method: &'static str,
        /// gRPC's name of the status.
        code: &'static str,
        /// The reason, often in the agent's own words, escaped, at most 1 KiB.
        message: String,
        /// What that is in the words of this side's system.
        kind: io::ErrorKind,
    },
    /// The agent sent what is no answer.
    #[error("Lima's guest agent answered {method} with {what}")]
    Malformed {
        /// Method without the service's name.
        method: &'static str,
        /// What was wrong with it.
        what: &'static str,
    },
    /// Every place for a tunnel stayed taken until the deadline.
    #[error("all {most} tunnels to Lima's guest agent are in use")]
    Full {
        /// How many there can be.
        most: usize,
    },
    /// What was asked for cannot be told to the agent.
    #[error("{0}")]
    Unusable(&'static str),
}

impl GuestApiError {
    /// The kind of an I/O error that says the same.
    #[must_use]
    pub fn kind(&self) -> io::ErrorKind {
        match self {
            Self::TimedOut { .. } => io::ErrorKind::TimedOut,
            Self::Lost { .. } => io::ErrorKind::NotConnected,
            Self::Reset { .. } => io::ErrorKind::ConnectionReset,
            Self::Failed { kind, .. } => *kind,
            Self::Malformed { .. } => io::ErrorKind::InvalidData,
            Self::Full { .. } => io::ErrorKind::QuotaExceeded,
            Self::Unusable(_) => io::ErrorKind::InvalidInput,
        }
    }

    /// What ended a stream. Only a broken connection ends more than that.
    pub(crate) fn from_h2(method: &'static str, error: &h2::Error) -> Self {
        if error.is_go_away() || error.is_io() {
            return Self::lost(method, error);
        }
        let why = printable(&chain(error), MAX_TEXT);
        Self::Reset { method, why }
    }

    /// What keeps streams from being opened.
    pub(crate) fn lost(method: &'static str, error: &h2::Error) -> Self {
        let why = printable(&chain(error), MAX_TEXT);
        Self::Lost { method, why }
    }

    /// What trailers or headers say; `message` as it stands in them. `None`: all is well.
    pub(crate) fn from_status(method: &'static str, code: &[u8], message: &[u8]) -> Option<Self> {
        let code = std::str::from_utf8(code).ok();
        let code = code.and_then(|code| code.parse().ok()).unwrap_or(UNKNOWN);
        if code == 0 {
            return None;
        }
        let message = percent_decoded(message);
        Some(Self::Failed {
            method,
            code: STATUS_NAMES.get(code).unwrap_or(&STATUS_NAMES[UNKNOWN]),
            kind: kind_of(code, &message),
            message: printable(&message, MAX_TEXT),
        })
    }
}

impl From<GuestApiError> for io::Error {
    fn from(error: GuestApiError) -> Self {
        Self::new(error.kind(), error)
    }
}

/// Longest text of the guest's in an error, in bytes.
const MAX_TEXT: usize = 1024;

/// gRPC's status codes from 0, in its own words.
const STATUS_NAMES: [&str; 17] = [
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
const UNKNOWN: usize = 2;

/// How Go's errors of a dial end, and what they are here.
const DIAL_ERRORS: &[(&str, io::ErrorKind)] = &[
    ("connection refused", io::ErrorKind::ConnectionRefused),
    ("network is unreachable", io::ErrorKind::NetworkUnreachable),
    ("no route to host", io::ErrorKind::HostUnreachable),
    ("connection timed out", io::ErrorKind::TimedOut),
    ("i/o timeout", io::ErrorKind::TimedOut),
    ("permission denied", io::ErrorKind::PermissionDenied),
    ("operation not permitted", io::ErrorKind::PermissionDenied),
    ("no such file or directory", io::ErrorKind::NotFound),
    (
        "cannot assign requested address",
        io::ErrorKind::AddrNotAvailable,
    ),
    ("connection reset by peer", io::ErrorKind::ConnectionReset),
];

fn kind_of(code: usize, message: &str) -> io::ErrorKind {
    // Whatever a dial meets, Lima's agent calls it unknown: only its text tells.
    let told = DIAL_ERRORS.iter().find(|(end, _)| message.ends_with(end));
    match (told, code) {
        (Some((_, kind)), _) => *kind,
        (None, 1 | 10) => io::ErrorKind::ConnectionAborted,
        (None, 3) => io::ErrorKind::InvalidInput,
        (None, 4) => io::ErrorKind::TimedOut,
        (None, 5) => io::ErrorKind::NotFound,
        (None, 7 | 16) => io::ErrorKind::PermissionDenied,
        (None, 8) => io::ErrorKind::QuotaExceeded,
        (None, 12) => io::ErrorKind::Unsupported,
        (None, 14) => io::ErrorKind::NotConnected,
        (None, _) => io::ErrorKind::Other,
    }
}

/// gRPC's `grpc-message`: `%` and two hexadecimal digits stand for a byte.
fn percent_decoded(text: &[u8]) -> String {
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

/// An error and its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let inner = error.to_string();
        if !text.contains(&inner) {
            text = format!("{text}: {inner}");
        }
        cause = error.source();
    }
    text
}

/// The guest's text, safe to print: control characters escaped, cut at `limit` bytes.
pub(crate) fn printable(text: &str, limit: usize) -> String {
    let mut shown = String::with_capacity(text.len().min(limit));
    for c in text.chars() {
        let escaped = c.escape_debug();
        let plain = c == '\'' || c == '"' || c == '\\';
        let length = if plain {
            1
        } else {
            escaped.clone().map(char::len_utf8).sum()
        };
        if shown.len() + length > limit {
            break;
        }
        if plain {
            shown.push(c);
        } else {
            shown.extend(escaped);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_never_reach_a_terminal() {
        assert_eq!(
            printable("a\x1b[2Jb \"c\" ü\u{202e}", 100),
            "a\\u{1b}[2Jb \"c\" ü\\u{202e}"
        );
    }

    #[test]
    fn a_failed_dial_is_known_by_the_end_of_its_text() {
        let kind = |message: &[u8]| {
            let error = GuestApiError::from_status("Tunnel", b"2", message);
            error.unwrap().kind()
        };
        let refused = b"dial tcp 127.0.0.1:1: connect: connection refused";
        assert_eq!(kind(refused), io::ErrorKind::ConnectionRefused);
        let unreachable = b"dial tcp [2001:db8::1]:1: connect: network is unreachable";
        assert_eq!(kind(unreachable), io::ErrorKind::NetworkUnreachable);
        assert_eq!(kind(b"connection refused, said he"), io::ErrorKind::Other);
    }

    #[test]
    fn a_status_that_is_none_is_an_error_too() {
        assert!(GuestApiError::from_status("Tunnel", b"0", b"").is_none());
        for code in [&b"\xff"[..], b"", b"-1", b"99999999999999999999", b"77"] {
            let error = GuestApiError::from_status("Tunnel", code, b"%1b%zz%e4%4").unwrap();
            let text = "Tunnel of Lima's guest agent failed: \\u{1b}%zz\u{fffd}%4 (unknown error)";
            assert_eq!(error.to_string(), text);
        }
    }

    #[test]
    fn a_cut_falls_between_characters() {
        assert_eq!(printable("üüü", 5), "üü");
        assert_eq!(printable("ab\x1b", 4), "ab");
    }
}
