//! Linux, macOS and their relatives.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

pub(crate) use tokio::net::UnixStream as LocalStream;

use crate::wsl2::Guid;

/// Whether the file is there and somebody may execute it.
pub(crate) fn is_executable(path: &Path) -> bool {
    std::fs::metadata(path)
        .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// File names that a program may have.
pub(crate) fn program_names(program: &str) -> impl Iterator<Item = String> + use<> {
    std::iter::once(program.to_owned())
}

/// Doubles commas, as QEMU's option lists want.
pub(crate) fn double_commas(text: &OsStr) -> OsString {
    let doubled = text.as_bytes().iter().flat_map(|&byte| {
        let copies = if byte == b',' { 2 } else { 1 };
        std::iter::repeat_n(byte, copies)
    });
    OsString::from_vec(doubled.collect())
}

/// Connects to a unix socket.
pub(crate) async fn connect(path: &Path) -> io::Result<LocalStream> {
    LocalStream::connect(path).await
}

/// Refuses: there is no Hyper-V.
#[allow(clippy::unused_async, reason = "the signature of the Windows version")]
pub(crate) async fn connect_hyperv(_machine: Guid, _service: Guid) -> io::Result<LocalStream> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Makes a directory that only its owner can enter.
pub(crate) fn create_private_dir(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
}

/// A unix socket that listens. Its file stays when it is dropped.
#[derive(Debug)]
pub(crate) struct LocalListener(tokio::net::UnixListener);

impl LocalListener {
    /// Listens at a path where nothing is yet.
    pub(crate) fn bind(path: &Path) -> io::Result<Self> {
        tokio::net::UnixListener::bind(path).map(Self)
    }

    /// Waits for a connection.
    pub(crate) async fn accept(&self) -> io::Result<LocalStream> {
        Ok(self.0.accept().await?.0)
    }
}

/// The process that listens on the other end.
pub(crate) fn peer_pid(stream: &LocalStream) -> Option<u32> {
    stream.peer_cred().ok()?.pid()?.try_into().ok()
}

/// A program's name without the ending that programs have, which is none here.
pub(crate) fn without_program_ending(name: &str) -> Option<&str> {
    name.strip_suffix(".exe").is_none().then_some(name)
}
