//! Answering calls: one connection, its calls side by side, each ended by its client's reset.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use h2::server::{Builder, SendResponse};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::client::MAX_HEADERS;
use crate::error::printable;
use crate::frame::{Limit, framed};
use crate::status::{Code, percent_encoded};

/// Calls of one connection at the same time.
const MAX_CALLS: u32 = 64;

/// How long a client may take to send its request, whose size is known to be small.
const REQUEST_LIMIT: Duration = Duration::from_secs(30);

/// Longest text of a failure, in bytes: it travels in a header.
const MAX_TEXT: usize = 4096;

/// Why a call failed, for the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} ({code})")]
pub struct Status {
    /// The kind.
    pub code: Code,
    /// The reason, in words for people.
    pub message: String,
}

impl Status {
    /// A failure of this kind.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }
}

/// Sends the answers of one call.
#[derive(Debug)]
pub struct Reply(mpsc::Sender<Bytes>);

impl Reply {
    /// Sends an answer. Nobody waits for it any more when the client has gone, and then the call is dropped anyway.
    pub async fn send(&self, message: &impl Message) {
        let _ = self.0.send(framed(message)).await;
    }
}

/// What a server serves.
#[async_trait]
pub trait Service: Send + Sync + 'static {
    /// Answers one call of `/Service/Method` with its one request. The future is dropped when the client resets the call or
    /// its connection ends.
    async fn call(&self, path: &str, request: Bytes, reply: &Reply) -> Result<(), Status>;
}

/// Serves one connection until the client closes it. On `stop` no more calls are taken, and those under way are finished.
pub async fn serve<S>(
    stream: S,
    service: Arc<dyn Service>,
    tracker: &TaskTracker,
    stop: CancellationToken,
) -> Result<(), h2::Error>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let handshake = Builder::new()
        .max_concurrent_streams(MAX_CALLS)
        .max_header_list_size(MAX_HEADERS)
        .handshake(stream);
    let mut connection = match handshake.await {
        Ok(connection) => connection,
        // Somebody who only looked whether anybody listens.
        Err(why) if why.is_io() => return Ok(()),
        Err(why) => return Err(why),
    };
    let mut stopping = false;
    loop {
        let accepted = tokio::select! {
            accepted = connection.accept() => accepted,
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                connection.graceful_shutdown();
                continue;
            }
        };
        match accepted {
            None => return Ok(()),
            // Gone without a word, or before our last one: so clients end.
            Some(Err(why)) if why.is_io() => return Ok(()),
            Some(Err(why)) => return Err(why),
            Some(Ok((request, respond))) => {
                let service = Arc::clone(&service);
                tracker.spawn(answer(request, respond, service));
            }
        }
    }
}

/// Answers one call. That the client has gone is no failure.
async fn answer(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    service: Arc<dyn Service>,
) {
    let kind = request.headers().get(header::CONTENT_TYPE);
    let is_grpc = kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
    if request.method() != Method::POST || !is_grpc {
        let mut refusal = Response::new(());
        *refusal.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        let _ = respond.send_response(refusal, true);
        return;
    }
    let path = request.uri().path().to_owned();
    let read = timeout(REQUEST_LIMIT, the_request(request.into_body())).await;
    let late = || Status::new(Code::DEADLINE_EXCEEDED, "the request did not come");
    let request = match read.unwrap_or_else(|_| Err(late())) {
        Ok(request) => request,
        Err(status) => {
            let _ = refuse(&mut respond, &status);
            return;
        }
    };
    let mut head = Response::new(());
    let grpc = HeaderValue::from_static("application/grpc");
    head.headers_mut().insert(header::CONTENT_TYPE, grpc);
    let Ok(mut stream) = respond.send_response(head, false) else {
        return;
    };
    let ended = answer_in(&mut stream, &path, request, service.as_ref()).await;
    if let Some(result) = ended {
        // Fails only when the client has gone.
        let _ = stream.send_trailers(trailers(result.err().as_ref()));
    }
}

/// Runs the call and sends what it says; `None` when the client has gone.
async fn answer_in(
    stream: &mut SendStream<Bytes>,
    path: &str,
    request: Bytes,
    service: &dyn Service,
) -> Option<Result<(), Status>> {
    let (tell, mut told) = mpsc::channel(1);
    let reply = Reply(tell);
    let mut call = service.call(path, request, &reply);
    let result = loop {
        tokio::select! {
            biased;
            _ = poll_fn(|cx| stream.poll_reset(cx)) => return None,
            Some(message) = told.recv() => stream.send_data(message, false).ok()?,
            result = &mut call => break result,
        }
    };
    while let Ok(message) = told.try_recv() {
        stream.send_data(message, false).ok()?;
    }
    Some(result)
}

/// A failure before anything was answered: trailers only.
fn refuse(respond: &mut SendResponse<Bytes>, status: &Status) -> Result<(), h2::Error> {
    let mut head = Response::new(());
    *head.headers_mut() = trailers(Some(status));
    let grpc = HeaderValue::from_static("application/grpc");
    head.headers_mut().insert(header::CONTENT_TYPE, grpc);
    // What still comes of the request is reset when the stream is dropped, after the answer.
    respond.send_response(head, true).map(drop)
}

fn trailers(status: Option<&Status>) -> HeaderMap {
    let number = status.map_or(0, |status| status.code.number());
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(number));
    if let Some(status) = status {
        let text = percent_encoded(&printable_lines(&status.message));
        if let Ok(text) = HeaderValue::try_from(text) {
            trailers.insert("grpc-message", text);
        }
    }
    trailers
}

/// Keeps line breaks, which an error of several things has.
fn printable_lines(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(|line| printable(line, MAX_TEXT)).collect();
    let mut text = lines.join("\n");
    let mut end = MAX_TEXT.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

/// The one message of a request.
async fn the_request(mut body: RecvStream) -> Result<Bytes, Status> {
    let mut begun = BytesMut::new();
    let mut message = None;
    let malformed =
        |what: &str| Status::new(Code::INVALID_ARGUMENT, format!("the request is {what}"));
    while let Some(chunk) = body.data().await {
        let chunk = chunk.map_err(|why| malformed(&why.to_string()))?;
        begun.extend_from_slice(&chunk);
        // Fails only for more than was received.
        let _ = body.flow_control().release_capacity(chunk.len());
        if let Some(whole) = Limit::Mib4.take_message(&mut begun).map_err(|what| {
            Status::new(
                Code::RESOURCE_EXHAUSTED,
                format!("the request is {}", what.0),
            )
        })? && message.replace(whole).is_some()
        {
            return Err(malformed("more than one message"));
        }
    }
    match message {
        Some(message) if begun.is_empty() => Ok(message),
        _ => Err(malformed("cut off")),
    }
}
