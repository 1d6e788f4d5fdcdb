//! A host and a guest with tunnels, linked.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use berth_link::event::{BootId, Refusal, Request, Response, Welcome};
use berth_link::flow::{FlowHeader, FlowKind};
use berth_link::guest::{Arrival, Board, Duties, GuestIdentity, ReverseOpener, serve_carrier};
use berth_link::host::{Carrier, Connector, LinkEvent, LinkHandle, Supervisor};
use berth_link::mux::LinkStream;
use rustix::process::{getegid, geteuid};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::accounts::Owner;
use crate::args::chain;
use crate::guest::Guest;
use crate::programs::SystemPrograms;
use crate::tunnels::Tunnels;

/// Longer than anything takes: only a hang reaches it.
const HANG: Duration = Duration::from_secs(60);

pub(super) async fn within<F: Future>(future: F) -> F::Output {
    timeout(HANG, future)
        .await
        .expect("nothing happened for a minute")
}

/// A guest with a user named `lima`, and its host.
pub(super) struct Setting {
    pub(super) link: LinkHandle,
    events: mpsc::Receiver<LinkEvent>,
    pub(super) tunnels: Arc<Tunnels>,
    session: Arc<Mutex<CancellationToken>>,
    root: TempDir,
    _stop: DropGuard,
}

/// The instance's user: somebody else, if this is root.
pub(super) fn user() -> Owner {
    if geteuid().is_root() {
        Owner {
            uid: 54_321,
            gid: 54_322,
        }
    } else {
        Owner {
            uid: geteuid().as_raw(),
            gid: getegid().as_raw(),
        }
    }
}

struct Line(mpsc::UnboundedSender<UnixStream>);

#[async_trait]
impl Connector for Line {
    async fn connect(&self) -> io::Result<Box<dyn Carrier>> {
        let (host, guest) = UnixStream::pair()?;
        self.0.send(guest).map_err(io::Error::other)?;
        Ok(Box::new(host))
    }
}

struct TunnelDuties(Arc<Tunnels>);

impl Duties for TunnelDuties {
    fn begin(&self, reverse: ReverseOpener) {
        self.0.begin(reverse);
    }

    fn welcome(&self, _welcome: Welcome) {}

    async fn answer(&self, request: Request) -> Response {
        let answer = match request {
            Request::Listen(listener) => self.0.listen(listener).await,
            Request::Unlisten { id } => self.0.unlisten(id).await,
            other => panic!("{other:?}"),
        };
        answer.map_err(|why| Refusal(chain(&why)))
    }

    fn flow(&self, header: FlowHeader, stream: LinkStream) {
        self.0.flow(header, stream);
    }
}

impl Setting {
    /// A guest whose user is known.
    pub(super) async fn new() -> Self {
        let setting = Self::without_user().await;
        setting.tunnels.set_user("lima");
        setting
    }

    /// A guest that has not read who its user is.
    pub(super) async fn without_user() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::set_permissions(root.path(), Permissions::from_mode(0o755)).unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        let Owner { uid, gid } = user();
        let passwd = format!("lima:x:{uid}:{gid}:Me:/home/lima:/bin/sh\n");
        fs::write(root.path().join("etc/passwd"), passwd).unwrap();
        let guest = Guest::at(root.path(), Box::new(SystemPrograms));
        let tunnels = Arc::new(Tunnels::new(&guest));
        let (tracker, cancel) = (TaskTracker::new(), CancellationToken::new());
        let session = Arc::<Mutex<CancellationToken>>::default();
        let (cable, carriers) = mpsc::unbounded_channel();
        let welcome = || Welcome {
            host_time: SystemTime::UNIX_EPOCH,
        };
        let (link, events) = Supervisor::start(
            Arc::new(Line(cable)),
            Arc::new(welcome),
            &tracker,
            cancel.clone(),
        );
        let serving = serve_all(carriers, tunnels.clone(), session.clone(), cancel.clone());
        tracker.spawn(serving);
        let mut setting = Self {
            link,
            events,
            tunnels,
            session,
            root,
            _stop: cancel.drop_guard(),
        };
        setting.up().await;
        setting
    }

    async fn up(&mut self) {
        loop {
            if let Some(LinkEvent::Up { .. }) = within(self.events.recv()).await {
                return;
            }
        }
    }

    /// Ends the session, and waits for the next.
    pub(super) async fn next_session(&mut self) {
        self.session.lock().unwrap().cancel();
        self.up().await;
    }

    /// Where a file of the guest is. The directory is the user's.
    pub(super) fn path(&self, name: &str) -> String {
        let home = self.root.path().join("home");
        if !home.exists() {
            fs::create_dir(&home).unwrap();
            let Owner { uid, gid } = user();
            std::os::unix::fs::chown(&home, Some(uid), Some(gid)).unwrap();
        }
        text(home.join(name))
    }

    /// Says which groups there are.
    pub(super) fn set_groups(&self, groups: &str) {
        fs::write(self.root.path().join("etc/group"), groups).unwrap();
    }

    /// Opens a flow.
    pub(super) fn open(&self, kind: FlowKind, address: &str) -> LinkStream {
        let header = FlowHeader::new(kind, address).unwrap();
        self.link.open_stream(&header).unwrap()
    }

    /// Opens a flow that is refused, and tells how.
    pub(super) async fn refused(&self, kind: FlowKind, address: &str) -> io::ErrorKind {
        let mut stream = self.open(kind, address);
        within(stream.read_u8()).await.unwrap_err().kind()
    }
}

async fn serve_all(
    mut carriers: mpsc::UnboundedReceiver<UnixStream>,
    tunnels: Arc<Tunnels>,
    session: Arc<Mutex<CancellationToken>>,
    cancel: CancellationToken,
) {
    let board = Board::new(GuestIdentity {
        boot_id: BootId([7; 16]),
        kernel: "6.1.0".to_owned(),
        agent_version: "0.0.0".to_owned(),
        instance_id: String::new(),
    });
    let duties = TunnelDuties(tunnels);
    while let Some(carrier) = carriers.recv().await {
        let stop = cancel.child_token();
        *session.lock().unwrap() = stop.clone();
        serve_carrier(carrier, Arrival::Quiet, &board, &duties, &stop).await;
    }
}

fn text(path: PathBuf) -> String {
    path.into_os_string().into_string().unwrap()
}

pub(super) async fn say(to: &mut (impl AsyncWrite + Unpin), text: &str) {
    within(to.write_all(text.as_bytes())).await.unwrap();
}

pub(super) async fn hear(from: &mut (impl AsyncRead + Unpin), text: &str) {
    let mut heard = vec![0; text.len()];
    within(from.read_exact(&mut heard)).await.unwrap();
    assert_eq!(String::from_utf8_lossy(&heard), text);
}

pub(super) async fn hear_end(from: &mut (impl AsyncRead + Unpin)) {
    assert_eq!(within(from.read(&mut [0])).await.unwrap(), 0);
}

pub(super) async fn hear_reset(from: &mut (impl AsyncRead + Unpin)) {
    let error = within(from.read(&mut [0])).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}
