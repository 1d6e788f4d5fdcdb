//! A connection whose stream lends its buffers: the kernel copies straight into them and out of them.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use super::way::Socket;
use super::{RelayError, Turns, drive};
use crate::local::LocalSocket;
use crate::remote::{Lending, LendingError};
use crate::tally::{Counter, Tally};

/// Both directions of a connection.
#[derive(Debug, Default)]
struct Ways {
    /// The local side has said that no more follows.
    at_end: bool,
    /// The remote side knows.
    sent_all: bool,
    /// The remote side has said that no more follows, and the local one knows.
    told_all: bool,
}

/// Moves bytes, as long as nothing fails.
pub(super) async fn join<L: LocalSocket>(
    near: Socket<'_, L>,
    far: &mut (dyn Lending + Send),
    failed: Pin<&mut impl Future<Output = RelayError>>,
    tally: &Tally,
) -> Result<(), RelayError> {
    let mut ways = Ways::default();
    let step = |cx: &mut Context<'_>, turns: &mut Turns| {
        let up = ways.poll_send(cx, &near, far, &mut turns.to_guest, &tally.to_guest)?;
        let down = ways.poll_tell(cx, &near, far, &mut turns.to_host, &tally.to_host)?;
        Ok(up.is_ready() && down.is_ready())
    };
    drive(step, failed).await
}

impl Ways {
    /// Sends what the local side says; ready when it has said everything.
    fn poll_send<L: LocalSocket>(
        &mut self,
        cx: &mut Context<'_>,
        near: &Socket<'_, L>,
        far: &mut (dyn Lending + Send),
        turn: &mut usize,
        count: &Counter,
    ) -> Poll<Result<(), RelayError>> {
        while !self.at_end {
            if *turn == 0 {
                return Poll::Pending;
            }
            let sent = ready!(far.poll_send_from(cx, &mut &*near.socket));
            let sent = sent.map_err(|why| whose(near, why))?;
            count.add(sent);
            *turn = turn.saturating_sub(sent);
            self.at_end = sent == 0;
        }
        if !self.sent_all {
            ready!(Pin::new(far).poll_shutdown(cx)).map_err(RelayError::Remote)?;
            self.sent_all = true;
        }
        Poll::Ready(Ok(()))
    }

    /// Tells the local side what comes; ready when everything has come.
    fn poll_tell<L: LocalSocket>(
        &mut self,
        cx: &mut Context<'_>,
        near: &Socket<'_, L>,
        far: &mut (dyn Lending + Send),
        turn: &mut usize,
        count: &Counter,
    ) -> Poll<Result<(), RelayError>> {
        while !self.told_all {
            if *turn == 0 {
                return Poll::Pending;
            }
            let given = ready!(far.poll_give_to(cx, &mut &*near.socket));
            let given = given.map_err(|why| whose(near, why))?;
            if given == 0 {
                near.socket.shut_down().map_err(near.failed)?;
                self.told_all = true;
                break;
            }
            count.add(given);
            *turn = turn.saturating_sub(given);
        }
        Poll::Ready(Ok(()))
    }
}

fn whose<L: LocalSocket>(near: &Socket<'_, L>, why: LendingError) -> RelayError {
    match why {
        LendingError::Local(why) => (near.failed)(why),
        LendingError::Stream(why) => RelayError::Remote(why),
    }
}
