//! Moving bytes between two sockets without copying them into this process: splice(2), through a pipe for each direction that is
//! busy.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use super::pipe::Pipe;
use crate::join::{self, RelayError, Socket, Turns, drive};
use crate::local::LocalSocket;
use crate::tally::{Counter, Tally};

/// Moves bytes between two sockets until both have said that no more follows, or one has failed.
pub(crate) async fn move_between<L: LocalSocket, R: LocalSocket>(
    local: &L,
    remote: &R,
    failed: Pin<&mut impl Future<Output = RelayError>>,
    tally: &Tally,
) -> Result<(), RelayError> {
    let mut to_guest = Way::default();
    let mut to_host = Way::default();
    let (mut near, mut far) = (
        Socket::new(local, RelayError::Local),
        Socket::new(remote, RelayError::Remote),
    );
    let step = |cx: &mut Context<'_>, turns: &mut Turns| {
        let up = to_guest.poll(
            cx,
            &mut near,
            &mut far,
            &mut turns.to_guest,
            &tally.to_guest,
        )?;
        let down = to_host.poll(cx, &mut far, &mut near, &mut turns.to_host, &tally.to_host)?;
        Ok(up.is_ready() && down.is_ready())
    };
    drive(step, failed).await
}

/// One direction of a connection.
#[derive(Debug)]
enum Way {
    Spliced(Spliced),
    /// There was no pipe for it.
    Copied(join::Way),
}

impl Default for Way {
    fn default() -> Self {
        Self::Spliced(Spliced::default())
    }
}

impl Way {
    /// Moves what can be moved; ready when this direction is over.
    fn poll<S: LocalSocket, T: LocalSocket>(
        &mut self,
        cx: &mut Context<'_>,
        source: &mut Socket<'_, S>,
        target: &mut Socket<'_, T>,
        turn: &mut usize,
        count: &Counter,
    ) -> Poll<Result<(), RelayError>> {
        loop {
            match self {
                Self::Copied(way) => return way.poll(cx, source, target, turn, count),
                Self::Spliced(way) => match ready!(way.poll(cx, source, target, turn, count)) {
                    Ok(()) => return Poll::Ready(Ok(())),
                    Err(Stopped::Failed(why)) => return Poll::Ready(Err(why)),
                    Err(Stopped::NoPipe) => *self = Self::Copied(join::Way::default()),
                },
            }
        }
    }
}

/// One direction of a connection, through pipes.
#[derive(Debug, Default)]
struct Spliced {
    /// Holds bytes that the target has not taken yet.
    pipe: Option<Pipe>,
    /// The source has said that no more follows.
    at_end: bool,
    /// The target knows.
    over: bool,
}

/// Why a direction does not go on.
enum Stopped {
    /// There are no pipes, and nothing is on its way.
    NoPipe,
    Failed(RelayError),
}

impl Spliced {
    fn poll<S: LocalSocket, T: LocalSocket>(
        &mut self,
        cx: &mut Context<'_>,
        source: &Socket<'_, S>,
        target: &Socket<'_, T>,
        turn: &mut usize,
        count: &Counter,
    ) -> Poll<Result<(), Stopped>> {
        if self.over {
            return Poll::Ready(Ok(()));
        }
        loop {
            if let Some(mut pipe) = self.pipe.take() {
                let emptied = poll_empty(&mut pipe, cx, target.socket, count);
                if emptied.is_pending() {
                    self.pipe = Some(pipe);
                    return Poll::Pending;
                }
                ready!(emptied).map_err(|why| Stopped::Failed((target.failed)(why)))?;
                pipe.give_back();
            }
            if self.at_end {
                let told = target.socket.shut_down();
                told.map_err(|why| Stopped::Failed((target.failed)(why)))?;
                self.over = true;
                return Poll::Ready(Ok(()));
            }
            if *turn == 0 {
                return Poll::Pending;
            }
            let mut pipe = Pipe::take().map_err(|_| Stopped::NoPipe)?;
            let Poll::Ready(filled) = pipe.poll_fill(cx, source.socket, usize::MAX) else {
                pipe.give_back();
                return Poll::Pending;
            };
            let filled = filled.map_err(|why| Stopped::Failed((source.failed)(why)))?;
            *turn = turn.saturating_sub(filled);
            self.at_end = filled == 0;
            self.pipe = Some(pipe);
        }
    }
}

/// Gives all that a pipe holds to a socket.
fn poll_empty(
    pipe: &mut Pipe,
    cx: &mut Context<'_>,
    target: &impl LocalSocket,
    count: &Counter,
) -> Poll<io::Result<()>> {
    while pipe.held() > 0 {
        let moved = ready!(pipe.poll_empty(cx, target))?;
        if moved == 0 {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        count.add(moved);
    }
    Poll::Ready(Ok(()))
}
