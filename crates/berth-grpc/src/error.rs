//! What can go wrong with a call.

use std::fmt;
use std::time::Duration;

use crate::status::{Code, percent_decoded};

/// A method of a service, and who serves it in words for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Method {
    /// `Lima's guest agent`.
    pub peer: &'static str,
    /// The service with its package: `GuestService`.
    pub service: &'static str,
    /// The method's own name.
    pub name: &'static str,
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

/// Why a call failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// No answer in time; a peer that hangs, or nobody behind the socket.
    #[error("{} did not answer {method} within {after:?}", .method.peer)]
    TimedOut {
        /// What was called.
        method: Method,
        /// How long it had.
        after: Duration,
    },
    /// The connection broke before or during the call: it has to be made anew.
    #[error("the connection to {} broke during {method}: {why}", .method.peer)]
    Lost {
        /// What was called.
        method: Method,
        /// What broke.
        why: String,
    },
    /// The peer reset the call's stream; the connection lives.
    #[error("{} reset {method}: {why}", .method.peer)]
    Reset {
        /// What was called.
        method: Method,
        /// HTTP/2's reason.
        why: String,
    },
    /// The peer answered with a gRPC error.
    #[error("{method} of {} failed: {message} ({code})", .method.peer)]
    Failed {
        /// What was called.
        method: Method,
        /// The status.
        code: Code,
        /// The reason, often in the peer's own words, escaped, at most 1 KiB.
        message: String,
    },
    /// The peer sent what is no answer.
    #[error("{} answered {method} with {what}", .method.peer)]
    Malformed {
        /// What was called.
        method: Method,
        /// What was wrong with it.
        what: &'static str,
    },
}

impl CallError {
    /// What ended a stream. Only a broken connection ends more than that.
    pub(crate) fn from_h2(method: Method, error: &h2::Error) -> Self {
        if error.is_go_away() || error.is_io() {
            return Self::lost(method, error);
        }
        let why = printable(&chain(error), MAX_TEXT);
        Self::Reset { method, why }
    }

    /// What keeps streams from being opened.
    #[must_use]
    pub fn lost(method: Method, error: &h2::Error) -> Self {
        let why = printable(&chain(error), MAX_TEXT);
        Self::Lost { method, why }
    }

    /// What trailers or headers say; `message` as it stands in them. `None`: all is well.
    pub(crate) fn from_status(method: Method, code: &[u8], message: &[u8]) -> Option<Self> {
        let code = Code::read(code)?;
        let message = printable(&percent_decoded(message), MAX_TEXT);
        Some(Self::Failed {
            method,
            code,
            message,
        })
    }
}

/// Longest text of the peer's in an error, in bytes.
const MAX_TEXT: usize = 1024;

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

/// A peer's text, safe to print: control characters escaped, cut at `limit` bytes.
#[must_use]
pub fn printable(text: &str, limit: usize) -> String {
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
    fn a_status_that_is_none_is_an_error_too() {
        let method = Method {
            peer: "Lima's guest agent",
            service: "GuestService",
            name: "Tunnel",
        };
        assert!(CallError::from_status(method, b"0", b"").is_none());
        let error = CallError::from_status(method, b"77", b"%1b%zz%e4%4").unwrap();
        let text = "Tunnel of Lima's guest agent failed: \\u{1b}%zz\u{fffd}%4 (unknown error)";
        assert_eq!(error.to_string(), text);
    }

    #[test]
    fn a_cut_falls_between_characters() {
        assert_eq!(printable("üüü", 5), "üü");
        assert_eq!(printable("ab\x1b", 4), "ab");
    }
}
