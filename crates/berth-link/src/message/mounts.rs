//! Messages on the stream of a mount, as they travel.

use prost::{Message, Oneof};

/// Host to guest, on the stream of one mount.
#[derive(Clone, PartialEq, Message)]
pub struct MountAsk {
    /// Which message it is; none: one of a later version.
    #[prost(oneof = "MountAskKind", tags = "1, 2")]
    pub kind: Option<MountAskKind>,
}

/// What a host says there.
#[derive(Clone, PartialEq, Oneof)]
pub enum MountAskKind {
    /// The first message, and the only one of its kind.
    #[prost(message, tag = "1")]
    Order(MountOrder),
    /// Write everything out and unmount.
    #[prost(message, tag = "2")]
    Unmount(()),
}

/// See [`crate::mount::MountOrder`].
#[derive(Clone, PartialEq, Message)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is an option of its own"
)]
pub struct MountOrder {
    /// Where.
    #[prost(string, tag = "1")]
    pub point: String,
    /// Path that the SFTP server is asked for.
    #[prost(string, tag = "2")]
    pub source: String,
    /// Whether the guest may write.
    #[prost(bool, tag = "3")]
    pub writable: bool,
    /// Whether sshfs keeps attributes and directories.
    #[prost(bool, tag = "4")]
    pub cache: bool,
    /// Whether the host follows symbolic links.
    #[prost(bool, tag = "5")]
    pub follow_symlinks: bool,
    /// Whether the host's owner is shown as the guest's user.
    #[prost(bool, tag = "6")]
    pub map_owner: bool,
    /// Whether the agent is to raise file events there.
    #[prost(bool, tag = "7")]
    pub file_events: bool,
}

/// Guest to host, on the stream of one mount.
#[derive(Clone, PartialEq, Message)]
pub struct MountTold {
    /// Which message it is; none: one of a later version.
    #[prost(oneof = "MountToldKind", tags = "1, 2, 3, 4")]
    pub kind: Option<MountToldKind>,
}

/// What a guest says there.
#[derive(Clone, PartialEq, Oneof)]
pub enum MountToldKind {
    /// The stream with the data may come.
    #[prost(message, tag = "1")]
    Ready(()),
    /// It is mounted.
    #[prost(message, tag = "2")]
    Mounted(()),
    /// It is not, or not any more.
    #[prost(message, tag = "3")]
    Failed(MountFailure),
    /// It was unmounted, as asked.
    #[prost(message, tag = "4")]
    Unmounted(Unmounted),
}

/// Why there is no mount.
#[derive(Clone, PartialEq, Message)]
pub struct MountFailure {
    /// For people.
    #[prost(string, tag = "1")]
    pub why: String,
}

/// How an unmount ended.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Unmounted {
    /// Programs still have files open: the data stream is needed until they close them.
    #[prost(bool, tag = "1")]
    pub busy: bool,
}
