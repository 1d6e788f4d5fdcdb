//! Pipes of the kernel: bytes move into them and out of them with splice(2), without a copy in this process.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use rustix::io::retry_on_intr;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

use crate::buffers;
use crate::local::poll_socket::{Direction, PollSocket};

/// Bytes that a pipe may hold.
const LENGTH: usize = 256 * 1024;

/// Pipes that this process may have. The kernel gives one user some 256 of this length before it makes them shorter, and
/// nobody may use up the descriptors of others.
const MOST: usize = 128;

/// Empty pipes that are kept for the next who wants one, while there is anybody.
const MOST_SPARE: usize = 8;

const FLAGS: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);

/// Empty pipes: making one costs as much as moving some hundred KiB.
static SPARE: Mutex<Vec<Pipe>> = Mutex::new(Vec::new());

/// Pipes of this process.
static COUNT: AtomicUsize = AtomicUsize::new(0);

fn spare() -> MutexGuard<'static, Vec<Pipe>> {
    SPARE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Closes the spare pipes, because nobody is left who could want one.
pub(crate) fn close_spare() {
    spare().clear();
}

/// A pipe of this process, with what is on its way through it.
#[derive(Debug)]
pub struct Pipe {
    out: OwnedFd,
    into: OwnedFd,
    held: usize,
    _counted: Counted,
}

/// Counts a pipe for as long as it is there.
#[derive(Debug)]
struct Counted(());

impl Counted {
    /// `None` if there are as many as may be.
    fn new() -> Option<Self> {
        let more = |count| (count < MOST).then_some(count + 1);
        let counted = COUNT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        counted.ok().map(|_| Self(()))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        COUNT.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pipe {
    /// An empty pipe. Fails where the process has too many of them, or too many descriptors.
    pub fn take() -> io::Result<Self> {
        if let Some(spare) = spare().pop() {
            return Ok(spare);
        }
        let counted = Counted::new().ok_or(io::ErrorKind::QuotaExceeded)?;
        let (out, into) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // Refused where pipes of other programs have used up what is allowed: then it is a shorter one.
        let _ = fcntl_setpipe_size(&into, LENGTH);
        Ok(Self {
            out,
            into,
            held: 0,
            _counted: counted,
        })
    }

    /// Keeps it for the next, if it is empty and there is anybody. One that is dropped instead is closed.
    pub fn give_back(self) {
        let mut spare = spare();
        if self.held == 0 && spare.len() < MOST_SPARE && buffers::has_users() {
            spare.push(self);
        }
    }

    /// Bytes in it.
    #[must_use]
    pub fn held(&self) -> usize {
        self.held
    }

    /// Takes up to `most` bytes from a socket into an empty pipe; 0 is the peer's end.
    pub fn poll_fill(
        &mut self,
        cx: &mut Context<'_>,
        source: &dyn PollSocket,
        most: usize,
    ) -> Poll<io::Result<usize>> {
        let socket = source.raw();
        let most = most.min(LENGTH);
        let mut fill = || move_some(&*socket, &self.into, most);
        let filled = ready!(source.poll_io(cx, Direction::In, 0, &mut fill))?;
        self.held += filled;
        Poll::Ready(Ok(filled))
    }

    /// Gives its bytes to a socket: how many it took.
    ///
    /// [`io::ErrorKind::InvalidInput`] says that the socket takes nothing from pipes.
    pub fn poll_empty(
        &mut self,
        cx: &mut Context<'_>,
        target: &dyn PollSocket,
    ) -> Poll<io::Result<usize>> {
        let socket = target.raw();
        let mut empty = || move_some(&self.out, &*socket, self.held);
        let moved = ready!(target.poll_io(cx, Direction::Out, 0, &mut empty))?;
        self.held -= moved;
        Poll::Ready(Ok(moved))
    }

    /// Puts a few bytes in, all or none of them; whether there was room.
    pub fn put(&mut self, bytes: &[u8]) -> bool {
        debug_assert!(bytes.len() <= PIPE_BUF);
        let is_in = retry_on_intr(|| rustix::io::write(&self.into, bytes)).is_ok();
        if is_in {
            self.held += bytes.len();
        }
        is_in
    }

    /// Takes bytes from another pipe, as many as there is room for.
    pub fn take_from(&mut self, other: &mut Self) {
        while other.held > 0 {
            match move_some(&other.out, &self.into, other.held) {
                // It is full: nothing else can be wrong with two pipes.
                Ok(0) | Err(_) => return,
                Ok(count) => {
                    other.held -= count;
                    self.held += count;
                }
            }
        }
    }

    /// Copies its next bytes out. They must be there.
    pub fn read_exact(&mut self, mut room: &mut [u8]) -> io::Result<()> {
        while !room.is_empty() {
            let count = retry_on_intr(|| rustix::io::read(&self.out, &mut *room))?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.held -= count;
            room = &mut room[count..];
        }
        Ok(())
    }
}

fn move_some(from: impl AsFd, to: impl AsFd, most: usize) -> io::Result<usize> {
    let (from, to) = (from.as_fd(), to.as_fd());
    let moved = retry_on_intr(|| splice(from, None, to, None, most, FLAGS))?;
    Ok(moved)
}

/// Bytes that a pipe takes at once or not at all, at least (pipe(7)).
const PIPE_BUF: usize = 4096;

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::AsyncReadExt;
    use tokio::net::UnixStream;

    use super::*;

    async fn filled(bytes: &[u8]) -> Pipe {
        let (near, far) = UnixStream::pair().unwrap();
        far.try_write(bytes).unwrap();
        let mut pipe = Pipe::take().unwrap();
        let count = poll_fn(|cx| pipe.poll_fill(cx, &near, usize::MAX)).await;
        assert_eq!((count.unwrap(), pipe.held()), (bytes.len(), bytes.len()));
        pipe
    }

    #[tokio::test]
    async fn bytes_pass_in_order_from_socket_to_pipe_to_pipe_to_socket() {
        let mut payload = filled(b"0123456789").await;
        let mut framed = Pipe::take().unwrap();
        assert!(framed.put(b"<"));
        framed.take_from(&mut payload);
        assert!(framed.put(b">"));
        assert_eq!((payload.held(), framed.held()), (0, 12));
        let mut begin = [0; 3];
        framed.read_exact(&mut begin).unwrap();
        let (near, mut far) = UnixStream::pair().unwrap();
        while framed.held() > 0 {
            poll_fn(|cx| framed.poll_empty(cx, &near)).await.unwrap();
        }
        drop(near);
        let mut rest = String::new();
        far.read_to_string(&mut rest).await.unwrap();
        assert_eq!((&begin[..], &*rest), (&b"<01"[..], "23456789>"));
    }

    #[tokio::test]
    async fn a_full_pipe_takes_what_there_is_room_for_and_no_part_of_a_few_bytes() {
        let mut full = filled(b"x").await;
        while full.put(&[7; PIPE_BUF]) {}
        let held = full.held();
        let mut more = filled(b"more").await;
        full.take_from(&mut more);
        assert_eq!((full.held(), more.held()), (held, 4));
        let mut all = vec![0; held];
        full.read_exact(&mut all).unwrap();
        assert_eq!((all[0], &all[1..]), (b'x', &vec![7; held - 1][..]));
        full.take_from(&mut more);
        assert_eq!((full.held(), more.held()), (4, 0));
    }

    #[tokio::test]
    async fn a_socket_that_takes_nothing_from_pipes_says_so_and_nothing_is_lost() {
        let mut pipe = filled(b"kept").await;
        let (near, _far) = UnixStream::pair().unwrap();
        let flags = rustix::fs::OFlags::APPEND | rustix::fs::OFlags::NONBLOCK;
        rustix::fs::fcntl_setfl(&near, flags).unwrap();
        let error = poll_fn(|cx| pipe.poll_empty(cx, &near)).await;
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::InvalidInput);
        let mut kept = [0; 4];
        pipe.read_exact(&mut kept).unwrap();
        assert_eq!(&kept, b"kept");
        assert_eq!(
            pipe.read_exact(&mut [0]).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
    }
}
