//! A pair of descriptors as a stream: pipes or sockets, such as a program's standard input and output, or a child's.
//!
//! tokio's own sockets are told whenever the other side has taken something. For a server that answers small requests one by one, that is
//! a change of threads for each of them, for nothing. These ask for news of a descriptor only while they wait for it.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::io::{Errno, ioctl_fionbio, write};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

use crate::sys::streams::{read_into, watch};

/// Makes a stream of them; both no longer block, for whoever else has them, too. They may be the same socket, twice.
///
/// # Errors
///
/// When the runtime cannot watch them: regular files, for one.
///
/// # Panics
///
/// Outside a tokio runtime.
pub fn stream(input: OwnedFd, output: OwnedFd) -> io::Result<(Reader, Writer)> {
    ioctl_fionbio(input.as_fd(), true)?;
    ioctl_fionbio(output.as_fd(), true)?;
    let reader = Reader(watch(input, Interest::READABLE)?);
    Ok((reader, Writer(State::Free(output))))
}

/// The end that is read.
#[derive(Debug)]
pub struct Reader(AsyncFd<OwnedFd>);

impl AsyncRead for Reader {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(context))?;
            let before = buffer.filled().len();
            match read_into(self.0.get_ref(), buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => guard.clear_ready(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
                Ok(is_short) => {
                    // Then there is no more, and another look would be for nothing. Only the end stays.
                    if is_short && buffer.filled().len() > before {
                        guard.clear_ready();
                    }
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

/// The end that is written.
#[derive(Debug)]
pub struct Writer(State);

#[derive(Debug)]
enum State {
    /// It takes what is written, as far as is known.
    Free(OwnedFd),
    /// It was full, and is watched.
    Full(AsyncFd<OwnedFd>),
    Broken,
}

impl AsyncWrite for Writer {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            match std::mem::replace(&mut self.0, State::Broken) {
                State::Free(output) => match write(&output, bytes) {
                    Err(Errno::AGAIN) => {
                        self.0 = State::Full(watch(output, Interest::WRITABLE)?);
                    }
                    Err(Errno::INTR) => self.0 = State::Free(output),
                    written => {
                        self.0 = State::Free(output);
                        return Poll::Ready(written.map_err(Into::into));
                    }
                },
                State::Full(output) => {
                    if output.poll_write_ready(context)?.is_pending() {
                        self.0 = State::Full(output);
                        return Poll::Pending;
                    }
                    self.0 = State::Free(output.into_inner());
                }
                State::Broken => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            }
        }
    }

    /// Nothing is kept back.
    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Closes the descriptor: the other side sees the end when nobody else has it.
    fn poll_shutdown(mut self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0 = State::Broken;
        Poll::Ready(Ok(()))
    }
}
