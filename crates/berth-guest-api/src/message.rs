//! The messages of `guestservice.proto`, field by field as Lima 2.2 numbers them.
//!
//! What the guest may send without end (ports, tunnelled data) is read field by field instead and never becomes one of these;
//! the tests measure that reading against them.

use std::time::{Duration, SystemTime};

/// A point in time (`google.protobuf.Timestamp`).
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Timestamp {
    /// Seconds since 1970, UTC.
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    /// Nanoseconds after that, 0 to 999,999,999.
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let whole = |since: Duration| i64::try_from(since.as_secs()).unwrap_or(i64::MAX);
        // Below a billion, so the sign is not touched.
        let nanos = |since: Duration| since.subsec_nanos().cast_signed();
        match time.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(since) => Self {
                seconds: whole(since),
                nanos: nanos(since),
            },
            // Before 1970 the nanoseconds still count forward.
            Err(before) => match (whole(before.duration()), nanos(before.duration())) {
                (seconds, 0) => Self {
                    seconds: -seconds,
                    nanos: 0,
                },
                (seconds, nanos) => Self {
                    seconds: -seconds - 1,
                    nanos: 1_000_000_000 - nanos,
                },
            },
        }
    }
}

/// Nothing (`google.protobuf.Empty`).
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Empty {}

/// A listening port in the guest.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct IpPort {
    /// `tcp` or `udp`.
    #[prost(string, tag = "1")]
    pub protocol: String,
    /// Address in text, without brackets or zone.
    #[prost(string, tag = "2")]
    pub ip: String,
    /// Port number.
    #[prost(int32, tag = "3")]
    pub port: i32,
}

/// Answer of `GetInfo`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Info {
    /// Every listening port.
    #[prost(message, repeated, tag = "1")]
    pub local_ports: Vec<IpPort>,
}

/// One change, as `GetEvents` streams them.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Event {
    /// The guest's clock when the change was seen.
    #[prost(message, optional, tag = "1")]
    pub time: Option<Timestamp>,
    /// Ports that began to listen.
    #[prost(message, repeated, tag = "2")]
    pub added_local_ports: Vec<IpPort>,
    /// Ports that ceased to listen.
    #[prost(message, repeated, tag = "3")]
    pub removed_local_ports: Vec<IpPort>,
    /// What went wrong in the guest.
    #[prost(string, repeated, tag = "4")]
    pub errors: Vec<String>,
}

/// A file event on the host, for `PostInotify`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Inotify {
    /// Absolute path of the file in the guest.
    #[prost(string, tag = "1")]
    pub mount_path: String,
    /// The file's modification time on the host.
    #[prost(message, optional, tag = "2")]
    pub time: Option<Timestamp>,
}

/// A piece of a connection or a datagram, for `Tunnel`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct TunnelMessage {
    /// Label for logs.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Network in Go's words (`tcp`, `udp`, `unix`).
    #[prost(string, tag = "2")]
    pub protocol: String,
    /// Payload.
    #[prost(bytes = "vec", tag = "3")]
    pub data: Vec<u8>,
    /// `host:port`, IPv6 in brackets; a path for `unix`.
    #[prost(string, tag = "4")]
    pub guest_addr: String,
    /// Never used by either side.
    #[prost(string, tag = "5")]
    pub udp_target_addr: String,
}

/// Request of `SyncTime`.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct TimeSyncRequest {
    /// The host's clock.
    #[prost(message, optional, tag = "1")]
    pub host_time: Option<Timestamp>,
}

/// Answer of `SyncTime`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct TimeSyncResponse {
    /// The guest's clock was set.
    #[prost(bool, tag = "1")]
    pub adjusted: bool,
    /// Guest minus host before that, in milliseconds.
    #[prost(int64, tag = "2")]
    pub drift_ms: i64,
    /// Why the clock could not be set; empty when nothing went wrong.
    #[prost(string, tag = "3")]
    pub error: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_count_forward_too() {
        let half = Duration::from_millis(500);
        let stamp = |seconds, nanos| Timestamp { seconds, nanos };
        let epoch = SystemTime::UNIX_EPOCH;
        assert_eq!(Timestamp::from(epoch + half), stamp(0, 500_000_000));
        assert_eq!(Timestamp::from(epoch - half), stamp(-1, 500_000_000));
        assert_eq!(
            Timestamp::from(epoch - Duration::from_secs(2)),
            stamp(-2, 0)
        );
    }
}
