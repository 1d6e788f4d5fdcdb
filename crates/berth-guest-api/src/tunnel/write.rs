//! Writing a tunnel: bytes or datagrams into messages.

use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes, BytesMut};

use super::target::{Envelope, TunnelTarget};
use crate::error::{CallError, GuestApiError};
use berth_grpc::call::Call;

/// Longest payload of one message, in bytes: what Lima's agent passes on in one piece.
pub const MAX_PAYLOAD: usize = 32 * 1024;

/// The sending half of a tunnel.
pub(super) struct Writer {
    envelope: Envelope,
    /// For datagrams: where in the caller's stream of them we are.
    datagrams: Option<Step>,
    shut: bool,
}

/// What the caller's next byte is.
enum Step {
    /// Of a length, of which the high byte is there or not.
    Length(Option<u8>),
    /// Of a datagram, of which so many bytes are missing in the message.
    Datagram(usize, BytesMut),
    /// Of a datagram that the agent could not pass on whole.
    Skip(usize),
}

impl Writer {
    pub(super) fn new(target: &TunnelTarget, number: u64, datagrams: bool) -> Self {
        Self {
            envelope: Envelope::new(target, number),
            datagrams: datagrams.then_some(Step::Length(None)),
            shut: false,
        }
    }

    pub(super) fn handshake(&self) -> Bytes {
        self.envelope.handshake()
    }

    pub(super) fn poll_write(
        &mut self,
        call: &mut Call,
        bytes: &[u8],
        cx: &mut Context<'_>,
    ) -> Poll<Result<usize, GuestApiError>> {
        if self.datagrams.is_some() {
            return self.poll_write_datagrams(call, bytes, cx);
        }
        let some = &bytes[..bytes.len().min(MAX_PAYLOAD)];
        if !some.is_empty() {
            ready!(call.poll_room(self.envelope.framed_length(some.len()), cx))?;
            let mut message = self.envelope.open(some.len());
            message.put_slice(some);
            call.send(self.envelope.close(message), false)?;
        }
        Poll::Ready(Ok(some.len()))
    }

    /// Takes as much as completes whole datagrams for which there is room, and the beginning of one more.
    fn poll_write_datagrams(
        &mut self,
        call: &mut Call,
        bytes: &[u8],
        cx: &mut Context<'_>,
    ) -> Poll<Result<usize, GuestApiError>> {
        let mut rest = bytes;
        while let (Some(step), [first, after @ ..]) = (&mut self.datagrams, rest) {
            match step {
                Step::Length(high @ None) => {
                    *high = Some(*first);
                    rest = after;
                }
                Step::Length(Some(high)) => {
                    let length = usize::from(u16::from_be_bytes([*high, *first]));
                    *step = match length {
                        0 => Step::Length(None),
                        1..=MAX_PAYLOAD => Step::Datagram(length, self.envelope.open(length)),
                        _ => Step::Skip(length),
                    };
                    rest = after;
                }
                Step::Skip(missing) => {
                    let some = rest.len().min(*missing);
                    *missing -= some;
                    if *missing == 0 {
                        *step = Step::Length(None);
                    }
                    rest = &rest[some..];
                }
                Step::Datagram(missing, message) => {
                    let some = rest.len().min(*missing);
                    if some == *missing {
                        let whole = message.len() + some;
                        match call.poll_room(whole, cx) {
                            Poll::Ready(room) => room?,
                            Poll::Pending if rest.len() < bytes.len() => break,
                            Poll::Pending => return Poll::Pending,
                        }
                    }
                    message.put_slice(&rest[..some]);
                    *missing -= some;
                    rest = &rest[some..];
                    if *missing == 0 {
                        let message = self.envelope.close(std::mem::take(message));
                        *step = Step::Length(None);
                        call.send(message, false)?;
                    }
                }
            }
        }
        Poll::Ready(Ok(bytes.len() - rest.len()))
    }

    /// Closes this direction. That the agent has closed both already is as good.
    pub(super) fn shut_down(&mut self, call: &mut Call) -> Result<(), GuestApiError> {
        if std::mem::replace(&mut self.shut, true) {
            return Ok(());
        }
        match call.send(Bytes::new(), true) {
            Err(CallError::Reset { .. }) => Ok(()),
            sent => Ok(sent?),
        }
    }
}
