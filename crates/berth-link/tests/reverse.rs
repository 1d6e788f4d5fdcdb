//! Streams that the guest opens: only for listeners that the host asked for.

#![allow(clippy::unwrap_used, reason = "tests only")]

mod support;

use std::io::ErrorKind;
use std::sync::Arc;

use berth_link::event::{Request, ReverseListener};
use berth_link::frame::FrameKind;
use berth_link::guest::{Arrival, serve_carrier};
use berth_link::host::LinkError;
use berth_link::mux::OpenError;
use support::{Host, Noted, RawGuest, board, frame, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;

/// A guest whose duties the test holds.
fn serve(host: &Host, duties: &Arc<Noted>) -> CancellationToken {
    let (io, noted, cancel) = (
        host.carriers.add_pipe(),
        duties.clone(),
        host.cancel.child_token(),
    );
    let stop = cancel.clone();
    host.tracker.spawn(async move {
        serve_carrier(io, Arrival::Knocking, &board(), &*noted, &stop).await;
    });
    cancel
}

async fn up(host: &mut Host) {
    host.up().await;
    host.snapshot().await;
}

#[tokio::test]
async fn a_connection_in_the_guest_reaches_whoever_asked_in_every_session() {
    let mut host = Host::start();
    let duties = Arc::new(Noted::default());
    let mut taken = host.link.take_reverse().unwrap();
    for _ in 0..2 {
        let session = serve(&host, &duties);
        up(&mut host).await;
        let listener = ReverseListener {
            id: taken.id(),
            path: "/run/user/1000/host.sock".into(),
        };
        let listen = Request::Listen(listener);
        assert_eq!(within(host.link.request(listen.clone())).await, Ok(Ok(())));
        assert_eq!(duties.requests.lock().unwrap().pop(), Some(listen));
        let mut in_guest = duties.reverse().open(taken.id()).unwrap();
        in_guest.write_all(b"from the guest").await.unwrap();
        in_guest.shutdown().await.unwrap();
        let mut on_host = within(taken.next()).await.unwrap();
        let mut text = String::new();
        within(on_host.read_to_string(&mut text)).await.unwrap();
        assert_eq!(text, "from the guest");
        on_host.write_all(b"from the host").await.unwrap();
        on_host.shutdown().await.unwrap();
        text.clear();
        within(in_guest.read_to_string(&mut text)).await.unwrap();
        assert_eq!(text, "from the host");
        session.cancel();
        host.down().await;
        within(duties.reverse().over()).await;
        assert_eq!(duties.reverse().open(1).unwrap_err(), OpenError::Over);
    }
}

#[tokio::test]
async fn what_nobody_asked_for_is_reset_and_the_session_lives() {
    let mut host = Host::start();
    let taken = host.link.take_reverse().unwrap();
    let given_up = host.link.take_reverse().unwrap();
    let given_up_id = given_up.id();
    drop(given_up);
    let mut guest = RawGuest(host.carriers.add_pipe());
    guest.join().await;
    up(&mut host).await;
    let id = taken.id();
    let headers = [
        format!("\x06{}", id + 7),
        format!("\x06{given_up_id}"),
        "\x0618446744073709551617".to_owned(),
        "\x06/run/x".to_owned(),
        format!("\x02{id}"),
        format!("\x04{id}"),
        "\x01".to_owned(),
    ];
    for (at, header) in headers.iter().enumerate() {
        let stream = 2 * u32::try_from(at).unwrap() + 2;
        guest.send(&frame(1, stream, header.as_bytes())).await;
        let (reset, code) = guest.frame().await;
        assert_eq!(
            (reset.kind, reset.stream, &code[..]),
            (FrameKind::Reset, stream, &[0, 5][..]),
            "{header:?}"
        );
    }
    guest.send(&frame(6, 0, b"")).await;
    assert_eq!(host.down().await, "the other end said good-bye");
}

#[tokio::test]
async fn connections_that_nobody_takes_are_refused_beyond_a_few() {
    let mut host = Host::start();
    let duties = Arc::new(Noted::default());
    let taken = host.link.take_reverse().unwrap();
    serve(&host, &duties);
    up(&mut host).await;
    let mut streams: Vec<_> = (0..100)
        .map(|_| duties.reverse().open(taken.id()).unwrap())
        .collect();
    let refused = within(streams[99].read_u8()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionReset);
    // Those that wait are reset with their taker.
    drop(taken);
    let refused = within(streams[0].read_u8()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionReset);
    assert_eq!(within(host.link.request(Request::Ping)).await, Ok(Ok(())));
}

#[tokio::test]
async fn takers_end_with_the_link() {
    let host = Host::start();
    let mut taken = host.link.take_reverse().unwrap();
    host.cancel.cancel();
    assert!(within(taken.next()).await.is_none());
    host.tracker.close();
    within(host.tracker.wait()).await;
    assert_eq!(host.link.take_reverse().unwrap_err(), LinkError::Stopped);
}

#[tokio::test]
async fn what_the_guest_would_not_take_is_not_sent() {
    let host = Host::start();
    let listener = ReverseListener {
        id: 1,
        path: "relative".into(),
    };
    let error = host.link.request(Request::Listen(listener)).await;
    assert!(matches!(error, Err(LinkError::Malformed(_))), "{error:?}");
}
