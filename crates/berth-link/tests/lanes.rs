//! A lane beside the link: connections only, and only while the link is up.

#![allow(clippy::unwrap_used, reason = "tests only")]
#![cfg(target_os = "linux")]

mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use berth_link::flow::{FlowHeader, FlowKind};
use berth_link::guest::{Arrival, open_port, serve_carrier, serve_lane};
use berth_link::host::{Lane, LaneHandle, LinkError, LinkState};
use berth_link::mux::Load;
use support::{Carriers, Host, Noted, RawGuest, ack, board, frame, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;

/// A host with a lane, and the lane's port in a guest.
struct Scene {
    host: Host,
    lane: LaneHandle,
    carriers: Arc<Carriers>,
    port: PathBuf,
    listener: UnixListener,
    _dir: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let host = Host::start();
        let carriers = Arc::new(Carriers::default());
        let (lane, handle) = Lane::new(carriers.clone(), host.link.clone());
        host.tracker.spawn(lane.run(host.cancel.clone()));
        let dir = tempfile::tempdir().unwrap();
        let port = dir.path().join("io.berth.lane.1");
        Self {
            listener: UnixListener::bind(&port).unwrap(),
            host,
            lane: handle,
            carriers,
            port,
            _dir: dir,
        }
    }

    /// Serves the link in a guest, until the token is cancelled.
    async fn link_up(&mut self) -> CancellationToken {
        let cancel = self.host.cancel.child_token();
        let (io, stop) = (self.host.carriers.add_pipe(), cancel.clone());
        self.host.tracker.spawn(async move {
            let (board, duties) = (board(), Noted::default());
            serve_carrier(io, Arrival::Knocking, &board, &duties, &stop).await;
        });
        self.host.up().await;
        self.host.snapshot().await;
        cancel
    }

    /// Serves the lane's port in the guest.
    fn serve_lane(&self) {
        let (port, cancel) = (open_port(&self.port).unwrap(), self.host.cancel.clone());
        self.host.tracker.spawn(async move {
            let duties = Noted::default();
            serve_lane(port, board(), &duties, cancel).await.unwrap();
        });
    }

    /// Lays a cable from the host to the lane's port; the guest's end goes through the token's holder.
    async fn lay_cable(&self) -> Cable {
        let (mut theirs, _) = within(self.listener.accept()).await.unwrap();
        let (mut ours, host_end) = UnixStream::pair().unwrap();
        self.carriers.add(host_end);
        let cut = CancellationToken::new();
        let stop = cut.clone();
        self.host.tracker.spawn(async move {
            let copying = tokio::io::copy_bidirectional(&mut ours, &mut theirs);
            stop.run_until_cancelled(copying).await;
        });
        Cable(cut)
    }

    async fn lane_until(&self, up: bool) {
        within(async {
            while self.lane.load().is_some() != up {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    fn is_link_up(&self) -> bool {
        self.host.link.state() == LinkState::Up { generation: 1 }
    }
}

/// Ends when it is cut.
struct Cable(CancellationToken);

impl Cable {
    fn cut(self) {
        self.0.cancel();
    }
}

fn echo() -> FlowHeader {
    FlowHeader::new(FlowKind::Unix, "/echo").unwrap()
}

async fn check_echo(lane: &LaneHandle) {
    let mut stream = lane.open_stream(&echo()).unwrap();
    stream.write_all(b"along the lane").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut back = String::new();
    within(stream.read_to_string(&mut back)).await.unwrap();
    assert_eq!(back, "along the lane");
}

#[tokio::test]
async fn connections_go_through_a_lane_while_the_link_is_up() {
    let mut scene = Scene::new();
    scene.serve_lane();
    let _cable = scene.lay_cable().await;
    let early = scene.lane.open_stream(&echo()).unwrap_err();
    assert_eq!((early, scene.lane.load()), (LinkError::Down, None));
    let link = scene.link_up().await;
    scene.lane_until(true).await;
    check_echo(&scene.lane).await;

    let mut open = scene.lane.open_stream(&echo()).unwrap();
    let load = Load {
        has_bulk: false,
        streams: 1,
    };
    assert_eq!(scene.lane.load(), Some(load));
    link.cancel();
    scene.lane_until(false).await;
    within(open.read_u8()).await.unwrap_err();
}

#[tokio::test]
async fn a_lane_that_is_cut_takes_only_its_own_connections_along_and_comes_back() {
    let mut scene = Scene::new();
    scene.serve_lane();
    let cable = scene.lay_cable().await;
    let _link = scene.link_up().await;
    scene.lane_until(true).await;
    let mut lost = scene.lane.open_stream(&echo()).unwrap();
    let mut kept = scene.host.link.open_stream(&echo()).unwrap();
    cable.cut();
    within(lost.read_u8()).await.unwrap_err();
    kept.write_all(b"k").await.unwrap();
    assert_eq!(within(kept.read_u8()).await.unwrap(), b'k');
    scene.lane_until(false).await;
    let _cable = scene.lay_cable().await;
    scene.lane_until(true).await;
    check_echo(&scene.lane).await;
    assert!(scene.is_link_up());
}

#[tokio::test]
async fn a_guest_that_breaks_the_protocol_on_a_lane_loses_the_lane_only() {
    let mut scene = Scene::new();
    let _link = scene.link_up().await;
    for (what, nonsense) in [
        ("a frame of no kind", frame(99, 1, b"")),
        ("data of no stream", frame(2, 2, b"x")),
        ("an odd stream", frame(1, 3, b"\x01")),
    ] {
        let mut guest = RawGuest(scene.carriers.add_pipe());
        let hello = guest.hello().await;
        guest.send(&ack(hello)).await;
        scene.lane_until(true).await;
        guest.send(&nonsense).await;
        assert!(guest.at_end().await, "{what}");
        scene.lane_until(false).await;
    }
    assert!(scene.is_link_up());
}

#[tokio::test]
async fn a_guest_opens_nothing_on_a_lane() {
    let mut scene = Scene::new();
    let _link = scene.link_up().await;
    let mut guest = RawGuest(scene.carriers.add_pipe());
    let hello = guest.hello().await;
    guest.send(&ack(hello)).await;
    guest.send(&frame(1, 2, b"\x061")).await;
    let (refused, _) = guest.frame().await;
    assert_eq!(
        (refused.kind, refused.stream),
        (berth_link::frame::FrameKind::Reset, 2)
    );
    assert!(scene.lane.load().is_some());
}

#[tokio::test]
async fn a_host_that_opens_a_control_stream_on_a_lane_is_turned_away() {
    let dir = tempfile::tempdir().unwrap();
    let port: &Path = &dir.path().join("port");
    let listener = UnixListener::bind(port).unwrap();
    let cancel = CancellationToken::new();
    let _stop = cancel.clone().drop_guard();
    let (serving, port) = (cancel.clone(), open_port(port).unwrap());
    tokio::spawn(async move {
        let duties = Noted::default();
        serve_lane(port, board(), &duties, serving).await.unwrap();
    });
    // The host's whole end, which talks on the first stream.
    let mut host = Host::start();
    let (theirs, _) = within(listener.accept()).await.unwrap();
    host.carriers.add(theirs);
    host.up().await;
    let ended = host.down().await;
    assert_eq!(ended, "the guest agent started anew", "it knocks");
}
