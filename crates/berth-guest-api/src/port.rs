//! Listening ports of the guest, checked.

use std::net::IpAddr;
use std::time::Duration;

use crate::fields::{Fields, Malformed, Value, text};
use berth_grpc::error::printable;

/// TCP or UDP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A port that something in the guest listens on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct GuestPort {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The address it is bound to.
    pub ip: IpAddr,
    /// Port number, never 0.
    pub port: u16,
}

impl GuestPort {
    /// Reads an `IPPort`; `None` when it names no such thing as a port.
    fn read(message: &[u8]) -> Option<Self> {
        let (mut protocol, mut ip, mut port) = (None, None, 0);
        for field in Fields::of(message) {
            match field.ok()? {
                (1, name) => protocol = text(name),
                (2, address) => ip = text(address),
                (3, Value::Number(number)) => port = number,
                _ => {}
            }
        }
        Some(Self {
            protocol: match protocol? {
                "tcp" => Protocol::Tcp,
                "udp" => Protocol::Udp,
                _ => return None,
            },
            ip: ip?.parse().ok()?,
            port: u16::try_from(port).ok().filter(|port| *port != 0)?,
        })
    }
}

/// Every listening port at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PortList {
    /// The ports; the same one may be listed more than once (`SO_REUSEPORT`).
    pub ports: Vec<GuestPort>,
    /// Entries left out because they named no port.
    pub malformed: usize,
}

/// What changed since the last message, of this stream or of the one before.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PortChanges {
    /// The guest's clock, since 1970; `None` when it sent none or one before 1970.
    pub time: Option<Duration>,
    /// Ports that began to listen; the same one may be listed more than once.
    pub added: Vec<GuestPort>,
    /// Ports that ceased to listen.
    pub removed: Vec<GuestPort>,
    /// What went wrong in the guest: at most [`MAX_ERRORS`] texts, escaped, at most 1 KiB each.
    pub errors: Vec<String>,
    /// Entries left out because they named no port.
    pub malformed: usize,
}

/// Most error texts that one event may bring.
pub const MAX_ERRORS: usize = 16;

impl PortList {
    /// Reads an `Info`.
    pub(crate) fn read(message: &[u8]) -> Result<Self, Malformed> {
        let mut list = Self::default();
        for field in Fields::of(message) {
            if let (1, Value::Bytes(entry)) = field? {
                keep(entry, &mut list.ports, &mut list.malformed);
            }
        }
        Ok(list)
    }
}

impl PortChanges {
    /// Reads an `Event`.
    pub(crate) fn read(message: &[u8]) -> Result<Self, Malformed> {
        let mut changes = Self::default();
        for field in Fields::of(message) {
            match field? {
                (1, Value::Bytes(time)) => changes.time = since_1970(time)?,
                (2, Value::Bytes(entry)) => {
                    keep(entry, &mut changes.added, &mut changes.malformed);
                }
                (3, Value::Bytes(entry)) => {
                    keep(entry, &mut changes.removed, &mut changes.malformed);
                }
                (4, Value::Bytes(error)) if changes.errors.len() < MAX_ERRORS => {
                    let error = String::from_utf8_lossy(error);
                    changes.errors.push(printable(&error, 1024));
                }
                _ => {}
            }
        }
        Ok(changes)
    }
}

fn keep(entry: &[u8], ports: &mut Vec<GuestPort>, malformed: &mut usize) {
    match GuestPort::read(entry) {
        Some(port) => ports.push(port),
        None => *malformed += 1,
    }
}

/// Reads a `Timestamp`; `None` before 1970 and for nanoseconds that are none.
fn since_1970(message: &[u8]) -> Result<Option<Duration>, Malformed> {
    let (mut seconds, mut nanos) = (0, 0);
    for field in Fields::of(message) {
        match field? {
            (1, Value::Number(number)) => seconds = number,
            (2, Value::Number(number)) => nanos = number,
            _ => {}
        }
    }
    // Negative numbers arrive as very large ones.
    let nanos = u32::try_from(nanos).ok().filter(|n| *n < 1_000_000_000);
    let seconds = i64::try_from(seconds).ok().map(i64::cast_unsigned);
    Ok(seconds
        .zip(nanos)
        .map(|(seconds, nanos)| Duration::new(seconds, nanos)))
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::message::{Event, Info, IpPort, Timestamp};

    fn entry(protocol: &str, ip: &str, port: i32) -> IpPort {
        IpPort {
            protocol: protocol.into(),
            ip: ip.into(),
            port,
        }
    }

    fn read(event: &Event) -> PortChanges {
        PortChanges::read(&event.encode_to_vec()).unwrap()
    }

    #[test]
    fn entries_that_name_no_port_are_counted_and_left_out() {
        let info = Info {
            local_ports: vec![
                entry("tcp", "127.0.0.1", 80),
                entry("udp", "::", 53),
                entry("sctp", "127.0.0.1", 80),
                entry("tcp", "localhost", 80),
                entry("tcp", "127.0.0.1", 0),
                entry("tcp", "127.0.0.1", 65536),
                entry("tcp", "127.0.0.1", -1),
                entry("", "", 0),
            ],
        };
        let list = PortList::read(&info.encode_to_vec()).unwrap();
        assert_eq!(list.malformed, 6);
        assert_eq!(list.ports[0].port, 80);
        assert_eq!(list.ports[1].protocol, Protocol::Udp);
        assert_eq!(list.ports.len(), 2);
    }

    #[test]
    fn changes_are_read_and_fields_of_later_versions_passed_over() {
        let event = Event {
            time: Some(Timestamp {
                seconds: 7,
                nanos: 8,
            }),
            added_local_ports: vec![entry("tcp", "::1", 1), entry("tcp", "::1", 1)],
            removed_local_ports: vec![entry("udp", "0.0.0.0", 2)],
            errors: Vec::new(),
        };
        let mut bytes = event.encode_to_vec();
        bytes.extend(b"\x7a\x01x\x78\x05");
        let changes = PortChanges::read(&bytes).unwrap();
        assert_eq!(changes.time, Some(Duration::new(7, 8)));
        assert_eq!((changes.added.len(), changes.removed.len()), (2, 1));
        assert_eq!(changes.malformed, 0);
    }

    #[test]
    fn a_million_empty_entries_take_no_memory() {
        let list = PortList::read(&b"\x0a\0".repeat(1_000_000)).unwrap();
        assert_eq!(list.malformed, 1_000_000);
        assert_eq!(list.ports.capacity(), 0);
    }

    #[test]
    fn a_clock_before_1970_or_with_odd_nanoseconds_is_no_clock() {
        for (seconds, nanos) in [(-1, 0), (0, -1), (0, 1_000_000_000), (i64::MIN, i32::MIN)] {
            let changes = read(&Event {
                time: Some(Timestamp { seconds, nanos }),
                ..Event::default()
            });
            assert_eq!(changes.time, None);
        }
    }

    #[test]
    fn errors_are_capped_and_escaped() {
        let changes = read(&Event {
            errors: vec!["\x1b]0;x\x07".repeat(1000); 100],
            ..Event::default()
        });
        assert_eq!(changes.errors.len(), MAX_ERRORS);
        assert!(
            changes
                .errors
                .iter()
                .all(|text| text.len() <= 1024 && !text.contains('\x1b'))
        );
    }
}
