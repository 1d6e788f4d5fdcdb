//! A guest agent that speaks `GuestService` byte by byte: HTTP/2 by the `h2` crate with the settings of Lima's agent, gRPC by
//! hand. It does nothing by itself: its calls are handed to the test.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use h2::server::{Connection, SendResponse};
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use berth_guest_api::message::TunnelMessage;

/// Longer than anything takes: only a hang reaches it.
pub(crate) const HANG: Duration = Duration::from_secs(60);

pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    timeout(HANG, future)
        .await
        .expect("nothing happened for a minute")
}

/// An agent on one connection.
pub(crate) struct Agent {
    pub(crate) calls: mpsc::Receiver<Call>,
    /// Cuts the connection without a word.
    pub(crate) cut: CancellationToken,
    /// Ends the connection as Go's graceful stop does: GOAWAY, then the end of the last stream.
    pub(crate) stop: CancellationToken,
}

impl Agent {
    /// Serves with the settings of Lima's agent.
    pub(crate) fn serve<S>(stream: S, tracker: &TaskTracker) -> Self
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        Self::serve_with(stream, tracker, 2048)
    }

    /// The same with another `MAX_CONCURRENT_STREAMS`.
    pub(crate) fn serve_with<S>(stream: S, tracker: &TaskTracker, streams: u32) -> Self
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (arriving, calls) = mpsc::channel(4096);
        let (cut, stop) = (CancellationToken::new(), CancellationToken::new());
        let agent = Self {
            calls,
            cut: cut.clone(),
            stop: stop.clone(),
        };
        tracker.spawn(async move {
            let mut connection = h2::server::Builder::new()
                .max_concurrent_streams(streams)
                .initial_window_size(512 << 20)
                .initial_connection_window_size(512 << 20)
                .max_pending_accept_reset_streams(4096)
                .handshake(stream)
                .await
                .unwrap();
            cut.run_until_cancelled(accept(&mut connection, arriving, stop))
                .await;
        });
        agent
    }

    pub(crate) async fn call(&mut self) -> Call {
        within(self.calls.recv())
            .await
            .expect("the connection ended")
    }

    /// The next call, which is of this method.
    pub(crate) async fn call_of(&mut self, method: &str) -> Call {
        let call = self.call().await;
        call.check(method);
        call
    }
}

async fn accept<S>(
    connection: &mut Connection<S, Bytes>,
    arriving: mpsc::Sender<Call>,
    stop: CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut stopping = false;
    loop {
        tokio::select! {
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                connection.graceful_shutdown();
            }
            call = connection.accept() => {
                let Some(Ok((request, respond))) = call else { return };
                let _ = arriving.send(Call { request, respond, begun: BytesMut::new() }).await;
            }
        }
    }
}

/// One call as it arrived.
pub(crate) struct Call {
    pub(crate) request: Request<RecvStream>,
    pub(crate) respond: SendResponse<Bytes>,
    begun: BytesMut,
}

impl Call {
    pub(crate) fn method(&self) -> &str {
        self.request.uri().path().rsplit('/').next().unwrap()
    }

    /// Checks everything that gRPC asks of a request's head.
    pub(crate) fn check(&self, method: &str) {
        let request = &self.request;
        assert_eq!(request.method(), "POST");
        assert_eq!(
            request.uri().to_string(),
            format!("http://localhost/GuestService/{method}")
        );
        assert_eq!(request.headers()["content-type"], "application/grpc");
        assert_eq!(request.headers()["te"], "trailers");
        assert!(!request.headers().contains_key("grpc-encoding"));
    }

    /// Everything that the caller sends until it closes its direction.
    pub(crate) async fn body(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        while let Some(data) = within(self.request.body_mut().data()).await {
            body.extend(data.unwrap());
        }
        body
    }

    /// The next message; `None` when the caller has closed its direction; an error when it has reset the call.
    pub(crate) async fn message(&mut self) -> Result<Option<Bytes>, h2::Error> {
        loop {
            if let Some(prefix) = self.begun.first_chunk::<5>() {
                assert_eq!(prefix[0], 0, "no compression");
                let length = u32::from_be_bytes(prefix[1..].try_into().unwrap()) as usize;
                if self.begun.len() >= 5 + length {
                    self.begun.advance(5);
                    return Ok(Some(self.begun.split_to(length).freeze()));
                }
            }
            let body = self.request.body_mut();
            match within(body.data()).await {
                None => {
                    assert!(self.begun.is_empty(), "a message was cut off");
                    return Ok(None);
                }
                Some(data) => {
                    let data = data?;
                    body.flow_control().release_capacity(data.len()).unwrap();
                    self.begun.extend_from_slice(&data);
                }
            }
        }
    }

    /// The next message of a tunnel, which is there.
    pub(crate) async fn tunnelled(&mut self) -> TunnelMessage {
        let message = self.message().await.unwrap().expect("a message");
        TunnelMessage::decode(message).unwrap()
    }

    /// Begins the answer.
    pub(crate) fn headers(&mut self) -> SendStream<Bytes> {
        let response = Response::builder().header("content-type", "application/grpc");
        self.respond
            .send_response(response.body(()).unwrap(), false)
            .unwrap()
    }

    /// An answer that is a status only, as Go sends it when a method fails at once.
    pub(crate) fn fail(mut self, status: &str, message: &str) {
        let response = Response::builder()
            .header("content-type", "application/grpc")
            .header("grpc-status", status)
            .header("grpc-message", message);
        self.respond
            .send_response(response.body(()).unwrap(), true)
            .unwrap();
    }

    /// Answers with one message.
    pub(crate) fn answer(mut self, message: &[u8]) {
        let mut answer = self.headers();
        send(&mut answer, message);
        succeed(&mut answer);
    }
}

pub(crate) fn framed(message: &[u8]) -> Bytes {
    let mut frame = vec![0];
    frame.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    frame.extend(message);
    frame.into()
}

pub(crate) fn send(stream: &mut SendStream<Bytes>, message: &[u8]) {
    stream.send_data(framed(message), false).unwrap();
}

/// A message from the guest's end of a tunnel: Lima's agent sends label and payload only.
pub(crate) fn from_guest(data: &[u8]) -> Vec<u8> {
    TunnelMessage {
        id: "tcp-127.0.0.1:80-1".into(),
        data: data.into(),
        ..TunnelMessage::default()
    }
    .encode_to_vec()
}

pub(crate) fn succeed(stream: &mut SendStream<Bytes>) {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    stream.send_trailers(trailers).unwrap();
}

/// Sends the bytes as the window allows it, and says how many went while nobody released any.
pub(crate) async fn flood(stream: &mut SendStream<Bytes>, message: &[u8]) -> usize {
    let mut sent = 0;
    let frame = framed(message);
    loop {
        stream.reserve_capacity(frame.len());
        while stream.capacity() < frame.len() {
            let more = std::future::poll_fn(|cx| stream.poll_capacity(cx));
            match timeout(Duration::from_millis(300), more).await {
                Ok(Some(Ok(_))) => {}
                Ok(_) | Err(_) => return sent,
            }
        }
        stream.send_data(frame.clone(), false).unwrap();
        sent += frame.len();
    }
}
