//! One client, from its greeting to its end.

use std::io;
use std::path::PathBuf;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use crate::share::Share;

/// How serving came to an orderly end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The client closed its side, and has been answered.
    ByClient,
    /// The cancellation token was cancelled.
    Cancelled,
}

/// Why serving failed.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The shared directory cannot be opened.
    #[error("open the shared directory {}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The stream to the client broke.
    #[error("the stream to the client of the share broke")]
    Carrier(#[source] io::Error),
    /// What the client sends is not SFTP.
    #[error("the client does not speak SFTP: {0}")]
    Violation(#[from] Violation),
    /// This operating system has no confined server yet.
    #[error(
        "berth's own SFTP server does not run on this operating system: set `sftpDriver: openssh-sftp-server`"
    )]
    Unsupported,
}

/// What a client did wrong so badly that nothing after it can be understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A packet has an impossible length, in bytes.
    #[error("a packet of {0} bytes")]
    Length(u32),
    /// The first packet is no greeting.
    #[error("the first packet is of type {0}, not a greeting")]
    Greeting(u8),
    /// The stream ended within a packet.
    #[error("the stream ended within a packet")]
    Cut,
}

/// Serves a client until it closes its side of the stream, the stream breaks, or `cancel` is cancelled.
///
/// `reader` and `writer` may be any byte stream: a stream of the guest link, both pipes of a child, a socket. Both are dropped
/// before this returns. Dropping the future ends everything as well.
///
/// # Errors
///
/// When the directory cannot be opened, the stream breaks, or the client does not speak SFTP. Errors of single requests go to
/// the client only.
pub async fn serve<R, W>(
    share: Share,
    reader: R,
    writer: W,
    cancel: CancellationToken,
) -> Result<Ended, ServeError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    confined(share, true, reader, writer, cancel).await
}

/// Like [`serve`], but leaves no path to the kernel: each is walked name by name, as it is where the kernel has no `openat2` or a filter of
/// system calls refuses it. For tests of that.
///
/// # Errors
///
/// As of [`serve`].
#[doc(hidden)]
pub async fn serve_walking<R, W>(
    share: Share,
    reader: R,
    writer: W,
    cancel: CancellationToken,
) -> Result<Ended, ServeError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    confined(share, false, reader, writer, cancel).await
}

#[cfg(unix)]
async fn confined<R, W>(
    share: Share,
    by_kernel: bool,
    reader: R,
    writer: W,
    cancel: CancellationToken,
) -> Result<Ended, ServeError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let (caller, limits) = (share.caller, share.limits.clone());
    let path = share.directory.clone();
    let opening = move || crate::desk::Desk::open(share, by_kernel);
    let opened = match caller {
        crate::Caller::MayBlock => opening(),
        // A directory on a server that does not answer keeps a thread, not this one.
        crate::Caller::MustNotBlock => tokio::select! {
            () = cancel.cancelled() => return Ok(Ended::Cancelled),
            opened = tokio::task::spawn_blocking(opening) => opened.map_err(io::Error::from).flatten(),
        },
    };
    let desk = opened.map_err(|source| ServeError::Directory { path, source })?;
    let session = crate::session::Session {
        reader,
        writer,
        state: crate::session::State::new(desk, caller, limits),
    };
    session.run(cancel).await
}

#[cfg(not(unix))]
async fn confined<R, W>(
    _share: Share,
    _by_kernel: bool,
    _reader: R,
    _writer: W,
    _cancel: CancellationToken,
) -> Result<Ended, ServeError> {
    std::future::ready(Err(ServeError::Unsupported)).await
}
