//! Looking again and plain writes, where the file-change events of the system would need a C library or a thread.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;
use std::time::Duration;

/// Short enough for a person, and only while a command follows a start or a stop.
const INTERVAL: Duration = Duration::from_millis(50);

/// Says that a file may have changed.
#[derive(Debug)]
pub(crate) struct Changes;

impl Changes {
    #[allow(clippy::unnecessary_wraps, reason = "fails on Linux")]
    pub(crate) fn of_directory(_directory: &Path) -> io::Result<Self> {
        Ok(Self)
    }

    #[allow(
        clippy::unnecessary_wraps,
        clippy::unused_self,
        reason = "fails on Linux"
    )]
    pub(crate) fn also_of(&mut self, _file: &File) -> io::Result<()> {
        Ok(())
    }

    #[allow(clippy::unused_self, reason = "has state on Linux")]
    pub(crate) async fn next(&mut self) -> io::Result<()> {
        tokio::time::sleep(INTERVAL).await;
        Ok(())
    }
}

/// Writes as much as it takes. A pipe with too little room makes it wait here.
pub(crate) fn write_without_waiting(file: &mut File, bytes: &[u8]) -> io::Result<usize> {
    file.write(bytes)
}
