//! One connection to Lima's guest agent, and the methods called on it.

use std::fmt;
use std::future::poll_fn;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use berth_grpc::call::Call;
use berth_grpc::error::{CallError, Method, printable};
use berth_grpc::frame::{Limit, framed};

use crate::connection::Connection;
use crate::error::GuestApiError;
use crate::fields::Malformed;
use crate::file_events::FileEvents;
use crate::message::{Empty, TimeSyncRequest, TimeSyncResponse};
use crate::port::{PortChanges, PortList};
use crate::tunnel::{Tunnel, TunnelTarget};

/// Largest message taken from the guest, in bytes.
pub const MAX_MESSAGE: usize = Limit::Mib4.bytes();

/// A method of the service.
pub(crate) const fn method(name: &'static str) -> Method {
    Method {
        peer: "Lima's guest agent",
        service: "GuestService",
        name,
    }
}

/// How long the agent has to answer a unary call, and to take a new stream.
pub const CALL_DEADLINE: Duration = Duration::from_secs(3);

/// A connection to Lima's guest agent. Clones share it; it ends when the last one is dropped, and every stream on it.
///
/// Streams share the connection's bytes: whoever wants calls that never wait behind bulk data gives them a connection of
/// their own. Lima's agent takes any number of connections to its socket.
#[derive(Clone)]
pub struct GuestApi {
    connection: Connection,
}

impl GuestApi {
    /// Begins HTTP/2 on `stream`, which somebody has just connected.
    ///
    /// The connection's task runs on `tracker` until `cancel`. Success does not yet mean that an agent is there: only
    /// [`GuestApi::info`] does.
    pub async fn connect<S>(
        stream: S,
        tracker: &TaskTracker,
        cancel: CancellationToken,
    ) -> Result<Self, GuestApiError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let connection = Connection::begin(stream, tracker, cancel).await?;
        Ok(Self { connection })
    }

    /// Resolves when the connection has ended, for whatever reason.
    pub async fn over(&self) {
        self.connection.over().await;
    }

    /// Asks for every listening port; also the proof that the agent is alive.
    pub async fn info(&self) -> Result<PortList, GuestApiError> {
        self.unary("GetInfo", framed(&Empty {}), PortList::read)
            .await
    }

    /// Tells the agent the host's time. If the guest's clock is off by more than 100 ms, the agent sets it.
    pub async fn sync_time(&self, host_time: SystemTime) -> Result<ClockReport, GuestApiError> {
        let request = TimeSyncRequest {
            host_time: Some(host_time.into()),
        };
        self.unary("SyncTime", framed(&request), ClockReport::read)
            .await
    }

    /// Subscribes to changes of listening ports.
    ///
    /// Lima's agent begins with the difference to what it told the stream before this one, so a caller asks for
    /// [`GuestApi::info`] on each connection, or keeps its list across connections of the same boot.
    pub async fn events(&self) -> Result<EventStream, GuestApiError> {
        let mut call = self.open("GetEvents", deadline()).await?;
        call.send(framed(&Empty {}), true)?;
        Ok(EventStream {
            call: Some(call),
            begun: BytesMut::new(),
        })
    }

    /// Begins a stream of file events.
    pub async fn file_events(&self) -> Result<FileEvents, GuestApiError> {
        Ok(FileEvents::new(self.open("PostInotify", deadline()).await?))
    }

    /// Opens a tunnel to a socket in the guest. Waits for a free place and a stream, at most [`CALL_DEADLINE`].
    ///
    /// Success does not mean that the guest accepts: the agent tells only when it refuses, and the tunnel's first read fails
    /// then. What is written before is lost.
    pub async fn tunnel(&self, target: &TunnelTarget) -> Result<Tunnel, GuestApiError> {
        let until = deadline();
        let place = self.connection.place(until).await?;
        let call = self.open("Tunnel", until).await?;
        Tunnel::begin(call, place, target, self.connection.next_label())
    }

    async fn open(&self, method: &'static str, until: Instant) -> Result<Call, GuestApiError> {
        Ok(self.connection.open(self::method(method), until).await?)
    }

    async fn unary<T>(
        &self,
        method: &'static str,
        request: Bytes,
        read: impl FnOnce(&[u8]) -> Result<T, Malformed>,
    ) -> Result<T, GuestApiError> {
        let until = deadline();
        let call = async {
            let mut call = self.open(method, until).await?;
            call.send(request, true)?;
            Ok::<_, GuestApiError>(call.answer.the_message().await?)
        };
        let message = timeout_at(until, call)
            .await
            .map_err(|_| CallError::TimedOut {
                method: self::method(method),
                after: CALL_DEADLINE,
            })??;
        read(&message).map_err(|Malformed(what)| {
            let method = self::method(method);
            GuestApiError::Call(CallError::Malformed { method, what })
        })
    }
}

fn deadline() -> Instant {
    Instant::now() + CALL_DEADLINE
}

impl fmt::Debug for GuestApi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuestApi").finish_non_exhaustive()
    }
}

/// What the agent found when it was told the time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClockReport {
    /// The guest's clock was set.
    pub adjusted: bool,
    /// Guest minus host before that, in milliseconds.
    pub drift_ms: i64,
    /// Why the clock could not be set; escaped, at most 1 KiB.
    pub failure: Option<String>,
}

impl ClockReport {
    fn read(message: &[u8]) -> Result<Self, Malformed> {
        let answer =
            TimeSyncResponse::decode(message).map_err(|_| Malformed("what is no message"))?;
        let failure = (!answer.error.is_empty()).then(|| printable(&answer.error, 1024));
        Ok(Self {
            adjusted: answer.adjusted,
            drift_ms: answer.drift_ms,
            failure,
        })
    }
}

/// Changes of listening ports, as the guest reports them.
pub struct EventStream {
    /// `None` once its end was told.
    call: Option<Call>,
    begun: BytesMut,
}

impl EventStream {
    /// Waits for the next change, without a deadline: the first answer may be hours away. `None`: the agent ended the stream
    /// in good order. Cancel-safe.
    pub async fn next(&mut self) -> Option<Result<PortChanges, GuestApiError>> {
        let answer = &mut self.call.as_mut()?.answer;
        let event = poll_fn(|cx| answer.poll_message(&mut self.begun, cx)).await;
        let changes = event.map(|event| {
            PortChanges::read(&event?).map_err(|Malformed(what)| {
                let method = answer.method();
                GuestApiError::Call(CallError::Malformed { method, what })
            })
        });
        if !matches!(changes, Some(Ok(_))) {
            self.call = None;
        }
        changes
    }
}

impl fmt::Debug for EventStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventStream")
            .field("open", &self.call.is_some())
            .finish_non_exhaustive()
    }
}
