//! The header that every stream opens with: what kind of flow it is and where it goes.
//!
//! On the wire: one byte for the kind (1 control, 2 TCP, 3 UDP, 4 unix, 5 unix as root, 6 reverse, 7 mount, 8 mount data, 9 time,
//! 10 files), then the address in UTF-8, without length: it fills the rest of the frame.

use std::fmt;

/// What a stream carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FlowKind {
    /// The control messages of [`crate::message`]; exactly one per session, opened by the host.
    Control,
    /// Bytes of a TCP connection to `address` (`ip:port`).
    Tcp,
    /// Datagrams to `address` (`ip:port`).
    Udp,
    /// Bytes of a connection to the unix socket `address` (absolute path), made with the rights of the instance's user.
    Unix,
    /// The same with the rights of root.
    UnixAsRoot,
    /// Bytes of a connection that came to a listener in the guest, opened by the guest; `address` is the listener's id
    /// ([`crate::event::ReverseListener`]), decimal.
    Reverse,
    /// The messages of [`crate::mount`] about one mount; `address` is a number that the host gives it, decimal.
    Mount,
    /// Bytes between sshfs in the guest and the host's SFTP server; `address` is the number of the mount.
    MountData,
    /// The messages of [`crate::time`].
    Time,
    /// The messages of [`crate::files`].
    Files,
}

/// Longest address in bytes: a unix path is at most 108.
pub const MAX_ADDRESS: usize = 255;

/// Longest header on the wire, in bytes.
pub const MAX_HEADER: usize = 1 + MAX_ADDRESS;

/// Kind and address of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FlowHeader {
    kind: FlowKind,
    address: String,
}

/// Why a header is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FlowHeaderError {
    /// Longer than [`MAX_ADDRESS`].
    #[error("the address of a stream has {0} bytes, more than {MAX_ADDRESS}")]
    TooLong(usize),
    /// Not UTF-8, or control characters in it.
    #[error("the address of a stream is not printable text")]
    NotText,
    /// No kind at all, or an address where none belongs, or none where one does.
    #[error("the header of a stream is incomplete or too long for its kind")]
    Shape,
    /// A kind of a later version.
    #[error("stream kind {0} is not known")]
    UnknownKind(u8),
}

impl FlowHeader {
    /// The control stream's.
    #[must_use]
    pub fn control() -> Self {
        Self {
            kind: FlowKind::Control,
            address: String::new(),
        }
    }

    /// A flow to `address`. The address is checked for length and characters only: what it means is the guest's affair.
    pub fn new(kind: FlowKind, address: impl Into<String>) -> Result<Self, FlowHeaderError> {
        let address = address.into();
        if address.len() > MAX_ADDRESS {
            return Err(FlowHeaderError::TooLong(address.len()));
        }
        if address.chars().any(char::is_control) {
            return Err(FlowHeaderError::NotText);
        }
        let goes_nowhere = matches!(kind, FlowKind::Control | FlowKind::Time | FlowKind::Files);
        if goes_nowhere != address.is_empty() {
            return Err(FlowHeaderError::Shape);
        }
        Ok(Self { kind, address })
    }

    /// The header of a connection that came to listener `id`.
    #[must_use]
    pub fn reverse(id: u32) -> Self {
        Self {
            kind: FlowKind::Reverse,
            address: id.to_string(),
        }
    }

    /// The header of the messages about mount `id`.
    #[must_use]
    pub fn mount(id: u32) -> Self {
        Self {
            kind: FlowKind::Mount,
            address: id.to_string(),
        }
    }

    /// The header of the data of mount `id`.
    #[must_use]
    pub fn mount_data(id: u32) -> Self {
        Self {
            kind: FlowKind::MountData,
            address: id.to_string(),
        }
    }

    /// The header of the messages about the clock.
    #[must_use]
    pub fn time() -> Self {
        Self {
            kind: FlowKind::Time,
            address: String::new(),
        }
    }

    /// The header of the messages about changes of files.
    #[must_use]
    pub fn files() -> Self {
        Self {
            kind: FlowKind::Files,
            address: String::new(),
        }
    }

    /// Which mount the stream belongs to; `None` for other kinds.
    #[must_use]
    pub fn mount_id(&self) -> Option<u32> {
        let is_mount = matches!(self.kind, FlowKind::Mount | FlowKind::MountData);
        is_mount.then(|| self.address.parse().ok()).flatten()
    }

    /// Which listener the connection came to; `None` for other kinds.
    #[must_use]
    pub fn listener(&self) -> Option<u32> {
        let is_reverse = self.kind == FlowKind::Reverse;
        is_reverse.then(|| self.address.parse().ok()).flatten()
    }

    /// What the stream carries.
    #[must_use]
    pub fn kind(&self) -> FlowKind {
        self.kind
    }

    /// Where it goes; empty for [`FlowKind::Control`], [`FlowKind::Time`] and [`FlowKind::Files`].
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let kind = match self.kind {
            FlowKind::Control => 1,
            FlowKind::Tcp => 2,
            FlowKind::Udp => 3,
            FlowKind::Unix => 4,
            FlowKind::UnixAsRoot => 5,
            FlowKind::Reverse => 6,
            FlowKind::Mount => 7,
            FlowKind::MountData => 8,
            FlowKind::Time => 9,
            FlowKind::Files => 10,
        };
        let mut bytes = vec![kind];
        bytes.extend(self.address.as_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, FlowHeaderError> {
        let (kind, address) = bytes.split_first().ok_or(FlowHeaderError::Shape)?;
        let kind = match kind {
            1 => FlowKind::Control,
            2 => FlowKind::Tcp,
            3 => FlowKind::Udp,
            4 => FlowKind::Unix,
            5 => FlowKind::UnixAsRoot,
            6 => FlowKind::Reverse,
            7 => FlowKind::Mount,
            8 => FlowKind::MountData,
            9 => FlowKind::Time,
            10 => FlowKind::Files,
            other => return Err(FlowHeaderError::UnknownKind(*other)),
        };
        let address = std::str::from_utf8(address).map_err(|_| FlowHeaderError::NotText)?;
        Self::new(kind, address)
    }
}

impl fmt::Display for FlowHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            FlowKind::Control => return f.write_str("control"),
            FlowKind::Tcp => "tcp",
            FlowKind::Udp => "udp",
            FlowKind::Unix => "unix",
            FlowKind::UnixAsRoot => "unix (as root)",
            FlowKind::Reverse => "reverse",
            FlowKind::Mount => "mount",
            FlowKind::MountData => "mount data",
            FlowKind::Time => return f.write_str("time"),
            FlowKind::Files => return f.write_str("files"),
        };
        write!(f, "{kind} {}", self.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_survive_the_wire() {
        for header in [
            FlowHeader::control(),
            FlowHeader::new(FlowKind::Tcp, "[::1]:80").unwrap(),
            FlowHeader::new(FlowKind::Udp, "127.0.0.1:53").unwrap(),
            FlowHeader::new(FlowKind::Unix, "/run/döcker.sock").unwrap(),
            FlowHeader::new(FlowKind::UnixAsRoot, "/run/containerd.sock").unwrap(),
            FlowHeader::reverse(u32::MAX),
            FlowHeader::mount(0),
            FlowHeader::time(),
            FlowHeader::files(),
            FlowHeader::mount_data(u32::MAX),
        ] {
            assert_eq!(FlowHeader::decode(&header.encode()), Ok(header));
        }
    }

    #[test]
    fn every_malformed_header_is_named() {
        use FlowHeaderError::{NotText, Shape, TooLong, UnknownKind};
        for (bytes, error) in [
            (&b""[..], Shape),
            (b"\x01x", Shape),
            (b"\x02", Shape),
            (b"\x02a\nb", NotText),
            (b"\x02\xff", NotText),
            (b"\x09x", Shape),
            (b"\x0ax", Shape),
            (b"\x0bx", UnknownKind(11)),
            (&[4; 257], TooLong(256)),
        ] {
            assert_eq!(FlowHeader::decode(bytes), Err(error));
        }
    }

    #[test]
    fn only_streams_of_mounts_name_one() {
        assert_eq!(FlowHeader::mount(7).mount_id(), Some(7));
        assert_eq!(FlowHeader::mount_data(8).mount_id(), Some(8));
        assert_eq!(FlowHeader::reverse(7).mount_id(), None);
        let odd = FlowHeader::new(FlowKind::Mount, "/mnt").unwrap();
        assert_eq!(odd.mount_id(), None);
    }

    #[test]
    fn only_reverse_streams_name_a_listener() {
        assert_eq!(FlowHeader::reverse(42).listener(), Some(42));
        assert_eq!(FlowHeader::control().listener(), None);
        let of = |kind, address: &str| FlowHeader::new(kind, address).unwrap().listener();
        assert_eq!(of(FlowKind::Unix, "42"), None);
        assert_eq!(of(FlowKind::Reverse, "4294967296"), None);
        assert_eq!(of(FlowKind::Reverse, "-1"), None);
        assert_eq!(of(FlowKind::Reverse, "/run/x"), None);
    }
}
