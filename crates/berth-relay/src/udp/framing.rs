//! Datagrams on a stream.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use super::{FlowError, MAX_DATAGRAM};
use crate::buffers::Buffer;

/// Bytes before each datagram.
pub(super) const PREFIX: usize = 2;

/// Appends a datagram with its length; `false` if it is longer than any can be.
pub(super) fn append(out: &mut Vec<u8>, datagram: &[u8]) -> bool {
    let Ok(length) = u16::try_from(datagram.len()) else {
        return false;
    };
    if datagram.len() > MAX_DATAGRAM {
        return false;
    }
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(datagram);
    true
}

/// Reads datagrams from a stream.
#[derive(Debug)]
pub(super) struct Datagrams<R> {
    stream: R,
    /// The beginning of the datagram that has not come whole.
    partial: Vec<u8>,
    /// Bytes that were read since others had their turn.
    turn: usize,
}

/// Bytes that are read before others have their turn.
const TURN: usize = 256 * 1024;

impl<R: AsyncRead + Unpin> Datagrams<R> {
    pub(super) fn new(stream: R) -> Self {
        Self {
            stream,
            partial: Vec::new(),
            turn: 0,
        }
    }

    /// Waits for datagrams, and passes on all that came; `false` at the end of the stream. Cancel-safe.
    pub(super) async fn receive(&mut self, mut each: impl FnMut(&[u8])) -> Result<bool, FlowError> {
        std::future::poll_fn(|cx| self.poll_receive(cx, &mut each)).await
    }

    fn poll_receive(
        &mut self,
        cx: &mut Context<'_>,
        each: &mut impl FnMut(&[u8]),
    ) -> Poll<Result<bool, FlowError>> {
        if self.turn >= TURN {
            self.turn = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        // Only for this moment: whoever waits has none.
        let mut buffer = Buffer::take_large();
        buffer.append(&self.partial);
        let mut room = ReadBuf::new(buffer.room());
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut room)).map_err(FlowError::Stream)?;
        let count = room.filled().len();
        buffer.put(count);
        self.turn += count;
        if count == 0 {
            let ended = if self.partial.is_empty() {
                Ok(false)
            } else {
                Err(FlowError::Truncated)
            };
            return Poll::Ready(ended);
        }
        while let Some(datagram) = whole(buffer.unread())? {
            each(datagram);
            let length = PREFIX + datagram.len();
            buffer.advance(length);
        }
        self.partial = buffer.unread().to_vec();
        Poll::Ready(Ok(true))
    }
}

/// The first datagram, if all of it is there.
fn whole(bytes: &[u8]) -> Result<Option<&[u8]>, FlowError> {
    let Some((prefix, rest)) = bytes.split_first_chunk::<PREFIX>() else {
        return Ok(None);
    };
    let length = usize::from(u16::from_be_bytes(*prefix));
    if length > MAX_DATAGRAM {
        return Err(FlowError::TooLong(length));
    }
    Ok(rest.get(..length))
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    async fn received(pieces: &[&[u8]]) -> (Vec<Vec<u8>>, Result<bool, FlowError>) {
        let (mut far, near) = tokio::io::duplex(4);
        let mut datagrams = Datagrams::new(near);
        let mut all = Vec::new();
        let writing = async {
            for piece in pieces {
                // Nobody reads any more after an error.
                let _ = far.write_all(piece).await;
            }
            drop(far);
        };
        let reading = async {
            loop {
                let more = datagrams
                    .receive(|datagram| all.push(datagram.to_vec()))
                    .await;
                if !matches!(more, Ok(true)) {
                    drop(datagrams);
                    return more;
                }
            }
        };
        let ((), end) = tokio::join!(writing, reading);
        (all, end)
    }

    #[tokio::test]
    async fn datagrams_of_every_length_keep_their_borders() {
        let mut stream = Vec::new();
        let lengths = [0, 1, MAX_DATAGRAM, 0, 9];
        for length in lengths {
            assert!(append(&mut stream, &vec![1; length]));
        }
        let (all, end) = received(&[&stream]).await;
        assert!(matches!(end, Ok(false)), "{end:?}");
        assert_eq!(all.iter().map(Vec::len).collect::<Vec<_>>(), lengths);
    }

    #[test]
    fn what_no_datagram_can_be_is_not_written() {
        let mut stream = Vec::new();
        assert!(!append(&mut stream, &vec![0; MAX_DATAGRAM + 1]));
        assert!(!append(&mut stream, &vec![0; 70_000]));
        assert_eq!(stream, []);
    }

    #[tokio::test]
    async fn a_length_that_cannot_be_is_an_error() {
        let (all, end) =
            received(&[b"\0\x01a", &65_508_u16.to_be_bytes(), b"whatever follows"]).await;
        assert!(matches!(end, Err(FlowError::TooLong(65_508))), "{end:?}");
        assert_eq!(all, [b"a"]);
    }

    #[tokio::test]
    async fn an_end_within_a_datagram_is_an_error() {
        for piece in [&b"\0"[..], b"\0\x05abc"] {
            let (all, end) = received(&[piece]).await;
            assert!(matches!(end, Err(FlowError::Truncated)), "{end:?}");
            assert_eq!(all, Vec::<Vec<u8>>::new());
        }
    }
}
