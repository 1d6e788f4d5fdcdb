//! A connection, or a flow of datagrams, to a socket in the guest (`Tunnel`).

mod read;
mod target;
mod write;

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::OwnedSemaphorePermit;

use crate::error::{CallError, GuestApiError};
use crate::fields::Malformed;
use berth_grpc::call::Call;
use read::{Piece, Reader};
use write::Writer;

pub use target::{SocketPath, TunnelTarget};
pub use write::MAX_PAYLOAD;

/// Longest payload of a UDP datagram, in bytes.
const MAX_DATAGRAM: u64 = 65_507;

/// A connection to a socket in the guest, as a byte stream.
///
/// Bytes may be written at once. Whether the guest accepts shows in the first read: a refused dial reads as
/// [`io::ErrorKind::ConnectionRefused`], `NetworkUnreachable`, `HostUnreachable`, `TimedOut`, `PermissionDenied` or `NotFound`,
/// a connection to the agent that broke as `ConnectionAborted`.
///
/// **Ends.** [`AsyncWrite::poll_shutdown`] closes this direction only (`END_STREAM`). Lima's agent up to 2.2 takes it for the end of
/// both: it closes the guest's connection, and an answer that was still to come is lost. When the guest closes its direction,
/// the agent always ends both. Dropping the tunnel resets it (`RST_STREAM` with CANCEL); the guest's connection is then closed
/// in order, because the agent never resets one.
///
/// **Datagrams.** A tunnel to [`TunnelTarget::Udp`] speaks datagrams on the byte stream: the length in two bytes, high byte
/// first, then the datagram, in both directions. Each is one message on the wire. Lima's agent cuts what is longer than
/// [`MAX_PAYLOAD`]: such datagrams are dropped on their way to the guest, and arrive cut from it. Empty ones cannot be told
/// and are dropped.
///
/// **Memory.** What waits for the reader is bounded by the tunnel's window (8 to 256 KiB, the less the more tunnels there are),
/// what waits to be sent by 160 KiB. The agent itself takes up to 512 MiB from this side, however slowly the guest reads.
pub struct Tunnel {
    call: Call,
    /// A chunk of the answer, the length it had, and what of it is payload for the reader.
    chunk: Bytes,
    chunk_length: usize,
    ready: Bytes,
    reader: Reader,
    writer: Writer,
    datagrams: bool,
    /// Given back after the call is gone.
    _place: OwnedSemaphorePermit,
}

impl Tunnel {
    /// Sends the handshake.
    pub(crate) fn begin(
        mut call: Call,
        place: OwnedSemaphorePermit,
        target: &TunnelTarget,
        number: u64,
    ) -> Result<Self, GuestApiError> {
        let datagrams = matches!(target, TunnelTarget::Udp(_));
        let writer = Writer::new(target, number, datagrams);
        call.send(writer.handshake(), false)?;
        Ok(Self {
            call,
            chunk: Bytes::new(),
            chunk_length: 0,
            ready: Bytes::new(),
            reader: Reader::new(),
            writer,
            datagrams,
            _place: place,
        })
    }

    /// Waits until something is ready for the reader. `Ok(false)`: the guest has closed, in order.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, GuestApiError>> {
        while self.ready.is_empty() {
            match self.next_piece() {
                Ok(Some(piece)) => self.ready = piece,
                Ok(None) => {
                    // All of the chunk has been read: the agent may send as much again.
                    self.call.answer.release(self.chunk_length);
                    self.chunk_length = 0;
                    match ready!(self.call.answer.poll_chunk(cx)?) {
                        Some(chunk) => {
                            self.chunk_length = chunk.len();
                            self.chunk = chunk;
                        }
                        None if self.reader.between_messages() => return Poll::Ready(Ok(false)),
                        None => self.refuse(Malformed("a message that is cut off"))?,
                    }
                }
                Err(why) => self.refuse(why)?,
            }
        }
        Poll::Ready(Ok(true))
    }

    /// The next bytes for the reader out of the chunk.
    fn next_piece(&mut self) -> Result<Option<Bytes>, Malformed> {
        loop {
            match self.reader.next(&mut self.chunk)? {
                Some(Piece::Begin(_)) if !self.datagrams => {}
                Some(Piece::Begin(length)) => {
                    let length = u16::try_from(length).ok();
                    let length = length.filter(|length| u64::from(*length) <= MAX_DATAGRAM);
                    let length = length.ok_or(Malformed("a datagram longer than any"))?;
                    return Ok(Some(Bytes::copy_from_slice(&length.to_be_bytes())));
                }
                Some(Piece::Data(data)) => return Ok(Some(data)),
                None => return Ok(None),
            }
        }
    }

    fn refuse(&mut self, why: Malformed) -> Result<(), GuestApiError> {
        match self.call.answer.give_up(why) {
            Some(Err(why)) => Err(why.into()),
            _ => Ok(()),
        }
    }
}

/// An error of an open tunnel. That the connection is lost means for it that it ends.
fn broken(error: GuestApiError) -> io::Error {
    match error {
        GuestApiError::Call(CallError::Lost { .. }) => {
            io::Error::new(io::ErrorKind::ConnectionAborted, error)
        }
        error => error.into(),
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if buffer.remaining() > 0 && ready!(self.poll_ready(cx)).map_err(broken)? {
            let some = self.ready.len().min(buffer.remaining());
            buffer.put_slice(&self.ready[..some]);
            self.ready.advance(some);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let Self { call, writer, .. } = &mut *self;
        writer.poll_write(call, bytes, cx).map_err(broken)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The connection's task sends by itself.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { call, writer, .. } = &mut *self;
        Poll::Ready(writer.shut_down(call).map_err(broken))
    }
}

impl fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tunnel").finish_non_exhaustive()
    }
}
