//! Windows. QEMU's sockets cannot be reached from here yet: tokio has no unix sockets on Windows.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::windows::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;

/// Stands in for a unix socket; there is never one.
pub(crate) type LocalStream = tokio::io::DuplexStream;

/// Whether the file is there.
pub(crate) fn is_executable(path: &Path) -> bool {
    path.is_file()
}

/// File names that a program may have.
pub(crate) fn program_names(program: &str) -> impl Iterator<Item = String> + use<> {
    [format!("{program}.exe"), program.to_owned()].into_iter()
}

/// Doubles commas, as QEMU's option lists want.
pub(crate) fn double_commas(text: &OsStr) -> OsString {
    let comma = u16::from(b',');
    let doubled = text.encode_wide().flat_map(|unit| {
        let copies = if unit == comma { 2 } else { 1 };
        std::iter::repeat_n(unit, copies)
    });
    OsString::from_wide(&doubled.collect::<Vec<_>>())
}

/// Refuses.
#[allow(clippy::unused_async, reason = "the signature of the unix version")]
pub(crate) async fn connect(_path: &Path) -> io::Result<LocalStream> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Makes a directory.
pub(crate) fn create_private_dir(path: &Path) -> io::Result<()> {
    std::fs::create_dir_all(path)
}

/// Stands in for a unix socket that listens; there is never one.
#[derive(Debug)]
pub(crate) struct LocalListener(std::convert::Infallible);

impl LocalListener {
    /// Refuses.
    pub(crate) fn bind(_path: &Path) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Never called.
    #[allow(clippy::unused_async, reason = "the signature of the unix version")]
    pub(crate) async fn accept(&self) -> io::Result<LocalStream> {
        match self.0 {}
    }
}
