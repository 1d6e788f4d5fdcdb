//! Both ends of a link in one process, and raw ends that speak its bytes by hand.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "tests only; each binary uses its own part"
)]

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use berth_link::event::{BootId, GuestEvent, Refusal, Request, Response, Welcome};
use berth_link::flow::{FlowHeader, FlowKind};
use berth_link::frame::{FrameHeader, FrameKind, HEADER_LEN, INITIAL_CREDIT, ResetCode};
use berth_link::guest::{Board, Duties, GuestIdentity, ReverseOpener};
use berth_link::hello::{Ack, GREETING_LEN, Greeting, Hello, Scanner, VERSION};
use berth_link::host::{Carrier, Connector, LinkEvent, LinkHandle, Supervisor};
use berth_link::mux::{self, Inbox, Limits, LinkStream, Side};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// Longer than anything takes: only a hang reaches it.
pub(crate) const HANG: Duration = Duration::from_secs(60);

pub(crate) const BOOT: BootId =
    BootId(*b"\x01\x23\x45\x67\x89\xab\xcd\xef\xfe\xdc\xba\x98\x76\x54\x32\x10");

/// Hands out prepared carriers, one per connection; waits when there is none.
#[derive(Default)]
pub(crate) struct Carriers {
    ready: Mutex<VecDeque<io::Result<Box<dyn Carrier>>>>,
    added: Notify,
    asked: Mutex<Vec<Instant>>,
}

impl Carriers {
    pub(crate) fn add(&self, carrier: impl Carrier + 'static) {
        self.ready.lock().unwrap().push_back(Ok(Box::new(carrier)));
        self.added.notify_one();
    }

    pub(crate) fn add_failure(&self, error: io::Error) {
        self.ready.lock().unwrap().push_back(Err(error));
        self.added.notify_one();
    }

    /// A new carrier; the guest's end of it.
    pub(crate) fn add_pipe(&self) -> DuplexStream {
        let (host, guest) = tokio::io::duplex(64 * 1024);
        self.add(host);
        guest
    }

    /// When the host asked for a carrier.
    pub(crate) fn asked(&self) -> Vec<Instant> {
        self.asked.lock().unwrap().clone()
    }
}

#[async_trait]
impl Connector for Carriers {
    async fn connect(&self) -> io::Result<Box<dyn Carrier>> {
        self.asked.lock().unwrap().push(Instant::now());
        loop {
            if let Some(carrier) = self.ready.lock().unwrap().pop_front() {
                return carrier;
            }
            self.added.notified().await;
        }
    }
}

/// A running host end.
pub(crate) struct Host {
    pub(crate) carriers: Arc<Carriers>,
    pub(crate) link: LinkHandle,
    pub(crate) events: mpsc::Receiver<LinkEvent>,
    pub(crate) tracker: TaskTracker,
    pub(crate) cancel: CancellationToken,
    _stop: DropGuard,
}

impl Host {
    pub(crate) fn start() -> Self {
        let carriers = Arc::new(Carriers::default());
        let tracker = TaskTracker::new();
        let cancel = CancellationToken::new();
        let welcome = || Welcome {
            host_time: UNIX_EPOCH + Duration::from_secs(1_700_000_000),
        };
        let (link, events) = Supervisor::start(
            carriers.clone(),
            Arc::new(welcome),
            &tracker,
            cancel.clone(),
        );
        Self {
            carriers,
            link,
            events,
            tracker,
            cancel: cancel.clone(),
            _stop: cancel.drop_guard(),
        }
    }

    pub(crate) async fn next(&mut self) -> LinkEvent {
        within(self.events.recv()).await.expect("the link stopped")
    }

    /// The next event, which must be the beginning of a session.
    pub(crate) async fn up(&mut self) -> u64 {
        match self.next().await {
            LinkEvent::Up { generation, peer } => {
                assert_eq!((peer.boot_id, peer.protocol), (BOOT, VERSION));
                generation
            }
            other => panic!("expected Up, got {other:?}"),
        }
    }

    /// The next event, which must be the end of a session: its reason with all causes.
    pub(crate) async fn down(&mut self) -> String {
        match self.next().await {
            LinkEvent::Down { reason, .. } => causes(&reason),
            other => panic!("expected Down, got {other:?}"),
        }
    }

    pub(crate) async fn guest_event(&mut self) -> GuestEvent {
        match self.next().await {
            LinkEvent::Guest(event) => event,
            other => panic!("expected an event of the guest, got {other:?}"),
        }
    }

    pub(crate) async fn snapshot(&mut self) -> berth_link::event::Snapshot {
        match self.guest_event().await {
            GuestEvent::Snapshot(snapshot) => *snapshot,
            other => panic!("expected a snapshot, got {other:?}"),
        }
    }
}

pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

pub(crate) async fn within<F: Future>(future: F) -> F::Output {
    timeout(HANG, future)
        .await
        .expect("nothing happened for a minute")
}

pub(crate) fn board() -> Board {
    Board::new(GuestIdentity {
        boot_id: BOOT,
        kernel: "6.1.0-test".into(),
        agent_version: "0.1.0".into(),
        instance_id: "iid-1".into(),
    })
}

/// Duties that note what they were told, and echo what comes to the unix socket `/echo`.
#[derive(Default)]
pub(crate) struct Noted {
    pub(crate) welcomes: Mutex<Vec<Welcome>>,
    pub(crate) requests: Mutex<Vec<Request>>,
    /// Of the last session.
    pub(crate) reverse: Mutex<Option<ReverseOpener>>,
    pub(crate) syncs_never_end: bool,
}

impl Noted {
    pub(crate) fn reverse(&self) -> ReverseOpener {
        self.reverse
            .lock()
            .unwrap()
            .clone()
            .expect("no session yet")
    }
}

impl Duties for Noted {
    fn begin(&self, reverse: ReverseOpener) {
        *self.reverse.lock().unwrap() = Some(reverse);
    }

    fn welcome(&self, welcome: Welcome) {
        self.welcomes.lock().unwrap().push(welcome);
    }

    async fn answer(&self, request: Request) -> Response {
        self.requests.lock().unwrap().push(request.clone());
        match request {
            Request::FollowCloudInit => Err(Refusal("no\x1b cloud-init".into())),
            Request::Sync if self.syncs_never_end => std::future::pending().await,
            _ => Ok(()),
        }
    }

    fn flow(&self, header: FlowHeader, stream: LinkStream) {
        if header != FlowHeader::new(FlowKind::Unix, "/echo").unwrap() {
            return stream.reset(ResetCode::Unsupported);
        }
        TaskTracker::new().spawn(async move {
            let (mut read, mut write) = tokio::io::split(stream);
            let _ = tokio::io::copy(&mut read, &mut write).await;
            let _ = write.shutdown().await;
        });
    }
}

/// A guest by hand.
pub(crate) struct RawGuest(pub(crate) DuplexStream);

impl RawGuest {
    pub(crate) async fn hello(&mut self) -> Hello {
        let mut frame = [0; GREETING_LEN];
        within(self.0.read_exact(&mut frame))
            .await
            .expect("no HELLO");
        match Greeting::decode(&frame) {
            Some(Greeting::Hello(hello)) => hello,
            other => panic!("expected a HELLO, got {other:?}"),
        }
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        within(self.0.write_all(bytes)).await.expect("host hung up");
    }

    pub(crate) async fn ack(&mut self, hello: Hello) {
        self.send(&ack(hello)).await;
    }

    /// Reads one frame of the session.
    pub(crate) async fn frame(&mut self) -> (FrameHeader, Vec<u8>) {
        let mut header = [0; HEADER_LEN];
        within(self.0.read_exact(&mut header))
            .await
            .expect("no frame");
        let header = FrameHeader::decode(header).expect("a frame");
        let mut payload = vec![0; header.length];
        within(self.0.read_exact(&mut payload))
            .await
            .expect("no payload");
        (header, payload)
    }

    /// Joins a session, with a snapshot.
    pub(crate) async fn join(&mut self) -> Hello {
        let hello = self.hello().await;
        self.ack(hello).await;
        self.opening().await;
        self.send(&frame(2, 1, &snapshot_message())).await;
        hello
    }

    /// Reads how the host begins a session: the control stream and the welcome.
    pub(crate) async fn opening(&mut self) {
        let (open, header) = self.frame().await;
        assert_eq!(
            (open.kind, open.stream, &header[..]),
            (FrameKind::Open, 1, &b"\x01"[..])
        );
        let (data, _welcome) = self.frame().await;
        assert_eq!((data.kind, data.stream), (FrameKind::Data, 1));
    }

    /// A session with the multiplexer of the crate and messages by hand: the control stream, behind the snapshot.
    pub(crate) async fn join_with_mux(mut self, tracker: &TaskTracker) -> LinkStream {
        let hello = self.hello().await;
        self.ack(hello).await;
        let limits = Limits {
            own_streams: 8,
            peer_streams: 8,
            window: INITIAL_CREDIT,
            budget: 0,
        };
        let (_, mut incoming, mut driver) =
            mux::new(self.0, Inbox::default(), Side::Guest, hello.session, limits);
        tracker.spawn(async move { driver.run().await });
        let (_, mut control) = within(incoming.accept()).await.unwrap();
        control.write_all(&snapshot_message()).await.unwrap();
        control
    }

    /// Whether the host has ended the carrier.
    pub(crate) async fn at_end(&mut self) -> bool {
        let mut rest = Vec::new();
        within(self.0.read_to_end(&mut rest)).await.is_ok()
    }
}

pub(crate) fn ack(hello: Hello) -> [u8; GREETING_LEN] {
    Greeting::Ack(Ack {
        version: VERSION,
        session: hello.session,
        boot_id: BOOT,
        agent_version: "0.1.0".into(),
    })
    .encode()
}

/// A frame by hand, valid or not.
pub(crate) fn frame(kind: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let [_, length @ ..] = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = vec![kind];
    bytes.extend(length);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A control message by hand, with its length.
pub(crate) fn message(body: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(body.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend(body);
    bytes
}

/// `GuestMessage { snapshot { boot_id } }`.
pub(crate) fn snapshot_message() -> Vec<u8> {
    let mut body = vec![0x0a, 0x12, 0x0a, 0x10];
    body.extend(BOOT.0);
    message(&body)
}

/// `GuestMessage { cloud_init { line } }`.
pub(crate) fn line_message(line: &str) -> Vec<u8> {
    let length = u8::try_from(line.len()).unwrap();
    let mut body = vec![0x22, length + 2, 0x0a, length];
    body.extend(line.as_bytes());
    message(&body)
}

/// `GuestMessage { stage { KernelUp, uptime } }`.
pub(crate) fn stage_message(uptime_ms: u8) -> Vec<u8> {
    assert!((1..128).contains(&uptime_ms));
    message(&[0x12, 4, 0x08, 1, 0x10, uptime_ms])
}

/// Every greeting in some bytes.
pub(crate) fn greetings(mut bytes: &[u8]) -> Vec<Greeting> {
    let mut scanner = Scanner::default();
    std::iter::from_fn(|| scanner.scan(&mut bytes)).collect()
}
