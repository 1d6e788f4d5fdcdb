//! Messages about ports.

use prost::Message;

/// See [`crate::event::PortsUpdate`].
#[derive(Clone, PartialEq, Message)]
pub struct Ports {
    /// The added ones are all there are.
    #[prost(bool, tag = "1")]
    pub all: bool,
    /// The next message belongs to this one.
    #[prost(bool, tag = "2")]
    pub more: bool,
    /// New sockets.
    #[prost(message, repeated, tag = "3")]
    pub added: Vec<Socket>,
    /// Sockets that are gone.
    #[prost(message, repeated, tag = "4")]
    pub removed: Vec<Socket>,
    /// Sockets beyond those that are told.
    #[prost(uint32, tag = "5")]
    pub left_out: u32,
}

/// Transports by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum Transport {
    /// Not a transport.
    Unknown = 0,
    /// TCP.
    Tcp = 1,
    /// UDP.
    Udp = 2,
}

/// See [`crate::event::GuestSocket`].
#[derive(Clone, PartialEq, Message)]
pub struct Socket {
    /// Which one.
    #[prost(enumeration = "Transport", tag = "1")]
    pub transport: i32,
    /// 4 or 16 bytes.
    #[prost(bytes = "vec", tag = "2")]
    pub ip: Vec<u8>,
    /// 1 to 65535.
    #[prost(uint32, tag = "3")]
    pub port: u32,
    /// Interface of a link-local address.
    #[prost(uint32, tag = "4")]
    pub scope: u32,
}

/// See [`crate::event::PortInterest`].
#[derive(Clone, PartialEq, Message)]
pub struct PortInterest {
    /// Ports that count.
    #[prost(message, repeated, tag = "1")]
    pub udp_ranges: Vec<PortRange>,
    /// The system's own sockets count.
    #[prost(bool, tag = "2")]
    pub system_udp: bool,
}

/// Ports from the first to the last.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct PortRange {
    /// The first one.
    #[prost(uint32, tag = "1")]
    pub first: u32,
    /// The last one, not lower.
    #[prost(uint32, tag = "2")]
    pub last: u32,
}

/// See [`crate::event::ReverseListener`].
#[derive(Clone, PartialEq, Message)]
pub struct ReverseListener {
    /// Chosen by the host.
    #[prost(uint32, tag = "1")]
    pub id: u32,
    /// Where to listen.
    #[prost(string, tag = "2")]
    pub path: String,
}

/// Which listener is to end.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Unlisten {
    /// The one of [`ReverseListener`].
    #[prost(uint32, tag = "1")]
    pub id: u32,
}
