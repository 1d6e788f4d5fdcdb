//! A connection to a service: calls with one answer, and calls whose answers come one by one.

use std::fmt;
use std::future::poll_fn;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use h2::client::{Builder, SendRequest};
use http::{HeaderValue, Method as HttpMethod, Request, Uri, Version, header};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::call::Call;
use crate::error::{CallError, Method};
use crate::frame::{Limit, framed};

/// Longest list of headers or trailers, in bytes as HTTP/2 counts them. The peer's error text travels in them.
pub const MAX_HEADERS: u32 = 16 * 1024;

/// How long a peer may take to accept a stream, and the connection itself.
const OPEN_LIMIT: Duration = Duration::from_secs(10);

/// Opens a stream and sends its headers. `until` ends the wait for a peer that takes no more streams; `after` is how long that
/// was, for the error.
pub async fn open(
    requests: &SendRequest<Bytes>,
    method: Method,
    limit: Limit,
    until: Instant,
    after: Duration,
) -> Result<Call, CallError> {
    let lost = |why: h2::Error| CallError::lost(method, &why);
    let mut requests = requests.clone();
    let (response, send) = requests
        .send_request(request(method), false)
        .map_err(lost)?;
    // Ready again means that the stream just made does not wait for its turn.
    match timeout_at(until, requests.ready()).await {
        Ok(ready) => drop(ready.map_err(lost)?),
        Err(_) => return Err(CallError::TimedOut { method, after }),
    }
    Ok(Call::new(method, limit, send, response))
}

/// The head of a call.
fn request(method: Method) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = HttpMethod::POST;
    *request.version_mut() = Version::HTTP_2;
    // An empty authority, as Go's client sends it, is refused by some servers; Go's takes any.
    let uri = format!("http://localhost/{}/{}", method.service, method.name);
    *request.uri_mut() = Uri::try_from(uri).unwrap_or_default();
    let headers = request.headers_mut();
    let grpc = HeaderValue::from_static("application/grpc");
    headers.insert(header::CONTENT_TYPE, grpc);
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static("berth"));
    request
}

/// A connection for calls that are few and small. Clones share it; it ends when the last clone and the last call are gone.
#[derive(Clone)]
pub struct Client {
    requests: SendRequest<Bytes>,
    limit: Limit,
    over: CancellationToken,
}

impl Client {
    /// Begins HTTP/2 on `stream`, which somebody has just connected. The connection's task runs on `tracker` until `cancel`.
    ///
    /// `greeting` names the connection in errors; answers up to `limit` are taken.
    pub async fn begin<S>(
        stream: S,
        greeting: Method,
        limit: Limit,
        tracker: &TaskTracker,
        cancel: CancellationToken,
    ) -> Result<Self, CallError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let handshake = Builder::new()
            .enable_push(false)
            .max_header_list_size(MAX_HEADERS)
            .handshake(stream);
        let (requests, connection) = timeout(OPEN_LIMIT, handshake)
            .await
            .map_err(|_| CallError::TimedOut {
                method: greeting,
                after: OPEN_LIMIT,
            })?
            .map_err(|why| CallError::lost(greeting, &why))?;
        let over = CancellationToken::new();
        let guard = over.clone().drop_guard();
        tracker.spawn(async move {
            // Its errors reach every call that they concern.
            let _ = cancel.run_until_cancelled(connection).await;
            drop(guard);
        });
        Ok(Self {
            requests,
            limit,
            over,
        })
    }

    /// Resolves when the connection has ended, for whatever reason.
    pub async fn over(&self) {
        self.over.cancelled().await;
    }

    /// Calls a method that has one answer. Without a deadline it ends with the answer, with the connection, or when the future
    /// is dropped, which resets the call.
    pub async fn unary<A: Message + Default>(
        &self,
        method: Method,
        request: &impl Message,
        deadline: Option<Duration>,
    ) -> Result<A, CallError> {
        let call = async {
            let mut call = self.call(method, request).await?;
            call.answer.the_message().await
        };
        let message = match deadline {
            Some(after) => timeout(after, call)
                .await
                .unwrap_or(Err(CallError::TimedOut { method, after })),
            None => call.await,
        }?;
        decode(method, &message)
    }

    /// Calls a method whose answers come one by one.
    pub async fn streaming(
        &self,
        method: Method,
        request: &impl Message,
    ) -> Result<Answers, CallError> {
        Ok(Answers {
            call: self.call(method, request).await?,
            begun: BytesMut::new(),
        })
    }

    async fn call(&self, method: Method, request: &impl Message) -> Result<Call, CallError> {
        let until = Instant::now() + OPEN_LIMIT;
        let mut call = open(&self.requests, method, self.limit, until, OPEN_LIMIT).await?;
        call.send(framed(request), true)?;
        Ok(call)
    }
}

fn decode<A: Message + Default>(method: Method, message: &[u8]) -> Result<A, CallError> {
    A::decode(message).map_err(|_| CallError::Malformed {
        method,
        what: "what is no message",
    })
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

/// The answers of a call. Dropped before their end, the call is reset.
#[derive(Debug)]
pub struct Answers {
    call: Call,
    begun: BytesMut,
}

impl Answers {
    /// Waits for the next answer, without a deadline. `None`: the peer ended in good order. Cancel-safe.
    pub async fn next<A: Message + Default>(&mut self) -> Option<Result<A, CallError>> {
        let answer = &mut self.call.answer;
        let message = poll_fn(|cx| answer.poll_message(&mut self.begun, cx)).await;
        let method = answer.method();
        message.map(|message| decode(method, &message?))
    }
}
