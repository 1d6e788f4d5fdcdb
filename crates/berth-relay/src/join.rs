//! One connection: bytes both ways, half-close, reset, back-pressure.

mod lent;
mod way;

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use crate::buffers::User;
use crate::local::LocalSocket;
use crate::remote::RemoteStream;
use crate::sys;
use crate::tally::Tally;
use way::{End, Stream};
pub(crate) use way::{Socket, Way};

/// Bytes that one connection moves in each direction before others have their turn.
const TURN: usize = 128 * 1024;

/// Why a connection ended before both sides had said that no more follows.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// The socket on this side: a reset, or a peer that is gone.
    #[error("the local connection failed")]
    Local(#[source] io::Error),
    /// The stream to the other end. Its error says more: `ConnectionRefused`, `HostUnreachable`, `TimedOut`, `PermissionDenied`,
    /// `Unsupported` and `NetworkDown` are the other end's answer to its dial, `ConnectionReset` is a reset, `ConnectionAborted` the
    /// end of the link.
    #[error("the connection beyond the link failed")]
    Remote(#[source] io::Error),
}

impl RelayError {
    /// Whether this is how connections end every day: somebody reset it, or went away.
    #[must_use]
    pub fn is_reset(&self) -> bool {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected};
        match self {
            Self::Local(why) => matches!(
                why.kind(),
                BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected
            ),
            Self::Remote(why) => why.kind() == ConnectionReset,
        }
    }
}

/// Moves bytes between `local` and `remote` until both have said that no more follows, or one has failed.
///
/// An end of one direction is passed on as that, and the other lives on. A failure of either side is passed on as a failure: the
/// local socket is aborted, the remote dropped (which resets a stream of the link). So is everything when the future is dropped.
/// A peer that closes its socket altogether has only ended its direction until something is written to it: what it said last
/// must not get lost.
///
/// Memory is bounded: without traffic there is no buffer; a side that takes nothing costs one, and the other side is not read any
/// more once that is full. A stream that lends its buffers needs no other.
pub fn join<L, R>(
    local: L,
    mut remote: R,
    tally: &Tally,
) -> impl Future<Output = Result<(), RelayError>>
where
    L: LocalSocket,
    R: RemoteStream,
{
    // Made here and not in the future, which may be dropped before it ever ran.
    let mut local = AbortOnDrop::new(local);
    async move {
        let _counted = tally.connection();
        let _user = User::new();
        let outcome = join_stream(&local.socket, &mut remote, tally).await;
        note(&outcome, tally);
        if outcome.is_ok() {
            local.end_well();
        }
        outcome
    }
}

/// Moves bytes between two sockets of this machine as [`join()`] does, but within the kernel where it can. A failure of either
/// aborts the other.
pub fn join_sockets<L, R>(
    local: L,
    remote: R,
    tally: &Tally,
) -> impl Future<Output = Result<(), RelayError>>
where
    L: LocalSocket,
    R: LocalSocket,
{
    let mut local = AbortOnDrop::new(local);
    let mut remote = AbortOnDrop::new(remote);
    async move {
        let _counted = tally.connection();
        let _user = User::new();
        let outcome = join_both(&local.socket, &remote.socket, tally).await;
        note(&outcome, tally);
        if outcome.is_ok() {
            local.end_well();
            remote.end_well();
        }
        outcome
    }
}

async fn join_stream<L, R>(local: &L, remote: &mut R, tally: &Tally) -> Result<(), RelayError>
where
    L: LocalSocket,
    R: RemoteStream,
{
    local.tune().map_err(RelayError::Local)?;
    let failed = pin!(async { RelayError::Local(local.failed().await) });
    let near = Socket::new(local, RelayError::Local);
    match remote.lending() {
        Some(lending) => lent::join(near, lending, failed, tally).await,
        None => copy(near, Stream(remote), failed, tally).await,
    }
}

async fn join_both<L, R>(local: &L, remote: &R, tally: &Tally) -> Result<(), RelayError>
where
    L: LocalSocket,
    R: LocalSocket,
{
    local.tune().map_err(RelayError::Local)?;
    remote.tune().map_err(RelayError::Remote)?;
    let failed = pin!(async {
        tokio::select! {
            why = local.failed() => RelayError::Local(why),
            why = remote.failed() => RelayError::Remote(why),
        }
    });
    sys::move_between(local, remote, failed, tally).await
}

/// Copies bytes between two ends, as long as nothing fails.
pub(crate) async fn copy(
    mut near: impl End,
    mut far: impl End,
    failed: Pin<&mut impl Future<Output = RelayError>>,
    tally: &Tally,
) -> Result<(), RelayError> {
    let mut to_guest = Way::default();
    let mut to_host = Way::default();
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

/// Bytes that may still be moved before others have their turn; each direction has its own.
#[derive(Debug)]
pub(crate) struct Turns {
    pub(crate) to_guest: usize,
    pub(crate) to_host: usize,
}

/// Lets `step` move what can be moved, turn after turn, until it says that nothing more will come.
pub(crate) fn drive(
    mut step: impl FnMut(&mut Context<'_>, &mut Turns) -> Result<bool, RelayError>,
    // A side from which nothing is read, because the other takes nothing, can fail all the same.
    mut failed: Pin<&mut impl Future<Output = RelayError>>,
) -> impl Future<Output = Result<(), RelayError>> {
    std::future::poll_fn(move |cx| {
        let mut turns = Turns {
            to_guest: TURN,
            to_host: TURN,
        };
        if step(cx, &mut turns)? {
            return Poll::Ready(Ok(()));
        }
        if turns.to_guest == 0 || turns.to_host == 0 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        failed.as_mut().poll(cx).map(Err)
    })
}

fn note(outcome: &Result<(), RelayError>, tally: &Tally) {
    match outcome {
        Err(why) if !why.is_reset() => tally.note_error(why),
        _ => {}
    }
}

/// A socket whose peer is told of a failure, unless the connection ends well.
#[derive(Debug)]
struct AbortOnDrop<L: LocalSocket> {
    socket: L,
    ended_well: bool,
}

impl<L: LocalSocket> AbortOnDrop<L> {
    fn new(socket: L) -> Self {
        Self {
            socket,
            ended_well: false,
        }
    }

    fn end_well(&mut self) {
        self.ended_well = true;
    }
}

impl<L: LocalSocket> Drop for AbortOnDrop<L> {
    fn drop(&mut self) {
        if !self.ended_well {
            self.socket.abort_when_closed();
        }
    }
}
