//! What the host tells about changes of shared files, on a stream of kind [`crate::flow::FlowKind::Files`].
//!
//! The guest gives each file the time that comes with it, so that its kernel tells those who watch it, and then says that it is done
//! with the batch. A file that is not there is passed over. Messages are framed as those about mounts.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prost::Message as _;

use crate::conversation::Messages;
pub use crate::conversation::{MAX_MESSAGE, TalkError};
use crate::message::{self as wire, FilesAsk, FilesTold};
use crate::mount::MAX_PATH;
use crate::mux::LinkStream;

/// How much the changes of a batch may cost, by [`Change::cost`]: with the mount point, they fit into a message.
pub const MAX_COST: usize = 12_000;

/// What a change takes in a message, besides its path.
const OVERHEAD: usize = 24;

/// Changes beneath one mount point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Directory in the guest: absolute, at most [`MAX_PATH`] bytes.
    pub point: String,
    /// What changed.
    pub changes: Vec<Change>,
}

/// One file or directory that changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Path beneath the mount point, which is the empty path: no `..` and no NUL, at most [`MAX_PATH`] bytes.
    pub path: Vec<u8>,
    /// What its times are set to.
    pub time: SystemTime,
}

impl Change {
    /// What it takes of [`MAX_COST`].
    #[must_use]
    pub fn cost(&self) -> usize {
        self.path.len() + OVERHEAD
    }
}

/// The host's end.
#[derive(Debug)]
pub struct HostEnd(Messages);

impl HostEnd {
    /// Talks over a stream of kind [`crate::flow::FlowKind::Files`].
    #[must_use]
    pub fn new(stream: LinkStream) -> Self {
        Self(Messages::new(stream))
    }

    /// Tells of changes, and waits until the guest is done with them.
    pub async fn tell(&mut self, batch: &Batch) -> Result<(), TalkError> {
        check(batch)?;
        let ask = FilesAsk::from(batch);
        let length = ask.encoded_len();
        if length > MAX_MESSAGE {
            let length = u32::try_from(length).unwrap_or(u32::MAX);
            return Err(TalkError::TooLong(length));
        }
        self.0.send(&ask).await?;
        loop {
            let FilesTold { done } = self.0.next().await?;
            if done.is_some() {
                return Ok(());
            }
        }
    }
}

/// The guest's end.
#[derive(Debug)]
pub struct GuestEnd(Messages);

impl GuestEnd {
    /// Talks over a stream of kind [`crate::flow::FlowKind::Files`].
    #[must_use]
    pub fn new(stream: LinkStream) -> Self {
        Self(Messages::new(stream))
    }

    /// Waits for the next changes.
    pub async fn told(&mut self) -> Result<Batch, TalkError> {
        let ask: FilesAsk = self.0.next().await?;
        let batch = Batch::try_from(ask)?;
        check(&batch)?;
        Ok(batch)
    }

    /// Says that the last changes are done with.
    pub async fn done(&mut self) -> Result<(), TalkError> {
        self.0.send(&FilesTold { done: Some(()) }).await
    }
}

fn check(batch: &Batch) -> Result<(), TalkError> {
    let refuse = |field, problem: &str| {
        let problem = problem.to_owned();
        Err(TalkError::Field { field, problem })
    };
    let point = &batch.point;
    if !point.starts_with('/') || point.contains('\0') || point.len() > MAX_PATH {
        return refuse("mount point", "is no absolute path");
    }
    let beneath = |change: &Change| {
        let path = &change.path;
        let climbs = path.split(|byte| *byte == b'/').any(|name| name == b"..");
        !climbs && !path.starts_with(b"/") && !path.contains(&0) && path.len() <= MAX_PATH
    };
    if !batch.changes.iter().all(beneath) {
        return refuse("path of a change", "is none beneath the mount point");
    }
    Ok(())
}

impl From<&Batch> for FilesAsk {
    fn from(batch: &Batch) -> Self {
        let change = |change: &Change| {
            let since = change.time.duration_since(UNIX_EPOCH).unwrap_or_default();
            wire::FileChange {
                path: change.path.clone(),
                time_ns: u64::try_from(since.as_nanos()).unwrap_or(u64::MAX),
            }
        };
        Self {
            point: batch.point.clone(),
            changes: batch.changes.iter().map(change).collect(),
        }
    }
}

impl TryFrom<FilesAsk> for Batch {
    type Error = TalkError;

    fn try_from(ask: FilesAsk) -> Result<Self, TalkError> {
        let change = |change: wire::FileChange| {
            let time = UNIX_EPOCH.checked_add(Duration::from_nanos(change.time_ns));
            let time = time.ok_or_else(|| TalkError::Field {
                field: "time of a change",
                problem: "is none".to_owned(),
            })?;
            Ok(Change {
                path: change.path,
                time,
            })
        };
        let changes = ask.changes.into_iter().map(change);
        Ok(Self {
            point: ask.point,
            changes: changes.collect::<Result<_, TalkError>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(paths: &[&[u8]]) -> Batch {
        let time = UNIX_EPOCH + Duration::from_nanos(1_700_000_000_123_456_789);
        let change = |path: &&[u8]| Change {
            path: path.to_vec(),
            time,
        };
        Batch {
            point: "/mnt/a b".to_owned(),
            changes: paths.iter().map(change).collect(),
        }
    }

    #[test]
    fn changes_survive_the_wire_whatever_their_names() {
        let sent = batch(&[b"", b"a/\xff\n", b"..a/b.."]);
        check(&sent).unwrap();
        let bytes = FilesAsk::from(&sent).encode_to_vec();
        let read = FilesAsk::decode(&*bytes).unwrap();
        assert_eq!(Batch::try_from(read).unwrap(), sent);
    }

    #[test]
    fn what_leads_out_of_the_share_is_refused() {
        for path in [
            &b"/etc"[..],
            b"..",
            b"a/../b",
            b"a\0",
            &[b'x'; MAX_PATH + 1],
        ] {
            assert!(check(&batch(&[path])).is_err(), "{path:?}");
        }
        let relative = Batch {
            point: "mnt".to_owned(),
            ..batch(&[])
        };
        assert!(check(&relative).is_err());
    }

    #[test]
    fn what_costs_no_more_than_allowed_fits_into_a_message() {
        for length in [0, 1, 4000] {
            let mut most = batch(&[]);
            most.point = format!("/{}", "x".repeat(MAX_PATH - 1));
            let path = vec![b'x'; length];
            let change = batch(&[&path]).changes.remove(0);
            most.changes = vec![change.clone(); MAX_COST / change.cost()];
            let length = FilesAsk::from(&most).encoded_len();
            assert!(length <= MAX_MESSAGE, "{length}");
        }
    }
}
