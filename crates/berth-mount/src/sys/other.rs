//! Elsewhere, nothing tells of a directory that goes: it is looked at when its mount is brought up.

use std::path::Path;
use std::time::Duration;

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
