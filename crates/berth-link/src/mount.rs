//! What host and guest tell each other about one mount of the host's files (sshfs in the guest, SFTP from the host).
//!
//! The host opens a stream of kind [`crate::flow::FlowKind::Mount`], and orders. The guest prepares the mount point and says
//! *ready*; then the host opens a stream of kind [`crate::flow::FlowKind::MountData`] with the same number, on which it serves SFTP.
//! The guest says *mounted* when the kernel's table has the mount, and *failed* whenever it has it no more. Either stream's end is
//! the mount's end.
//!
//! Each message is a u32 with its length, at most [`MAX_MESSAGE`], then protobuf ([`crate::message::MountAsk`],
//! [`crate::message::MountTold`]).

use bytes::BytesMut;

pub use crate::conversation::{MAX_MESSAGE, TalkError};
use crate::conversation::{Messages, take};
use crate::message::{self as wire, MountAsk, MountAskKind, MountTold, MountToldKind};
use crate::mux::LinkStream;
use crate::text;

/// Longest path of an order, in bytes: Linux has none that are longer.
pub const MAX_PATH: usize = 4095;
/// Longest reason of a failure, in bytes.
pub const MAX_REASON: usize = 1024;

/// What the host wants to have mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is an option of its own"
)]
pub struct MountOrder {
    /// Directory in the guest: absolute, any character but NUL, at most [`MAX_PATH`] bytes.
    pub point: String,
    /// Path that the host's SFTP server is asked for: any character but NUL, at most [`MAX_PATH`] bytes.
    pub source: String,
    /// Whether the guest may write. The host enforces it, too.
    pub writable: bool,
    /// Whether sshfs keeps attributes and directories for a while.
    pub cache: bool,
    /// Whether symbolic links are followed on the host.
    pub follow_symlinks: bool,
    /// Whether what belongs to the owner of the shared directory is shown as the guest user's.
    pub map_owner: bool,
    /// Whether changes will be told by [`crate::files`]: then a mount that programs may not write to is one that the agent can touch
    /// files in.
    pub file_events: bool,
}

/// What the host says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ask {
    /// Mount this: the first message, and only the first.
    Order(MountOrder),
    /// Write everything out, and unmount.
    Unmount,
}

/// What the guest says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    /// The data stream may come.
    Ready,
    /// The kernel's table has it, and it answered.
    Mounted,
    /// It is not mounted, or not any more: why, as text that may be printed.
    Failed(String),
    /// It was unmounted as asked. Everything that was closed is written.
    Unmounted {
        /// Programs have files open. They go on using the data stream until they close them.
        busy: bool,
    },
}

/// The host's end.
#[derive(Debug)]
pub struct HostEnd(Messages);

impl HostEnd {
    /// Talks over a stream of kind [`crate::flow::FlowKind::Mount`].
    #[must_use]
    pub fn new(stream: LinkStream) -> Self {
        Self(Messages::new(stream))
    }

    /// Says something.
    pub async fn ask(&mut self, ask: Ask) -> Result<(), TalkError> {
        if let Ask::Order(order) = &ask {
            check(order)?;
        }
        self.0.send(&MountAsk::from(ask)).await
    }

    /// Waits for what the guest says next. May be cancelled and called again.
    pub async fn told(&mut self) -> Result<Told, TalkError> {
        loop {
            let MountTold { kind } = self.0.next().await?;
            if let Some(kind) = kind {
                return Told::try_from(kind);
            }
        }
    }
}

/// The guest's end.
#[derive(Debug)]
pub struct GuestEnd(Messages);

impl GuestEnd {
    /// Talks over a stream of kind [`crate::flow::FlowKind::Mount`].
    #[must_use]
    pub fn new(stream: LinkStream) -> Self {
        Self(Messages::new(stream))
    }

    /// Tells something.
    pub async fn tell(&mut self, told: Told) -> Result<(), TalkError> {
        self.0.send(&MountTold::from(told)).await
    }

    /// Ends the conversation after the last word, once the host has heard it.
    pub async fn finish(self) -> Result<(), TalkError> {
        self.0.finish().await
    }

    /// Waits for what the host says next. May be cancelled and called again.
    pub async fn asked(&mut self) -> Result<Ask, TalkError> {
        loop {
            let MountAsk { kind } = self.0.next().await?;
            if let Some(kind) = kind {
                return Ask::try_from(kind);
            }
        }
    }
}

/// Reads what a guest wrote; what the fuzzer calls.
#[doc(hidden)]
pub fn read_told(bytes: &[u8]) -> Result<Vec<Told>, TalkError> {
    let mut held = BytesMut::from(bytes);
    let mut all = Vec::new();
    while let Some(MountTold { kind }) = take(&mut held)? {
        all.extend(kind.map(Told::try_from).transpose()?);
    }
    Ok(all)
}

fn check(order: &MountOrder) -> Result<(), TalkError> {
    path("mount point", &order.point)?;
    // What the server understands: on Windows, paths begin otherwise.
    path("source", &format!("/{}", order.source))
}

fn path(field: &'static str, path: &str) -> Result<(), TalkError> {
    let refuse = |problem: String| Err(TalkError::Field { field, problem });
    if path.len() > MAX_PATH {
        return refuse(format!("is longer than {MAX_PATH} bytes"));
    }
    if !path.starts_with('/') || path.contains('\0') {
        return refuse("is no absolute path".to_owned());
    }
    Ok(())
}

impl From<Ask> for MountAsk {
    fn from(ask: Ask) -> Self {
        let kind = match ask {
            Ask::Order(order) => MountAskKind::Order(wire::MountOrder {
                point: order.point,
                source: order.source,
                writable: order.writable,
                cache: order.cache,
                follow_symlinks: order.follow_symlinks,
                map_owner: order.map_owner,
                file_events: order.file_events,
            }),
            Ask::Unmount => MountAskKind::Unmount(()),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<MountAskKind> for Ask {
    type Error = TalkError;

    fn try_from(kind: MountAskKind) -> Result<Self, TalkError> {
        let order = match kind {
            MountAskKind::Order(order) => MountOrder {
                point: order.point,
                source: order.source,
                writable: order.writable,
                cache: order.cache,
                follow_symlinks: order.follow_symlinks,
                map_owner: order.map_owner,
                file_events: order.file_events,
            },
            MountAskKind::Unmount(()) => return Ok(Self::Unmount),
        };
        check(&order)?;
        Ok(Self::Order(order))
    }
}

impl From<Told> for MountTold {
    fn from(told: Told) -> Self {
        let kind = match told {
            Told::Ready => MountToldKind::Ready(()),
            Told::Mounted => MountToldKind::Mounted(()),
            Told::Failed(why) => MountToldKind::Failed(wire::MountFailure {
                why: text::tail(&why, MAX_REASON),
            }),
            Told::Unmounted { busy } => MountToldKind::Unmounted(wire::Unmounted { busy }),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<MountToldKind> for Told {
    type Error = TalkError;

    fn try_from(kind: MountToldKind) -> Result<Self, TalkError> {
        Ok(match kind {
            MountToldKind::Ready(()) => Self::Ready,
            MountToldKind::Mounted(()) => Self::Mounted,
            MountToldKind::Failed(wire::MountFailure { why }) => {
                Self::Failed(text::tail(&why, MAX_REASON))
            }
            MountToldKind::Unmounted(wire::Unmounted { busy }) => Self::Unmounted { busy },
        })
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    fn order() -> MountOrder {
        MountOrder {
            point: "/mnt/a\nb \u{202e}".to_owned(),
            source: "/".to_owned(),
            writable: true,
            cache: false,
            follow_symlinks: true,
            map_owner: false,
            file_events: true,
        }
    }

    #[test]
    fn orders_survive_the_wire_with_any_character() {
        let sent = MountAsk::from(Ask::Order(order()));
        let read = MountAsk::decode(&*sent.encode_to_vec()).unwrap();
        let read = Ask::try_from(read.kind.unwrap()).unwrap();
        assert_eq!(read, Ask::Order(order()));
    }

    #[test]
    fn paths_that_no_system_has_are_refused_on_both_sides() {
        for point in ["", "a", "/a\0b", &format!("/{}", "x".repeat(MAX_PATH))] {
            let bad = MountOrder {
                point: point.to_owned(),
                ..order()
            };
            assert!(check(&bad).is_err(), "{point:?}");
            let kind = MountAsk::from(Ask::Order(bad)).kind.unwrap();
            assert!(matches!(
                Ask::try_from(kind),
                Err(TalkError::Field { field, .. }) if field == "mount point"
            ));
        }
    }

    #[test]
    fn what_a_hostile_guest_says_is_cut_escaped_and_bounded() {
        let long = format!("\u{1b}[2J{}", "x".repeat(5000));
        let told = MountToldKind::Failed(wire::MountFailure { why: long });
        let Told::Failed(why) = Told::try_from(told).unwrap() else {
            panic!("a failure");
        };
        assert!(why.len() <= MAX_REASON && !why.contains('\u{1b}'), "{why}");
        let huge = [0xff; 8];
        assert!(matches!(
            read_told(&huge),
            Err(TalkError::TooLong(u32::MAX))
        ));
        let begun = [0, 0, 0x40, 0, 0];
        assert!(read_told(&begun).unwrap().is_empty(), "the rest is to come");
        let nonsense = [0, 0, 0, 1, 0xff];
        assert!(matches!(
            read_told(&nonsense),
            Err(TalkError::Undecodable(_))
        ));
        let later = [0, 0, 0, 2, 0x7a, 0];
        assert!(read_told(&later).unwrap().is_empty(), "of a later version");
    }
}
