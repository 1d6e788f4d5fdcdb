//! One HTTP/2 connection to the agent: its limits, the task that drives it, and new streams on it.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use berth_grpc::call::Call;
use berth_grpc::client::MAX_HEADERS;
use berth_grpc::error::{CallError, Method};
use berth_grpc::frame::Limit;
use bytes::Bytes;
use h2::client::{Builder, SendRequest};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::client::{CALL_DEADLINE, method};
use crate::error::GuestApiError;
use crate::window::{CONNECTION_WINDOW, FIRST_WINDOW, MAX_TUNNELS, window_for};

/// Bytes of one stream that may wait to be sent, beyond the message that filled the buffer.
const SEND_BUFFER: usize = 128 * 1024;

/// Streams that we have reset and whose late frames are ignored, and for how long.
const RESETS_REMEMBERED: usize = 8192;
const RESET_MEMORY: Duration = Duration::from_secs(1);

/// Late frames of streams forgotten since, over the connection's life. Each is answered, which a hostile guest could make us do
/// without end; beyond these the connection ends. A paused guest has one for each tunnel that was given up meanwhile.
const LATE_FRAMES: usize = 16 * 1024;

/// The way to open streams. Clones share the connection; it ends when the last clone and the last stream are gone.
#[derive(Clone)]
pub(crate) struct Connection {
    requests: SendRequest<Bytes>,
    tunnels: Arc<Semaphore>,
    labels: Arc<AtomicU64>,
    over: CancellationToken,
}

impl Connection {
    /// Sends HTTP/2's preface on `stream` and starts the task that drives the connection.
    pub(crate) async fn begin<S>(
        stream: S,
        tracker: &TaskTracker,
        cancel: CancellationToken,
    ) -> Result<Self, GuestApiError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        // No pings of ours: Go's server answers those that are closer than five minutes with GOAWAY.
        let handshake = Builder::new()
            .enable_push(false)
            .initial_window_size(FIRST_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(MAX_HEADERS)
            .max_send_buffer_size(SEND_BUFFER)
            .max_concurrent_reset_streams(RESETS_REMEMBERED)
            .reset_stream_duration(RESET_MEMORY)
            .max_local_error_reset_streams(Some(LATE_FRAMES))
            .handshake(stream);
        let (requests, connection) = timeout(CALL_DEADLINE, handshake)
            .await
            .map_err(|_| CallError::TimedOut {
                method: method("the HTTP/2 preface"),
                after: CALL_DEADLINE,
            })?
            .map_err(|why| CallError::lost(method("the HTTP/2 preface"), &why))?;
        let tunnels = Arc::new(Semaphore::new(MAX_TUNNELS));
        let over = CancellationToken::new();
        let driver = Driver {
            connection,
            tunnels: Arc::clone(&tunnels),
            window: FIRST_WINDOW,
        };
        let guard = over.clone().drop_guard();
        tracker.spawn(async move {
            // Its errors reach every call that they concern.
            let _ = cancel.run_until_cancelled(driver).await;
            drop(guard);
        });
        Ok(Self {
            requests,
            tunnels,
            labels: Arc::default(),
            over,
        })
    }

    /// Resolves when the connection has ended, for whatever reason.
    pub(crate) async fn over(&self) {
        self.over.cancelled().await;
    }

    /// A number for the next tunnel's label, from 1.
    pub(crate) fn next_label(&self) -> u64 {
        self.labels.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Waits for one of the connection's [`MAX_TUNNELS`] places.
    pub(crate) async fn place(
        &self,
        until: Instant,
    ) -> Result<OwnedSemaphorePermit, GuestApiError> {
        match timeout_at(until, Arc::clone(&self.tunnels).acquire_owned()).await {
            Ok(Ok(place)) => Ok(place),
            // Nobody closes the semaphore.
            Ok(Err(_)) | Err(_) => Err(GuestApiError::Full { most: MAX_TUNNELS }),
        }
    }

    /// Opens a stream and sends its headers. `until` ends the wait for an agent that takes no more streams.
    pub(crate) async fn open(&self, method: Method, until: Instant) -> Result<Call, CallError> {
        berth_grpc::client::open(&self.requests, method, Limit::Mib4, until, CALL_DEADLINE).await
    }
}

/// Drives the connection, and fits the tunnels' windows to their number.
struct Driver<S> {
    connection: h2::client::Connection<S, Bytes>,
    tunnels: Arc<Semaphore>,
    window: u32,
}

impl<S> Future for Driver<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    type Output = Result<(), h2::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        loop {
            if let Poll::Ready(end) = Pin::new(&mut self.connection).poll(cx) {
                return Poll::Ready(end);
            }
            // Whoever opens or resets a tunnel wakes this task, and so does the agent's consent to the last change.
            let open = MAX_TUNNELS - self.tunnels.available_permits();
            let window = window_for(open, self.window);
            if window == self.window || self.connection.set_initial_window_size(window).is_err() {
                return Poll::Pending;
            }
            self.window = window;
        }
    }
}
