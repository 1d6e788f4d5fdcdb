//! The JSON of an event: one object on one line of the agent's stdout.
//!
//! The keys are those that Lima's CLI reads, in Lima's order; `phase` is ours, and Lima's CLI ignores it. A value that is
//! empty is left out.

use jiff::Timestamp;
use jiff::tz::Offset;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The moment of an event, written as RFC 3339 with nine digits after the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventTime {
    /// When.
    pub at: Timestamp,
    /// The local offset it is written with. Lost when an event is read back.
    pub offset: Offset,
}

impl Serialize for EventTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!(
            "{:.9}",
            self.at.display_with_offset(self.offset)
        ))
    }
}

impl<'de> Deserialize<'de> for EventTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let at = text.parse().map_err(serde::de::Error::custom)?;
        Ok(Self {
            at,
            offset: Offset::UTC,
        })
    }
}

/// One event.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// When it was written.
    pub time: EventTime,
    /// What Lima's CLI looks at.
    #[serde(default)]
    pub status: Status,
    /// A phase that began or ended, for the progress display of `berth start`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<PhaseEvent>,
}

/// What is the case, and what has just happened.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "independent flags on Lima's wire"
)]
pub struct Status {
    /// The instance is ready. Repeated in every event for as long as it is.
    #[serde(skip_serializing_if = "is_false")]
    pub running: bool,
    /// It is ready, and something does not work.
    #[serde(skip_serializing_if = "is_false")]
    pub degraded: bool,
    /// The agent ends: the last event.
    #[serde(skip_serializing_if = "is_false")]
    pub exiting: bool,
    /// What does not work, or why the agent ends.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<String>,
    /// Port of the guest's sshd on the host; 0: not known yet. Repeated in every event but the last.
    #[serde(skip_serializing_if = "is_zero")]
    pub ssh_local_port: u16,
    /// cloud-init has said something.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cloud_init_progress: Option<CloudInitProgress>,
    /// A port forward has changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port_forward: Option<PortForwardEvent>,
    /// SSH over vsock was set up or not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vsock: Option<VsockEvent>,
}

/// News of cloud-init.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CloudInitProgress {
    /// A line of its log, escaped.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub log_line: String,
    /// It has finished.
    #[serde(skip_serializing_if = "is_false")]
    pub completed: bool,
    /// It is being watched.
    #[serde(skip_serializing_if = "is_false")]
    pub active: bool,
}

/// News of a port forward.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortForwardEvent {
    /// What happened.
    #[serde(rename = "type")]
    pub kind: PortForwardKind,
    /// `tcp` or `udp`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub protocol: String,
    /// `ip:port` (IPv6 in brackets) or a path in the guest.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub guest_addr: String,
    /// `ip:port` (IPv6 in brackets) or a path on the host.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub host_addr: String,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub error: String,
}

/// What happened to a port forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PortForwardKind {
    /// It listens on the host.
    Forwarding,
    /// A rule says that the port stays inside.
    NotForwarding,
    /// It is being taken down.
    Stopping,
    /// It could not be set up.
    Failed,
}

/// News of SSH over vsock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VsockEvent {
    /// What happened.
    #[serde(rename = "type")]
    pub kind: VsockKind,
    /// `ip:port` on the host.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub host_addr: String,
    /// vsock port in the guest.
    #[serde(default, skip_serializing_if = "is_zero_u32")]
    pub vsock_port: u32,
    /// Why not.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

/// What happened to SSH over vsock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "Lima's own words")]
pub enum VsockKind {
    Started,
    Skipped,
    Failed,
}

/// A phase that began or ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PhaseEvent {
    /// The phase, as in the timeline.
    pub name: String,
    /// How it stands.
    pub outcome: PhaseOutcome,
    /// How long it took; absent while it is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elapsed_ms: Option<u64>,
}

/// How a phase stands, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PhaseOutcome {
    /// It began.
    Started,
    /// It did what it should.
    Ok,
    /// It did not do all it should; the agent goes on.
    Degraded,
    /// It did not work.
    Failed,
    /// There was nothing to do, or no sense in it.
    Skipped,
}

/// A line is no event.
#[derive(Debug, thiserror::Error)]
#[error("not an event of the host agent: {line:?}")]
pub struct EventError {
    /// The beginning of the line.
    line: String,
    /// What the JSON parser says.
    source: serde_json::Error,
}

impl Event {
    /// Reads one line; `None` when it is empty. Keys that this build does not know are ignored.
    pub fn parse(line: &[u8]) -> Result<Option<Self>, EventError> {
        let line = line.trim_ascii();
        if line.is_empty() {
            return Ok(None);
        }
        serde_json::from_slice(line).map(Some).map_err(|source| {
            let beginning = &line[..line.len().min(200)];
            EventError {
                line: String::from_utf8_lossy(beginning).into_owned(),
                source,
            }
        })
    }
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_false(flag: &bool) -> bool {
    !flag
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(number: &u16) -> bool {
    *number == 0
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero_u32(number: &u32) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(status: Status) -> String {
        let at: Timestamp = "2026-11-23T18:57:30Z".parse().unwrap();
        let time = EventTime {
            at,
            offset: Offset::constant(1),
        };
        serde_json::to_string(&Event {
            time,
            status,
            phase: None,
        })
        .unwrap()
    }

    #[test]
    fn the_time_is_local_and_has_a_fraction() {
        assert_eq!(
            json(Status::default()),
            r#"{"time":"2026-11-23T19:57:30.000000000+01:00","status":{}}"#
        );
    }

    #[test]
    fn keys_stand_in_limas_order_and_empty_ones_are_left_out() {
        let status = Status {
            running: true,
            degraded: true,
            exiting: true,
            errors: vec!["a".into(), "b".into()],
            ssh_local_port: 60022,
            cloud_init_progress: Some(CloudInitProgress::default()),
            port_forward: Some(PortForwardEvent {
                kind: PortForwardKind::NotForwarding,
                protocol: "tcp".into(),
                guest_addr: "[::1]:80".into(),
                host_addr: String::new(),
                error: String::new(),
            }),
            vsock: Some(VsockEvent {
                kind: VsockKind::Started,
                host_addr: "127.0.0.1:60022".into(),
                vsock_port: 22,
                reason: String::new(),
            }),
        };
        assert_eq!(
            json(status),
            concat!(
                r#"{"time":"2026-11-23T19:57:30.000000000+01:00","status":{"running":true,"degraded":true,"#,
                r#""exiting":true,"errors":["a","b"],"sshLocalPort":60022,"cloudInitProgress":{},"#,
                r#""portForward":{"type":"not-forwarding","protocol":"tcp","guestAddr":"[::1]:80"},"#,
                r#""vsock":{"type":"started","hostAddr":"127.0.0.1:60022","vsockPort":22}}}"#
            )
        );
    }

    #[test]
    fn what_limas_agent_writes_is_read() {
        let line = br#"{"time":"2026-11-23T19:57:30.5+01:00","status":{"running":true,"sshLocalPort":1,"new":[]},"x":1}"#;
        let event = Event::parse(line).unwrap().unwrap();
        assert!(event.status.running && event.status.ssh_local_port == 1);
        assert_eq!(event.time.at.to_string(), "2026-11-23T18:57:30.5Z");
        assert!(Event::parse(b"  \r").unwrap().is_none());
    }

    #[test]
    fn what_is_no_event_is_shown_and_cut() {
        for garbage in [
            &b"Press Ctrl-C"[..],
            b"[]",
            b"{\"time\":\"noon\"}",
            b"{}",
            b"\xff",
            b"{\"status\":",
        ] {
            let why = Event::parse(garbage).unwrap_err();
            assert!(why.to_string().starts_with("not an event"), "{why}");
        }
        let long = "x".repeat(1 << 20);
        assert!(Event::parse(long.as_bytes()).unwrap_err().to_string().len() < 300);
    }
}
