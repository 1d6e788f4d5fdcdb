//! The socket on this side, TCP or unix.

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::net::Shutdown;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::Interest;
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;

use poll_socket::{Direction, PollSocket};

/// How long a TCP peer may be silent before the kernel asks whether it still exists, and between two questions.
const KEEP_ALIVE: Duration = Duration::from_secs(60);

/// Where the system tells only changes of readiness, a short read or write shows that there is no more without asking again.
const TELLS_CHANGES: bool = cfg!(unix);

/// A connected socket of this machine.
///
/// All of it works through a shared reference: both directions of a connection, and whoever watches it for errors, use it at once.
pub trait LocalSocket: fmt::Debug + Send + Sync + poll_socket::PollSocket {
    /// Sets what every connection wants: no delay of small writes, and questions to a peer that is silent.
    fn tune(&self) -> io::Result<()>;

    /// Reads; 0 is the peer's end.
    fn poll_read(&self, cx: &mut Context<'_>, room: &mut [u8]) -> Poll<io::Result<usize>>;

    /// Writes.
    fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>>;

    /// Tells the peer that no more follows. The other direction lives on.
    fn shut_down(&self) -> io::Result<()>;

    /// Waits until the socket has failed, whether or not anybody reads or writes.
    fn failed(&self) -> impl Future<Output = io::Error> + Send;

    /// Makes closing show the peer a failure and not an end: TCP sends a reset. Unix sockets have no such thing, their peer sees a
    /// failure only if it wrote what was not read.
    fn abort_when_closed(&self);

    /// Closes the socket so that the peer sees a failure, as far as it can.
    fn abort(self)
    where
        Self: Sized,
    {
        self.abort_when_closed();
    }
}

pub(crate) mod poll_socket {
    use super::{Context, Poll, SockRef, io};

    /// A socket that the runtime watches.
    pub trait PollSocket {
        /// The socket as the system knows it.
        fn raw(&self) -> SockRef<'_>;

        /// Makes one attempt after another until the system has something or takes something.
        ///
        /// `length` is what was asked for: a shorter answer shows that there is no more now, where the system says so. With 0 it shows
        /// nothing.
        fn poll_io(
            &self,
            cx: &mut Context<'_>,
            direction: Direction,
            length: usize,
            io: &mut dyn FnMut() -> io::Result<usize>,
        ) -> Poll<io::Result<usize>>;
    }

    /// From or to the socket.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Direction {
        In,
        Out,
    }
}

macro_rules! local_socket {
    ($socket:ty, $tune:expr, $abort:expr) => {
        impl PollSocket for $socket {
            fn raw(&self) -> SockRef<'_> {
                SockRef::from(self)
            }

            fn poll_io(
                &self,
                cx: &mut Context<'_>,
                direction: Direction,
                length: usize,
                io: &mut dyn FnMut() -> io::Result<usize>,
            ) -> Poll<io::Result<usize>> {
                loop {
                    let interest = match direction {
                        Direction::In => {
                            ready!(self.poll_read_ready(cx))?;
                            Interest::READABLE
                        }
                        Direction::Out => {
                            ready!(self.poll_write_ready(cx))?;
                            Interest::WRITABLE
                        }
                    };
                    if let Some(moved) = attempt(length, io, |io| self.try_io(interest, io)) {
                        return Poll::Ready(moved);
                    }
                }
            }
        }

        impl LocalSocket for $socket {
            fn tune(&self) -> io::Result<()> {
                $tune(self)
            }

            fn poll_read(&self, cx: &mut Context<'_>, room: &mut [u8]) -> Poll<io::Result<usize>> {
                let length = room.len();
                self.poll_io(cx, Direction::In, length, &mut || (&*self.raw()).read(room))
            }

            fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
                let mut write = || (&*self.raw()).write(bytes);
                self.poll_io(cx, Direction::Out, bytes.len(), &mut write)
            }

            fn shut_down(&self) -> io::Result<()> {
                self.raw().shutdown(Shutdown::Write)
            }

            async fn failed(&self) -> io::Error {
                match self.ready(Interest::ERROR).await {
                    Err(why) => why,
                    Ok(_) => match self.take_error() {
                        Err(why) | Ok(Some(why)) => why,
                        // Whoever read or wrote took it.
                        Ok(None) => io::ErrorKind::ConnectionReset.into(),
                    },
                }
            }

            fn abort_when_closed(&self) {
                $abort(self);
            }
        }
    };
}

local_socket!(TcpStream, tune_tcp, |socket: &TcpStream| {
    // Fails on a socket that is past caring.
    let _ = socket.set_zero_linger();
});

#[cfg(unix)]
local_socket!(UnixStream, |_| Ok(()), |_| ());

fn tune_tcp(socket: &TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let keep_alive = TcpKeepalive::new()
        .with_time(KEEP_ALIVE)
        .with_interval(KEEP_ALIVE);
    SockRef::from(socket).set_tcp_keepalive(&keep_alive)
}

/// Makes one attempt within `try_io`, the runtime's guard of readiness; `None` if the system has nothing now.
///
/// After a short one the runtime is told that nothing is left, which saves the system call that would find out.
fn attempt(
    length: usize,
    io: &mut dyn FnMut() -> io::Result<usize>,
    try_io: impl FnOnce(&mut dyn FnMut() -> io::Result<()>) -> io::Result<()>,
) -> Option<io::Result<usize>> {
    let mut moved = None;
    let tried = try_io(&mut || {
        let count = io()?;
        moved = Some(count);
        if TELLS_CHANGES && (1..length).contains(&count) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(())
    });
    match (moved, tried) {
        (Some(count), _) => Some(Ok(count)),
        (None, Err(why)) if why.kind() != io::ErrorKind::WouldBlock => Some(Err(why)),
        (None, _) => None,
    }
}
