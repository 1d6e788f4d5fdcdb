//! `portForwards[].hostIP`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

const LOCALHOST: &str = "localhost";

/// Where on the host a port forward listens.
///
/// Lima knows addresses only. `localhost` is berth's own word: both loopback addresses, as one listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum HostIp {
    /// One address.
    Address(IpAddr),
    /// `127.0.0.1` and `::1` together.
    Localhost,
}

/// A text is no place to listen at.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no IP address: write one, or `localhost` for 127.0.0.1 and ::1 together")]
pub struct HostIpError(String);

impl fmt::Display for HostIp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(ip) => ip.fmt(f),
            Self::Localhost => f.write_str(LOCALHOST),
        }
    }
}

impl FromStr for HostIp {
    type Err = HostIpError;

    fn from_str(text: &str) -> Result<Self, HostIpError> {
        if text == LOCALHOST {
            return Ok(Self::Localhost);
        }
        let address = text.parse().map_err(|_| HostIpError(text.to_owned()))?;
        Ok(Self::Address(address))
    }
}

impl TryFrom<String> for HostIp {
    type Error = HostIpError;

    fn try_from(text: String) -> Result<Self, HostIpError> {
        text.parse()
    }
}

impl From<HostIp> for String {
    fn from(ip: HostIp) -> Self {
        ip.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_lima_reads_them() {
        for text in ["127.0.0.1", "0.0.0.0", "::", "::1", "localhost"] {
            let ip: HostIp = text.parse().unwrap();
            let json = serde_json::to_string(&ip).unwrap();
            assert_eq!(json, format!("{text:?}"));
            assert_eq!(serde_json::from_str::<HostIp>(&json).unwrap(), ip);
        }
        for text in ["", "Localhost", "localhost.", "example.com", "127.0.0.1:80"] {
            assert!(text.parse::<HostIp>().is_err(), "{text:?}");
        }
    }
}
