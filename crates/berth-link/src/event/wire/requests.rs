//! What the host says and asks, to the wire and back.

use std::ops::RangeInclusive;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{at_most, field, too_long};
use crate::event::{
    MAX_SOCKET_PATH, MAX_UDP_RANGES, PortInterest, Request, ReverseListener, Welcome,
};
use crate::message::{self as wire, MessageError, RequestKind};

pub(crate) fn request(id: u64, request: Request) -> wire::HostMessage {
    wire::HostMessage {
        kind: Some(wire::HostKind::Request(wire::Request {
            id,
            kind: Some(request.into()),
        })),
    }
}

/// Whether the guest takes the request.
pub(crate) fn check(request: &Request) -> Result<(), MessageError> {
    match request {
        Request::WatchPorts(interest) => check_interest(interest),
        Request::Listen(listener) => check_listener(listener),
        _ => Ok(()),
    }
}

fn check_interest(interest: &PortInterest) -> Result<(), MessageError> {
    let ranges = &interest.udp_ranges;
    at_most("watch_ports.udp_ranges", ranges.len(), MAX_UDP_RANGES)?;
    if ranges.iter().any(RangeInclusive::is_empty) {
        return Err(field("watch_ports.udp_ranges", "holds an empty range"));
    }
    Ok(())
}

fn check_listener(listener: &ReverseListener) -> Result<(), MessageError> {
    let path = &listener.path;
    if path.len() > MAX_SOCKET_PATH {
        return Err(too_long("listen.path", MAX_SOCKET_PATH));
    }
    if !path.starts_with('/') || path.chars().any(char::is_control) {
        return Err(field("listen.path", "is no absolute path, or not text"));
    }
    Ok(())
}

impl From<Request> for RequestKind {
    fn from(request: Request) -> Self {
        match request {
            Request::FollowCloudInit => Self::FollowCloudInit(()),
            Request::Sync => Self::Sync(()),
            Request::Ping => Self::Ping(()),
            Request::WatchPorts(interest) => Self::WatchPorts(interest.into()),
            Request::Listen(ReverseListener { id, path }) => {
                Self::Listen(wire::ReverseListener { id, path })
            }
            Request::Unlisten { id } => Self::Unlisten(wire::Unlisten { id }),
        }
    }
}

impl TryFrom<RequestKind> for Request {
    type Error = MessageError;

    fn try_from(kind: RequestKind) -> Result<Self, MessageError> {
        let request = match kind {
            RequestKind::FollowCloudInit(()) => Self::FollowCloudInit,
            RequestKind::Sync(()) => Self::Sync,
            RequestKind::Ping(()) => Self::Ping,
            RequestKind::WatchPorts(interest) => Self::WatchPorts(interest.try_into()?),
            RequestKind::Listen(wire::ReverseListener { id, path }) => {
                Self::Listen(ReverseListener { id, path })
            }
            RequestKind::Unlisten(wire::Unlisten { id }) => Self::Unlisten { id },
        };
        check(&request)?;
        Ok(request)
    }
}

impl From<PortInterest> for wire::PortInterest {
    fn from(interest: PortInterest) -> Self {
        let range = |range: RangeInclusive<u16>| wire::PortRange {
            first: (*range.start()).into(),
            last: (*range.end()).into(),
        };
        Self {
            udp_ranges: interest.udp_ranges.into_iter().map(range).collect(),
            system_udp: interest.system_udp,
        }
    }
}

impl TryFrom<wire::PortInterest> for PortInterest {
    type Error = MessageError;

    fn try_from(interest: wire::PortInterest) -> Result<Self, MessageError> {
        let port = |port: u32| {
            u16::try_from(port)
                .map_err(|_| field("watch_ports.udp_ranges", format!("holds port {port}")))
        };
        let ranges = interest.udp_ranges.iter();
        Ok(Self {
            udp_ranges: ranges
                .map(|range| Ok(port(range.first)?..=port(range.last)?))
                .collect::<Result<_, MessageError>>()?,
            system_udp: interest.system_udp,
        })
    }
}

impl From<Welcome> for wire::HostMessage {
    fn from(welcome: Welcome) -> Self {
        // A host whose clock stands before 1970 sends 1970.
        let since = welcome
            .host_time
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        Self {
            kind: Some(wire::HostKind::Welcome(wire::Welcome {
                host_time_ns: u64::try_from(since.as_nanos()).unwrap_or(u64::MAX),
            })),
        }
    }
}

impl From<wire::Welcome> for Welcome {
    fn from(welcome: wire::Welcome) -> Self {
        let since = Duration::from_nanos(welcome.host_time_ns);
        Self {
            host_time: SystemTime::checked_add(&UNIX_EPOCH, since).unwrap_or(UNIX_EPOCH),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(path: &str) -> Request {
        Request::Listen(ReverseListener {
            id: 7,
            path: path.to_owned(),
        })
    }

    #[test]
    fn requests_survive_the_wire() {
        let interest = PortInterest {
            udp_ranges: vec![0..=0, 53..=53, 40_000..=u16::MAX],
            system_udp: true,
        };
        for request in [
            Request::FollowCloudInit,
            Request::Sync,
            Request::Ping,
            Request::WatchPorts(PortInterest::default()),
            Request::WatchPorts(interest),
            listener("/run/user/1000/docker.sock"),
            Request::Unlisten { id: u32::MAX },
        ] {
            assert_eq!(
                Request::try_from(RequestKind::from(request.clone())),
                Ok(request)
            );
        }
    }

    #[test]
    #[allow(clippy::reversed_empty_ranges, reason = "that is what is refused")]
    fn what_no_host_asks_is_named() {
        let watch = |first, last| {
            RequestKind::WatchPorts(wire::PortInterest {
                udp_ranges: vec![wire::PortRange { first, last }],
                system_udp: false,
            })
        };
        let many = Request::WatchPorts(PortInterest {
            udp_ranges: vec![1..=2; MAX_UDP_RANGES + 1],
            system_udp: false,
        });
        for (kind, why) in [
            (
                watch(2, 1),
                "field watch_ports.udp_ranges of a control message holds an empty range",
            ),
            (
                watch(1, 65536),
                "field watch_ports.udp_ranges of a control message holds port 65536",
            ),
            (
                many.into(),
                "list watch_ports.udp_ranges of a control message has 1025 entries, more than 1024",
            ),
            (
                listener("relative").into(),
                "field listen.path of a control message is no absolute path, or not text",
            ),
            (
                listener("/a\nb").into(),
                "field listen.path of a control message is no absolute path, or not text",
            ),
            (
                listener(&"/long".repeat(22)).into(),
                "field listen.path of a control message is longer than 107 bytes",
            ),
        ] {
            assert_eq!(Request::try_from(kind).unwrap_err().to_string(), why);
        }
    }
}
