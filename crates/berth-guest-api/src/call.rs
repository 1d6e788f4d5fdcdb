//! One gRPC call: messages framed on one HTTP/2 stream, and the status at its end.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Response, StatusCode, header};
use prost::Message;

use crate::error::GuestApiError;
use crate::fields::Malformed;

/// Largest message taken from the guest, in bytes: what Go's gRPC itself accepts by default.
pub const MAX_MESSAGE: usize = 4 * 1024 * 1024;

/// What stands before every message: whether it is compressed, and its length.
pub(crate) const PREFIX: usize = 5;

/// A call under way. Dropped before its end, it is reset.
pub(crate) struct Call {
    send: SendStream<Bytes>,
    pub(crate) answer: Answer,
}

impl Call {
    pub(crate) fn new(
        method: &'static str,
        send: SendStream<Bytes>,
        response: ResponseFuture,
    ) -> Self {
        let answer = Answer {
            method,
            state: State::Waiting(response),
        };
        Self { send, answer }
    }

    /// Waits until `length` more bytes can be sent, or some of them: one message may always go over.
    pub(crate) fn poll_room(
        &mut self,
        length: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), GuestApiError>> {
        if matches!(self.answer.state, State::Over(_)) {
            return Poll::Ready(Err(self.refusal(cx)));
        }
        let method = self.answer.method;
        self.send.reserve_capacity(length);
        while self.send.capacity() == 0 {
            match ready!(self.send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(why)) => return Poll::Ready(Err(GuestApiError::from_h2(method, &why))),
                None => return Poll::Ready(Err(self.refusal(cx))),
            }
        }
        if self.send.poll_reset(cx).is_ready() {
            return Poll::Ready(Err(self.refusal(cx)));
        }
        Poll::Ready(Ok(()))
    }

    /// Sends bytes; `last` closes this direction.
    pub(crate) fn send(&mut self, bytes: Bytes, last: bool) -> Result<(), GuestApiError> {
        let sent = self.send.send_data(bytes, last);
        sent.map_err(|why| GuestApiError::from_h2(self.answer.method, &why))
    }

    /// Sends a message as soon as there is room.
    pub(crate) async fn send_message(&mut self, message: Bytes) -> Result<(), GuestApiError> {
        poll_fn(|cx| self.poll_room(message.len(), cx)).await?;
        self.send(message, false)
    }

    /// Why nothing more can be sent: in the agent's own words if it has told.
    fn refusal(&mut self, cx: &mut Context<'_>) -> GuestApiError {
        if let Poll::Ready(Err(why)) = self.answer.poll_head(cx) {
            return why;
        }
        GuestApiError::Reset {
            method: self.answer.method,
            why: "it takes no more".into(),
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        // Without this, what is still queued would be sent first. A call that has ended takes no notice.
        self.send.send_reset(Reason::CANCEL);
    }
}

/// The agent's side of a call.
pub(crate) struct Answer {
    pub(crate) method: &'static str,
    state: State,
}

enum State {
    /// Go's server sends its headers together with the first message, however late that is.
    Waiting(ResponseFuture),
    Open(RecvStream),
    Over(Result<(), GuestApiError>),
}

type Chunk = Option<Result<Bytes, GuestApiError>>;

impl Answer {
    /// The next bytes of the answer; `None` after an end in good order. Cancel-safe. [`Answer::release`] them when used.
    pub(crate) fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Chunk> {
        // What the end turns out to be is kept in the state, and told from there.
        let _ = ready!(self.poll_head(cx));
        let end = match &mut self.state {
            State::Open(stream) => match ready!(stream.poll_data(cx)) {
                Some(Ok(chunk)) => return Poll::Ready(Some(Ok(chunk))),
                Some(Err(why)) => Err(GuestApiError::from_h2(self.method, &why)),
                None => match ready!(stream.poll_trailers(cx)) {
                    Ok(Some(trailers)) => status(self.method, &trailers),
                    Ok(None) => Err(self.malformed(Malformed("no status"))),
                    Err(why) => Err(GuestApiError::from_h2(self.method, &why)),
                },
            },
            State::Waiting(_) => return Poll::Pending,
            State::Over(end) => end.clone(),
        };
        Poll::Ready(self.end(end))
    }

    /// Gives the window of so many bytes back to the agent.
    pub(crate) fn release(&mut self, bytes: usize) {
        if let State::Open(stream) = &mut self.state {
            // Fails only for more than was received.
            let _ = stream.flow_control().release_capacity(bytes);
        }
    }

    /// The next whole message; `None` after an end in good order. Cancel-safe, with the same `begun` each time.
    pub(crate) fn poll_message(
        &mut self,
        begun: &mut BytesMut,
        cx: &mut Context<'_>,
    ) -> Poll<Chunk> {
        loop {
            match whole(begun) {
                Ok(Some(message)) => return Poll::Ready(Some(Ok(message))),
                Ok(None) => {}
                Err(why) => return Poll::Ready(self.give_up(why)),
            }
            let Some(chunk) = ready!(self.poll_chunk(cx)?) else {
                let cut = !std::mem::take(begun).is_empty();
                let end = cut.then(|| self.give_up(Malformed("a message that is cut off")));
                return Poll::Ready(end.flatten());
            };
            begun.extend_from_slice(&chunk);
            self.release(chunk.len());
        }
    }

    /// Ends the answer, because what the agent sends makes no sense.
    pub(crate) fn give_up(&mut self, why: Malformed) -> Chunk {
        self.end(Err(self.malformed(why)))
    }

    fn end(&mut self, end: Result<(), GuestApiError>) -> Chunk {
        self.state = State::Over(end.clone());
        end.err().map(Err)
    }

    fn malformed(&self, Malformed(what): Malformed) -> GuestApiError {
        GuestApiError::Malformed {
            method: self.method,
            what,
        }
    }

    /// The answer's headers. Afterwards the answer is open, or over for the reason returned.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), GuestApiError>> {
        let response = match &mut self.state {
            State::Waiting(response) => response,
            State::Open(_) => return Poll::Ready(Ok(())),
            State::Over(end) => return Poll::Ready(end.clone()),
        };
        let end = match ready!(Pin::new(response).poll(cx)) {
            Err(why) => Err(GuestApiError::from_h2(self.method, &why)),
            Ok(answer) if answer.headers().contains_key(STATUS) => {
                status(self.method, answer.headers())
            }
            Ok(answer) if is_grpc(&answer) => {
                self.state = State::Open(answer.into_body());
                return Poll::Ready(Ok(()));
            }
            Ok(_) => Err(self.malformed(Malformed("something else than gRPC"))),
        };
        self.end(end.clone());
        Poll::Ready(end)
    }
}

const STATUS: &str = "grpc-status";

fn is_grpc(answer: &Response<RecvStream>) -> bool {
    let kind = answer.headers().get(header::CONTENT_TYPE);
    let grpc = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    answer.status() == StatusCode::OK && grpc
}

fn status(method: &'static str, headers: &HeaderMap) -> Result<(), GuestApiError> {
    let value = |name| headers.get(name).map(http::HeaderValue::as_bytes);
    let code = value(STATUS).ok_or(GuestApiError::Malformed {
        method,
        what: "no status",
    })?;
    let message = value("grpc-message").unwrap_or_default();
    GuestApiError::from_status(method, code, message).map_or(Ok(()), Err)
}

/// Reads a prefix: the length of the message behind it.
pub(crate) fn message_length(prefix: [u8; PREFIX]) -> Result<usize, Malformed> {
    let [compressed, length @ ..] = prefix;
    if compressed != 0 {
        return Err(Malformed("a compressed message"));
    }
    usize::try_from(u32::from_be_bytes(length))
        .ok()
        .filter(|length| *length <= MAX_MESSAGE)
        .ok_or(Malformed("a message above 4 MiB"))
}

/// Takes a whole message off the front, if one is there.
fn whole(begun: &mut BytesMut) -> Result<Option<Bytes>, Malformed> {
    let Some(prefix) = begun.first_chunk::<PREFIX>() else {
        return Ok(None);
    };
    let length = message_length(*prefix)?;
    if begun.len() - PREFIX < length {
        return Ok(None);
    }
    begun.advance(PREFIX);
    Ok(Some(begun.split_to(length).freeze()))
}

/// A message with its prefix.
pub(crate) fn framed(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(PREFIX + length);
    put_prefix(&mut bytes, length);
    // Fails only without room, and there is all it asked for.
    let _ = message.encode(&mut bytes);
    bytes.freeze()
}

/// Writes a prefix. No message of ours is near the four gigabytes that it can tell.
pub(crate) fn put_prefix(bytes: &mut BytesMut, length: usize) {
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
}
