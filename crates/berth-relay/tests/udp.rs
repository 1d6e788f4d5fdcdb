//! Flows of datagrams: many clients of one socket, and the end that sends to the server.

#![allow(clippy::unwrap_used, reason = "tests only")]

mod support;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use berth_relay::Tally;
use berth_relay::udp::{FlowError, Limits, MAX_DATAGRAM, Patience, carry, serve};
use support::{OtherEnd, stream, within};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A socket that is served; the streams of its clients arrive one by one.
struct Served {
    address: SocketAddr,
    streams: mpsc::UnboundedReceiver<OtherEnd>,
    tally: Arc<Tally>,
    cancel: CancellationToken,
    task: JoinHandle<io::Result<()>>,
    tracker: TaskTracker,
}

async fn served(listen: &str, limits: Limits, capacity: usize) -> Served {
    let (far_ends, streams) = mpsc::unbounded_channel();
    let dial = move || {
        let (near, far) = stream(capacity);
        far_ends.send(far).unwrap();
        async move { Ok(near) }
    };
    served_by(listen, limits, dial, streams).await
}

async fn served_by<D, F, S>(
    listen: &str,
    limits: Limits,
    dial: D,
    streams: mpsc::UnboundedReceiver<OtherEnd>,
) -> Served
where
    D: Fn() -> F + Send + Sync + 'static,
    F: Future<Output = io::Result<S>> + Send,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let socket = UdpSocket::bind(listen).await.unwrap();
    let address = socket.local_addr().unwrap();
    let (tally, cancel) = (Arc::new(Tally::default()), CancellationToken::new());
    let tracker = TaskTracker::new();
    let (counted, stop) = (tally.clone(), cancel.clone());
    let task = tracker.spawn(async move { serve(socket, dial, limits, &counted, stop).await });
    Served {
        address,
        streams,
        tally,
        cancel,
        task,
        tracker,
    }
}

impl Served {
    async fn stream(&mut self) -> OtherEnd {
        within(self.streams.recv()).await.unwrap()
    }

    /// Sends everything back that comes on the streams from now on.
    fn echo(&mut self) {
        let mut streams = std::mem::replace(&mut self.streams, mpsc::unbounded_channel().1);
        let tracker = self.tracker.clone();
        self.tracker.spawn(async move {
            while let Some(OtherEnd { pipe, .. }) = streams.recv().await {
                tracker.spawn(async move {
                    let (mut read, mut write) = tokio::io::split(pipe);
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                });
            }
        });
    }
}

async fn client_at(bind: &str, server: SocketAddr) -> UdpSocket {
    let client = UdpSocket::bind(bind).await.unwrap();
    client.connect(server).await.unwrap();
    client
}

async fn client(server: SocketAddr) -> UdpSocket {
    client_at("127.0.0.1:0", server).await
}

async fn receive(socket: &UdpSocket) -> Vec<u8> {
    let mut room = vec![0; 70_000];
    let length = within(socket.recv(&mut room)).await.unwrap();
    room.truncate(length);
    room
}

async fn send_framed(stream: &mut (impl AsyncWrite + Unpin), datagram: &[u8]) {
    let length = u16::try_from(datagram.len()).unwrap();
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend(datagram);
    within(stream.write_all(&framed)).await.unwrap();
}

async fn receive_framed(stream: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let length = within(stream.read_u16()).await.unwrap();
    let mut datagram = vec![0; usize::from(length)];
    within(stream.read_exact(&mut datagram)).await.unwrap();
    datagram
}

#[tokio::test]
async fn empty_and_longest_datagrams_go_there_and_back() {
    let mut served = served("127.0.0.1:0", Limits::of_port(0), 16 * 1024).await;
    served.echo();
    let client = client(served.address).await;
    let lengths = [0, 1, 1_500, MAX_DATAGRAM, 0];
    for length in lengths {
        let datagram = vec![length.to_le_bytes()[0]; length];
        client.send(&datagram).await.unwrap();
        assert!(receive(&client).await == datagram, "{length}");
    }
    let traffic = served.tally.traffic();
    let bytes = lengths.iter().sum::<usize>() as u64;
    assert_eq!((traffic.to_guest, traffic.to_host), (bytes, bytes));
    assert_eq!((traffic.open, traffic.total, traffic.dropped), (1, 1, 0));
}

#[tokio::test]
async fn two_hundred_clients_get_their_own_answers() {
    let mut served = served("127.0.0.1:0", Limits::of_port(0), 16 * 1024).await;
    served.echo();
    let mut clients = Vec::new();
    for _ in 0..200 {
        clients.push(client(served.address).await);
    }
    for round in 0..3_u16 {
        for (number, client) in clients.iter().enumerate() {
            client
                .send(format!("{round} {number}").as_bytes())
                .await
                .unwrap();
        }
        for (number, client) in clients.iter().enumerate() {
            assert_eq!(
                receive(client).await,
                format!("{round} {number}").as_bytes()
            );
        }
    }
    assert_eq!(served.tally.traffic().open, 200);
}

#[tokio::test(start_paused = true)]
async fn silent_flows_end_when_their_port_says() {
    for (port, answered, after) in [(53, false, 60), (53, true, 10), (80, true, 60)] {
        let mut served = served("127.0.0.1:0", Limits::of_port(port), 64).await;
        let client = client(served.address).await;
        client.send(b"query").await.unwrap();
        let mut far = served.streams.recv().await.unwrap();
        assert_eq!(receive_framed(&mut far.pipe).await, b"query");
        if answered {
            send_framed(&mut far.pipe, b"answer").await;
            assert_eq!(receive(&client).await, b"answer");
        }
        let begin = Instant::now();
        far.dropped.cancelled().await;
        assert_eq!(begin.elapsed().as_secs(), after, "port {port}");
        assert_eq!(served.tally.traffic().open, 0);
        // Whoever comes back has a new flow.
        client.send(b"query").await.unwrap();
        assert_eq!(
            receive_framed(&mut served.stream().await.pipe).await,
            b"query"
        );
    }
}

#[tokio::test]
async fn the_longest_silent_client_makes_room() {
    let limits = Limits {
        flows: 2,
        ..Limits::of_port(0)
    };
    let mut served = served("127.0.0.1:0", limits, 64).await;
    let mut clients = Vec::new();
    let mut streams = Vec::new();
    for text in [b"a", b"b"] {
        clients.push(client(served.address).await);
        clients.last().unwrap().send(text).await.unwrap();
        streams.push(served.stream().await);
    }
    // The first has something to say again, so the second is the silent one.
    clients[0].send(b"again").await.unwrap();
    assert_eq!(receive_framed(&mut streams[0].pipe).await, b"a");
    assert_eq!(receive_framed(&mut streams[0].pipe).await, b"again");
    let third = client(served.address).await;
    third.send(b"c").await.unwrap();
    let mut third_stream = served.stream().await;
    within(streams[1].dropped.cancelled()).await;
    assert_eq!(receive_framed(&mut third_stream.pipe).await, b"c");
    send_framed(&mut streams[0].pipe, b"still here").await;
    assert_eq!(receive(&clients[0]).await, b"still here");
    assert_eq!(served.tally.traffic().open, 2);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn answers_come_from_the_address_that_was_written_to() {
    for (listen, from, to) in [
        ("0.0.0.0:0", "127.0.0.1:0", "127.0.0.7"),
        ("127.0.0.8:0", "127.0.0.1:0", "127.0.0.8"),
        ("[::]:0", "127.0.0.1:0", "127.0.0.9"),
        ("[::]:0", "[::1]:0", "::1"),
    ] {
        let mut served = served(listen, Limits::of_port(0), 64).await;
        served.echo();
        let to = SocketAddr::new(to.parse().unwrap(), served.address.port());
        let client = client_at(from, to).await;
        client.send(b"hello").await.unwrap();
        // A connected socket takes nothing from elsewhere.
        assert_eq!(receive(&client).await, b"hello", "{listen}");
        assert_eq!(client.peer_addr().unwrap(), to);
    }
}

#[tokio::test]
async fn garbage_ends_its_own_flow_only() {
    let mut served = served("127.0.0.1:0", Limits::of_port(0), 64).await;
    let (one, other) = (client(served.address).await, client(served.address).await);
    one.send(b"1").await.unwrap();
    let mut far_of_one = served.stream().await;
    other.send(b"2").await.unwrap();
    let mut far_of_other = served.stream().await;
    far_of_one
        .pipe
        .write_all(&[0xff, 0xff, 1, 2, 3])
        .await
        .unwrap();
    within(far_of_one.dropped.cancelled()).await;
    let told = served.tally.traffic().last_error.unwrap();
    assert!(told.contains("65535 bytes"), "{told}");
    send_framed(&mut far_of_other.pipe, b"fine").await;
    assert_eq!(receive(&other).await, b"fine");
    one.send(b"once more").await.unwrap();
    let mut far = served.stream().await;
    assert_eq!(receive_framed(&mut far.pipe).await, b"once more");
}

#[tokio::test]
async fn a_stream_that_takes_nothing_holds_up_nobody_else() {
    let mut served = served("127.0.0.1:0", Limits::of_port(0), 64).await;
    let stuck = client(served.address).await;
    stuck.send(b"x").await.unwrap();
    let _nobody_reads = served.stream().await;
    served.echo();
    let fine = client(served.address).await;
    for number in 0..200_u16 {
        stuck.send(&[0; 8_000]).await.unwrap();
        fine.send(&number.to_be_bytes()).await.unwrap();
        assert_eq!(receive(&fine).await, number.to_be_bytes());
    }
    let traffic = served.tally.traffic();
    assert!(traffic.dropped > 100, "{traffic:?}");
}

#[tokio::test]
async fn clients_that_vanish_do_not_end_the_socket() {
    let mut served = served("127.0.0.1:0", Limits::of_port(0), 64).await;
    let gone = client(served.address).await;
    gone.send(b"x").await.unwrap();
    let mut far = served.stream().await;
    drop(gone);
    for _ in 0..20 {
        send_framed(&mut far.pipe, b"to nobody").await;
    }
    served.echo();
    let client = client(served.address).await;
    client.send(b"hello").await.unwrap();
    assert_eq!(receive(&client).await, b"hello");
    assert!(!served.task.is_finished());
}

#[tokio::test]
async fn a_dial_that_fails_is_told_and_the_next_datagram_tries_again() {
    let (dialled, mut dials) = mpsc::unbounded_channel();
    let dial = move || {
        dialled.send(()).unwrap();
        std::future::ready(Err::<tokio::io::DuplexStream, _>(io::Error::other(
            "no link",
        )))
    };
    let served = served_by(
        "127.0.0.1:0",
        Limits::of_port(0),
        dial,
        mpsc::unbounded_channel().1,
    )
    .await;
    let client = client(served.address).await;
    for _ in 0..3 {
        // A flow that has just failed may still be known.
        while dials.try_recv().is_err() {
            client.send(b"x").await.unwrap();
            tokio::task::yield_now().await;
        }
    }
    let told = served.tally.traffic().last_error.unwrap();
    assert_eq!(told, "the flow could not be opened: no link");
}

#[tokio::test]
async fn nothing_is_left_after_the_end() {
    let mut served = served("127.0.0.1:0", Limits::of_port(0), 64).await;
    let client = client(served.address).await;
    client.send(b"x").await.unwrap();
    let far = served.stream().await;
    served.cancel.cancel();
    within(&mut served.task).await.unwrap().unwrap();
    assert!(far.dropped.is_cancelled());
    assert_eq!(served.tally.traffic().open, 0);
    UdpSocket::bind(served.address).await.unwrap();
}

/// A carried flow to `server`: the stream's other end, and how it ends.
async fn carried(
    server: SocketAddr,
    patience: Patience,
) -> (OtherEnd, JoinHandle<Result<(), FlowError>>) {
    let (near, far) = stream(64 * 1024);
    let socket = client(server).await;
    let task = TaskTracker::new().spawn(async move { carry(socket, near, patience).await });
    (far, task)
}

#[tokio::test]
async fn a_server_gets_what_was_sent_and_its_answers_come_back() {
    let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap();
    let (mut far, task) = carried(address, Patience::of_port(0)).await;
    for length in [0, 1, MAX_DATAGRAM, 9_000] {
        let datagram = vec![length.to_le_bytes()[0]; length];
        send_framed(&mut far.pipe, &datagram).await;
        let mut room = vec![0; 70_000];
        let (received, from) = within(server.recv_from(&mut room)).await.unwrap();
        assert!(room[..received] == datagram);
        server.send_to(&room[..received], from).await.unwrap();
        assert!(receive_framed(&mut far.pipe).await == datagram);
    }
    drop(far);
    within(task).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_server_that_comes_late_is_reached() {
    let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap();
    drop(server);
    let (mut far, task) = carried(address, Patience::of_port(0)).await;
    for _ in 0..5 {
        send_framed(&mut far.pipe, b"nobody there").await;
        tokio::task::yield_now().await;
    }
    let server = UdpSocket::bind(address).await.unwrap();
    send_framed(&mut far.pipe, b"anybody?").await;
    let mut heard = receive(&server).await;
    while heard != b"anybody?" {
        assert_eq!(heard, b"nobody there");
        heard = receive(&server).await;
    }
    assert!(!task.is_finished());
}

#[tokio::test(start_paused = true)]
async fn a_carried_flow_ends_when_it_is_silent_or_garbage() {
    let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = server.local_addr().unwrap();
    let begin = Instant::now();
    let (far, task) = carried(address, Patience::of_port(0)).await;
    task.await.unwrap().unwrap();
    assert_eq!(begin.elapsed(), Duration::from_secs(60));
    assert!(far.dropped.is_cancelled());

    let (mut far, task) = carried(address, Patience::of_port(0)).await;
    far.pipe.write_all(&[0xff; 9]).await.unwrap();
    let error = task.await.unwrap().unwrap_err();
    assert!(matches!(error, FlowError::TooLong(65_535)), "{error}");
    assert!(begin.elapsed() < Duration::from_secs(120));
}
