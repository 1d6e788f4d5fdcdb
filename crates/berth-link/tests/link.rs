//! Host and guest, each with its own code, over a pipe, a unix socket and the guest's port.

#![allow(clippy::unwrap_used, reason = "tests only")]

mod support;

use std::io::ErrorKind;
use std::time::Duration;

use berth_link::event::{GuestEvent, Refusal, Request, Stage, StepOutcome, StepReport};
use berth_link::flow::{FlowHeader, FlowKind};
use berth_link::guest::{Arrival, Board, serve_carrier};
use berth_link::host::Carrier;
use berth_link::host::{LinkError, LinkState};
use support::{Host, Noted, board, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

/// Serves `io` in the background until the returned token is cancelled.
fn guest<S>(host: &Host, io: S, board: &Board, arrival: Arrival) -> CancellationToken
where
    S: Carrier + 'static,
{
    let cancel = host.cancel.child_token();
    let (board, stop) = (board.clone(), cancel.clone());
    host.tracker.spawn(async move {
        serve_carrier(io, arrival, &board, &Noted::default(), &stop).await;
    });
    cancel
}

fn step(name: &str) -> StepReport {
    StepReport {
        name: name.into(),
        outcome: StepOutcome::Failed,
        exit_code: Some(3),
        tail: "why\n".into(),
        started: Duration::from_millis(5),
        ended: Duration::from_millis(9),
    }
}

/// What every pair of ends must do, whatever lies between them.
async fn converse(host: &mut Host, board: &Board) {
    board.reach(Stage::NetworkUp, Duration::from_millis(900));
    let GuestEvent::Stage(reached) = host.guest_event().await else {
        panic!("no stage");
    };
    assert_eq!(
        (reached.stage, reached.uptime.as_millis()),
        (Stage::NetworkUp, 900)
    );
    board.report(step("user script"));
    assert_eq!(
        host.guest_event().await,
        GuestEvent::Step(step("user script"))
    );
    board.reach(Stage::BootScriptsDone { failed: 1 }, Duration::from_secs(9));
    host.guest_event().await;

    assert_eq!(within(host.link.request(Request::Ping)).await, Ok(Ok(())));
    assert_eq!(within(host.link.request(Request::Sync)).await, Ok(Ok(())));
    let refused = within(host.link.request(Request::FollowCloudInit)).await;
    assert_eq!(refused, Ok(Err(Refusal("no\\u{1b} cloud-init".into()))));

    let echo = FlowHeader::new(FlowKind::Unix, "/echo").unwrap();
    let mut stream = host.link.open_stream(&echo).unwrap();
    within(stream.write_all(b"through the guest"))
        .await
        .unwrap();
    stream.shutdown().await.unwrap();
    let mut back = String::new();
    within(stream.read_to_string(&mut back)).await.unwrap();
    assert_eq!(back, "through the guest");
    let refused = FlowHeader::new(FlowKind::Tcp, "127.0.0.1:80").unwrap();
    let mut stream = host.link.open_stream(&refused).unwrap();
    let error = within(stream.read_u8()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[tokio::test]
async fn a_session_over_a_pipe() {
    let mut host = Host::start();
    assert_eq!(host.link.request(Request::Ping).await, Err(LinkError::Down));
    let board = board();
    board.reach(Stage::KernelUp, Duration::from_millis(700));
    board.report(step("mounts"));
    guest(&host, host.carriers.add_pipe(), &board, Arrival::Knocking);
    assert_eq!(host.up().await, 1);
    let snapshot = host.snapshot().await;
    assert_eq!(
        (snapshot.kernel.as_str(), snapshot.instance_id.as_str()),
        ("6.1.0-test", "iid-1")
    );
    assert_eq!(snapshot.stages[0].uptime, Duration::from_millis(700));
    assert_eq!(snapshot.steps, [step("mounts")]);
    converse(&mut host, &board).await;
}

#[tokio::test]
async fn a_guest_agent_that_stops_and_one_that_starts() {
    let mut host = Host::start();
    let board = board();
    let first = guest(&host, host.carriers.add_pipe(), &board, Arrival::Knocking);
    host.up().await;
    host.snapshot().await;
    first.cancel();
    assert_eq!(host.down().await, "the other end said good-bye");
    guest(&host, host.carriers.add_pipe(), &board, Arrival::Knocking);
    assert_eq!(host.up().await, 2);
    host.snapshot().await;
    assert_eq!(host.link.state(), LinkState::Up { generation: 2 });
}

#[tokio::test]
async fn a_host_that_dies_and_its_successor_on_the_same_byte_stream() {
    let board = board();
    // One lasting stream, as a serial port is one; the hosts come and go.
    let (mut line, guest_end) = tokio::io::duplex(64 * 1024);
    let cancel = CancellationToken::new();
    let _stop = cancel.clone().drop_guard();
    let served = tokio_util::task::TaskTracker::new();
    let (serving, stop) = (board.clone(), cancel.clone());
    served.spawn(async move {
        serve_carrier(
            guest_end,
            Arrival::Knocking,
            &serving,
            &Noted::default(),
            &stop,
        )
        .await;
    });
    for _ in 0..5 {
        let mut host = Host::start();
        let mut carrier = host.carriers.add_pipe();
        let alive = async {
            host.up().await;
            host.snapshot().await;
            assert_eq!(host.link.request(Request::Ping).await, Ok(Ok(())));
        };
        tokio::select! {
            () = alive => {}
            copied = tokio::io::copy_bidirectional(&mut carrier, &mut line) => panic!("{copied:?}"),
        }
        // Gone without a word, in the middle of whatever it was saying.
        drop(carrier);
    }
}

#[cfg(target_os = "linux")]
mod over_sockets {
    use std::path::Path;
    use std::sync::Arc;

    use berth_link::guest::{open_port, serve};
    use tokio::net::{UnixListener, UnixStream};

    use super::*;

    #[tokio::test]
    async fn a_session_over_a_socket_pair() {
        let mut host = Host::start();
        let board = board();
        let (ours, theirs) = UnixStream::pair().unwrap();
        host.carriers.add(ours);
        guest(&host, theirs, &board, Arrival::Quiet);
        host.up().await;
        host.snapshot().await;
        converse(&mut host, &board).await;
    }

    /// Serves the port at `path` in the background.
    fn serve_port(host: &Host, path: &Path, board: &Board) {
        let port = open_port(path).unwrap();
        let (board, cancel) = (board.clone(), host.cancel.clone());
        host.tracker.spawn(async move {
            let duties = Arc::new(Noted::default());
            serve(port, board, &*duties, cancel).await.unwrap();
        });
    }

    #[tokio::test]
    async fn a_port_that_is_a_socket_is_connected_again_and_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("io.lima-vm.guest_agent.0");
        let listener = UnixListener::bind(&path).unwrap();
        let lasting = Host::start();
        serve_port(&lasting, &path, &board());
        // Each host is gone without a word when it is dropped.
        for _ in 0..3 {
            let (guest_end, _) = within(listener.accept()).await.unwrap();
            let mut host = Host::start();
            host.carriers.add(guest_end);
            host.up().await;
            host.snapshot().await;
        }
    }

    #[tokio::test]
    async fn a_socket_without_a_listener_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("port");
        drop(UnixListener::bind(&path).unwrap());
        let mut host = Host::start();
        let board = board();
        serve_port(&host, &path, &board);
        tokio::task::yield_now().await;
        std::fs::remove_file(&path).unwrap();
        let listener = UnixListener::bind(&path).unwrap();
        let (guest_end, _) = within(listener.accept()).await.unwrap();
        host.carriers.add(guest_end);
        host.up().await;
    }
}
