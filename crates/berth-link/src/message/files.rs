//! Messages on the stream of file changes, as they travel.

use prost::Message;

/// Host to guest. See [`crate::files::Batch`].
#[derive(Clone, PartialEq, Message)]
pub struct FilesAsk {
    /// The mount point.
    #[prost(string, tag = "1")]
    pub point: String,
    /// What changed beneath it.
    #[prost(message, repeated, tag = "2")]
    pub changes: Vec<FileChange>,
}

/// See [`crate::files::Change`].
#[derive(Clone, PartialEq, Message)]
pub struct FileChange {
    /// Beneath the mount point.
    #[prost(bytes = "vec", tag = "1")]
    pub path: Vec<u8>,
    /// What its times are set to, since 1970.
    #[prost(uint64, tag = "2")]
    pub time_ns: u64,
}

/// Guest to host.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct FilesTold {
    /// The changes are done with; absent: a message of a later version.
    #[prost(message, optional, tag = "1")]
    pub done: Option<()>,
}
