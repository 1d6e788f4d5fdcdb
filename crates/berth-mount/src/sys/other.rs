//! Elsewhere, nothing tells of a directory that goes: it is looked at when its mount is brought up.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::events::pending::Pending;
use crate::events::{Facts, Sight};

/// How often somebody who waits for a directory looks. Only while it is missing.
const LOOK: Duration = Duration::from_secs(10);

/// Looks now and then.
#[derive(Debug)]
pub(crate) struct PathWatch;

impl PathWatch {
    pub(crate) fn new(_path: &Path) -> Self {
        Self
    }

    /// Waits until it is worth looking again.
    pub(crate) async fn changed(&mut self) {
        tokio::time::sleep(LOOK).await;
    }
}

/// Nothing tells of changes beneath a directory.
#[derive(Debug)]
pub(crate) struct TreeWatch(std::convert::Infallible);

impl TreeWatch {
    /// Refuses.
    pub(crate) fn start(
        _directory: &Path,
        _pending: &Arc<Pending>,
        _sight: watch::Sender<Sight>,
    ) -> io::Result<Self> {
        Err(unsupported())
    }
}

/// Refuses.
pub(crate) fn facts(_directory: &Path, _paths: &[Vec<u8>]) -> io::Result<Vec<Option<Facts>>> {
    Err(unsupported())
}

fn unsupported() -> io::Error {
    io::Error::new(
        io::ErrorKind::Unsupported,
        "file events are built for Linux hosts only",
    )
}
