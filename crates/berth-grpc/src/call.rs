//! One gRPC call: messages framed on one HTTP/2 stream, and the status at its end.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Response, StatusCode, header};

use crate::error::{CallError, Method};
use crate::frame::{Limit, Malformed};

/// A call under way. Dropped before its end, it is reset.
pub struct Call {
    send: SendStream<Bytes>,
    /// What the peer says.
    pub answer: Answer,
}

impl Call {
    pub(crate) fn new(
        method: Method,
        limit: Limit,
        send: SendStream<Bytes>,
        response: ResponseFuture,
    ) -> Self {
        let answer = Answer {
            method,
            limit,
            state: State::Waiting(response),
        };
        Self { send, answer }
    }

    /// Waits until `length` more bytes can be sent, or some of them: one message may always go over.
    pub fn poll_room(
        &mut self,
        length: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), CallError>> {
        if matches!(self.answer.state, State::Over(_)) {
            return Poll::Ready(Err(self.refusal(cx)));
        }
        let method = self.answer.method;
        self.send.reserve_capacity(length);
        while self.send.capacity() == 0 {
            match ready!(self.send.poll_capacity(cx)) {
                Some(Ok(_)) => {}
                Some(Err(why)) => return Poll::Ready(Err(CallError::from_h2(method, &why))),
                None => return Poll::Ready(Err(self.refusal(cx))),
            }
        }
        if self.send.poll_reset(cx).is_ready() {
            return Poll::Ready(Err(self.refusal(cx)));
        }
        Poll::Ready(Ok(()))
    }

    /// Sends bytes; `last` closes this direction.
    pub fn send(&mut self, bytes: Bytes, last: bool) -> Result<(), CallError> {
        let sent = self.send.send_data(bytes, last);
        sent.map_err(|why| CallError::from_h2(self.answer.method, &why))
    }

    /// Sends a message as soon as there is room.
    pub async fn send_message(&mut self, message: Bytes) -> Result<(), CallError> {
        poll_fn(|cx| self.poll_room(message.len(), cx)).await?;
        self.send(message, false)
    }

    /// Why nothing more can be sent: in the peer's own words if it has told.
    fn refusal(&mut self, cx: &mut Context<'_>) -> CallError {
        if let Poll::Ready(Err(why)) = self.answer.poll_head(cx) {
            return why;
        }
        CallError::Reset {
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

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call")
            .field("method", &self.answer.method)
            .finish_non_exhaustive()
    }
}

/// The peer's side of a call.
pub struct Answer {
    method: Method,
    limit: Limit,
    state: State,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer")
            .field("method", &self.method)
            .finish_non_exhaustive()
    }
}

enum State {
    /// Go's server sends its headers together with the first message, however late that is.
    Waiting(ResponseFuture),
    Open(RecvStream),
    Over(Result<(), CallError>),
}

/// Some bytes, an error, or an end in good order.
pub type Chunk = Option<Result<Bytes, CallError>>;

impl Answer {
    /// What was called.
    #[must_use]
    pub fn method(&self) -> Method {
        self.method
    }

    /// The next bytes of the answer; `None` after an end in good order. Cancel-safe. [`Answer::release`] them when used.
    pub fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Chunk> {
        // What the end turns out to be is kept in the state, and told from there.
        let _ = ready!(self.poll_head(cx));
        let end = match &mut self.state {
            State::Open(stream) => match ready!(stream.poll_data(cx)) {
                Some(Ok(chunk)) => return Poll::Ready(Some(Ok(chunk))),
                Some(Err(why)) => Err(CallError::from_h2(self.method, &why)),
                None => match ready!(stream.poll_trailers(cx)) {
                    Ok(Some(trailers)) => status(self.method, &trailers),
                    Ok(None) => Err(self.malformed(Malformed("no status"))),
                    Err(why) => Err(CallError::from_h2(self.method, &why)),
                },
            },
            State::Waiting(_) => return Poll::Pending,
            State::Over(end) => end.clone(),
        };
        Poll::Ready(self.end(end))
    }

    /// Gives the window of so many bytes back to the peer.
    pub fn release(&mut self, bytes: usize) {
        if let State::Open(stream) = &mut self.state {
            // Fails only for more than was received.
            let _ = stream.flow_control().release_capacity(bytes);
        }
    }

    /// The next whole message; `None` after an end in good order. Cancel-safe, with the same `begun` each time.
    pub fn poll_message(&mut self, begun: &mut BytesMut, cx: &mut Context<'_>) -> Poll<Chunk> {
        loop {
            match self.limit.take_message(begun) {
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

    /// The one message of an answer that has no more.
    pub async fn the_message(&mut self) -> Result<Bytes, CallError> {
        let mut begun = BytesMut::new();
        let first = poll_fn(|cx| self.poll_message(&mut begun, cx)).await;
        let message = first.unwrap_or(Err(self.malformed(Malformed("no message"))))?;
        match poll_fn(|cx| self.poll_message(&mut begun, cx)).await {
            None => Ok(message),
            Some(Err(why)) => Err(why),
            Some(Ok(_)) => Err(self.malformed(Malformed("more than one message"))),
        }
    }

    /// Ends the answer, because what the peer sends makes no sense.
    pub fn give_up(&mut self, why: Malformed) -> Chunk {
        self.end(Err(self.malformed(why)))
    }

    fn end(&mut self, end: Result<(), CallError>) -> Chunk {
        self.state = State::Over(end.clone());
        end.err().map(Err)
    }

    fn malformed(&self, Malformed(what): Malformed) -> CallError {
        CallError::Malformed {
            method: self.method,
            what,
        }
    }

    /// The answer's headers. Afterwards the answer is open, or over for the reason returned.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        let response = match &mut self.state {
            State::Waiting(response) => response,
            State::Open(_) => return Poll::Ready(Ok(())),
            State::Over(end) => return Poll::Ready(end.clone()),
        };
        let end = match ready!(Pin::new(response).poll(cx)) {
            Err(why) => Err(CallError::from_h2(self.method, &why)),
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

fn status(method: Method, headers: &HeaderMap) -> Result<(), CallError> {
    let value = |name| headers.get(name).map(http::HeaderValue::as_bytes);
    let code = value(STATUS).ok_or(CallError::Malformed {
        method,
        what: "no status",
    })?;
    let message = value("grpc-message").unwrap_or_default();
    CallError::from_status(method, code, message).map_or(Ok(()), Err)
}
