//! What stands in for the link's streams, and sockets of both kinds.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "tests only; each binary uses its own part"
)]

pub(crate) mod lender;

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Longer than anything takes: only a hang reaches it.
pub(crate) const HANG: Duration = Duration::from_secs(60);

pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    timeout(HANG, future)
        .await
        .expect("nothing happened for a minute")
}

/// A stream that can be reset, as those of the link can.
pub(crate) struct Stream {
    pipe: DuplexStream,
    faults: Arc<Mutex<Faults>>,
    _dropped: DropGuard,
}

#[derive(Default)]
struct Faults {
    reset: Option<io::ErrorKind>,
    wakers: Vec<Waker>,
}

/// The other end of a [`Stream`].
pub(crate) struct OtherEnd {
    pub(crate) pipe: DuplexStream,
    faults: Arc<Mutex<Faults>>,
    /// Cancelled when the stream was dropped.
    pub(crate) dropped: CancellationToken,
}

/// A stream that holds `capacity` bytes each way, and its other end.
pub(crate) fn stream(capacity: usize) -> (Stream, OtherEnd) {
    let (ours, theirs) = tokio::io::duplex(capacity);
    let faults = Arc::<Mutex<Faults>>::default();
    let dropped = CancellationToken::new();
    let stream = Stream {
        pipe: ours,
        faults: faults.clone(),
        _dropped: dropped.clone().drop_guard(),
    };
    let other = OtherEnd {
        pipe: theirs,
        faults,
        dropped,
    };
    (stream, other)
}

impl OtherEnd {
    /// Makes every read and write of the stream fail.
    pub(crate) fn reset(&self, kind: io::ErrorKind) {
        let mut faults = self.faults.lock().unwrap();
        faults.reset = Some(kind);
        faults.wakers.drain(..).for_each(Waker::wake);
    }
}

impl Stream {
    fn check(&self, cx: &Context<'_>) -> io::Result<()> {
        let mut faults = self.faults.lock().unwrap();
        // The last of each kind of wait is enough.
        faults.wakers.truncate(16);
        faults.wakers.insert(0, cx.waker().clone());
        faults.reset.map_or(Ok(()), |kind| Err(kind.into()))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.pipe).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check(cx)?;
        Pin::new(&mut self.pipe).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.pipe).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.pipe).poll_shutdown(cx)
    }
}

/// A TCP connection: the client's end, and the one that was accepted.
pub(crate) async fn tcp() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
    (client.unwrap(), accepted.unwrap().0)
}

pub(crate) async fn say(to: &mut (impl AsyncWrite + Unpin + ?Sized), text: &str) {
    within(to.write_all(text.as_bytes())).await.unwrap();
}

pub(crate) async fn hear(from: &mut (impl AsyncRead + Unpin + ?Sized), text: &str) {
    let mut heard = vec![0; text.len()];
    within(from.read_exact(&mut heard)).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&heard), text);
}

pub(crate) async fn hear_end(from: &mut (impl AsyncRead + Unpin + ?Sized)) {
    assert_eq!(within(from.read(&mut [0])).await.unwrap(), 0);
}

pub(crate) async fn hear_reset(from: &mut (impl AsyncRead + Unpin + ?Sized)) {
    let error = within(from.read(&mut [0])).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

/// Sends `ours` and the end, and hears `theirs` meanwhile.
pub(crate) async fn exchange(end: impl AsyncRead + AsyncWrite, ours: &[u8], theirs: &[u8]) {
    let (mut read, mut write) = tokio::io::split(end);
    let writing = async {
        write.write_all(ours).await.unwrap();
        write.shutdown().await.unwrap();
    };
    let mut heard = Vec::new();
    let ((), heard_all) = tokio::join!(writing, read.read_to_end(&mut heard));
    heard_all.unwrap();
    assert!(heard == theirs);
}
