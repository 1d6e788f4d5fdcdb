//! What can go wrong while talking to Lima's guest agent.

use std::io;

pub use berth_grpc::error::CallError;

/// Why a call failed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum GuestApiError {
    /// The call itself.
    #[error(transparent)]
    Call(#[from] CallError),
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
            Self::Call(why) => kind_of_call(why),
            Self::Full { .. } => io::ErrorKind::QuotaExceeded,
            Self::Unusable(_) => io::ErrorKind::InvalidInput,
        }
    }
}

impl From<GuestApiError> for io::Error {
    fn from(error: GuestApiError) -> Self {
        Self::new(error.kind(), error)
    }
}

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

fn kind_of_call(error: &CallError) -> io::ErrorKind {
    match error {
        CallError::TimedOut { .. } => io::ErrorKind::TimedOut,
        CallError::Lost { .. } => io::ErrorKind::NotConnected,
        CallError::Reset { .. } => io::ErrorKind::ConnectionReset,
        CallError::Failed { code, message, .. } => kind_of(code.number(), message),
        CallError::Malformed { .. } => io::ErrorKind::InvalidData,
        _ => io::ErrorKind::Other,
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_dial_is_known_by_the_end_of_its_text() {
        let kind = |message| kind_of(2, message);
        let refused = "dial tcp 127.0.0.1:1: connect: connection refused";
        assert_eq!(kind(refused), io::ErrorKind::ConnectionRefused);
        let unreachable = "dial tcp [2001:db8::1]:1: connect: network is unreachable";
        assert_eq!(kind(unreachable), io::ErrorKind::NetworkUnreachable);
        assert_eq!(kind("connection refused, said he"), io::ErrorKind::Other);
    }
}
