//! Bulk that passes through pipes: sockets at both ends, and a socket between them.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a failure ends the test")]

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use berth_link::flow::{FlowHeader, FlowKind};
use berth_link::frame::{INITIAL_CREDIT, MAX_PAYLOAD};
use berth_link::hello::SessionId;
use berth_link::mux::{self, Inbox, Incoming, LONGEST_WINDOW, Limits, Mux, Side, WINDOW_BUDGET};
use berth_link::session::SessionEnd;
use berth_relay::{Carrier, PollSocket, Tally, join};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::UnixStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

const LIMITS: Limits = Limits {
    own_streams: 64,
    peer_streams: 64,
    window: LONGEST_WINDOW,
    budget: WINDOW_BUDGET,
};

/// A carrier that counts what it is given and what it is asked for in memory.
struct Watched {
    io: UnixStream,
    /// As the device of a virtio-serial port.
    is_no_socket: bool,
    copied: Arc<Copied>,
}

#[derive(Default)]
struct Copied {
    written: AtomicUsize,
    read: AtomicUsize,
}

impl Carrier for Watched {
    fn socket(&self) -> Option<&dyn PollSocket> {
        (!self.is_no_socket).then_some(&self.io)
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        let count = buf.filled().len() - before;
        self.copied.read.fetch_add(count, Ordering::Relaxed);
        read
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        if let Poll::Ready(Ok(count)) = written {
            self.copied.written.fetch_add(count, Ordering::Relaxed);
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// A session, and what its carriers copied: the host's, then the guest's.
struct Session {
    mux: Mux,
    incoming: Incoming,
    copied: [Arc<Copied>; 2],
    tracker: TaskTracker,
}

impl Session {
    fn over(pair: (UnixStream, UnixStream)) -> Self {
        Self::with_guest(pair, false)
    }

    fn with_guest((host, guest): (UnixStream, UnixStream), is_no_socket: bool) -> Self {
        let copied = [Arc::default(), Arc::default()];
        let watched = |io, number: usize| Watched {
            io,
            is_no_socket: is_no_socket && number == 1,
            copied: Arc::clone(&copied[number]),
        };
        let session = SessionId(*b"sixteen bytes id");
        let start = |io, side| mux::new(io, Inbox::default(), side, session, LIMITS);
        let (mux, _, mut host) = start(watched(host, 0), Side::Host);
        let (_, incoming, mut guest) = start(watched(guest, 1), Side::Guest);
        let tracker = TaskTracker::new();
        tracker.spawn(async move { host.run().await });
        tracker.spawn(async move { guest.run().await });
        Self {
            mux,
            incoming,
            copied,
            tracker,
        }
    }

    /// A connection through the session: the client's socket, and the server's.
    async fn connect(&mut self) -> (UnixStream, UnixStream, [JoinHandle<bool>; 2]) {
        let header = FlowHeader::new(FlowKind::Tcp, "127.0.0.1:80").unwrap();
        let ours = self.mux.open(&header).unwrap();
        let (_, theirs) = within(self.incoming.accept()).await.unwrap();
        let (client, near) = UnixStream::pair().unwrap();
        let (far, server) = UnixStream::pair().unwrap();
        let relay = |local, stream| {
            self.tracker
                .spawn(async move { join(local, stream, &Tally::default()).await.is_ok() })
        };
        (client, server, [relay(near, ours), relay(far, theirs)])
    }

    fn copied(&self) -> (usize, usize) {
        let sum = |of: fn(&Copied) -> &AtomicUsize| {
            let counts = self.copied.iter();
            counts.map(|it| of(it).load(Ordering::Relaxed)).sum()
        };
        (sum(|it| &it.written), sum(|it| &it.read))
    }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(60), future).await.unwrap()
}

/// Numbers without order, the same in each run.
fn numbers(mut state: u32) -> impl FnMut() -> u32 {
    move || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state
    }
}

/// Bytes that repeat only after a long time.
fn pattern(length: usize) -> Vec<u8> {
    let mut next = numbers(0x2545_f491);
    std::iter::repeat_with(|| next().to_le_bytes()[0])
        .take(length)
        .collect()
}

/// Sends `bytes` in pieces of many lengths and then the end.
async fn send(socket: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) {
    let lengths = [1, 300_000, 7, 65_536, 4096, 1_000_000, 50_000];
    let mut lengths = lengths.iter().cycle();
    let mut rest = bytes;
    while !rest.is_empty() {
        let length = (*lengths.next().unwrap()).min(rest.len());
        socket.write_all(&rest[..length]).await.unwrap();
        rest = &rest[length..];
    }
    socket.shutdown().await.unwrap();
}

async fn receive(socket: &mut (impl AsyncRead + Unpin)) -> Vec<u8> {
    let mut bytes = Vec::new();
    socket.read_to_end(&mut bytes).await.unwrap();
    bytes
}

/// Bulk both ways at once, each ending by itself.
async fn exchange(session: &mut Session, bytes: &[u8]) {
    let (client, server, relays) = session.connect().await;
    let (mut client_in, mut client_out) = client.into_split();
    let (mut server_in, mut server_out) = server.into_split();
    let (question, answer, (), ()) = within(async {
        tokio::join!(
            receive(&mut server_in),
            receive(&mut client_in),
            send(&mut client_out, bytes),
            send(&mut server_out, bytes),
        )
    })
    .await;
    assert!(question == bytes && answer == bytes);
    for relay in relays {
        assert!(within(relay).await.unwrap(), "ended well");
    }
}

#[tokio::test]
async fn most_of_it_is_never_copied_and_all_of_it_arrives() {
    let mut session = Session::over(UnixStream::pair().unwrap());
    let bytes = pattern(30_000_000);
    exchange(&mut session, &bytes).await;
    let (written, read) = session.copied();
    assert!(written < bytes.len(), "{written} bytes written from memory");
    assert!(read < bytes.len(), "{read} bytes read into memory");
}

/// Frames of the length of a pipe come to somebody who has none.
#[tokio::test]
async fn an_end_without_pipes_reads_what_the_other_sends_through_them() {
    for room in [5000, 200_000] {
        let pair = UnixStream::pair().unwrap();
        rustix::net::sockopt::set_socket_send_buffer_size(&pair.0, room).unwrap();
        let mut session = Session::with_guest(pair, true);
        let bytes = pattern(10_000_000);
        exchange(&mut session, &bytes).await;
        let [host, guest] = &session.copied;
        let sent = host.written.load(Ordering::Relaxed);
        let received = guest.read.load(Ordering::Relaxed);
        assert!(
            sent < bytes.len() / 2 && received > bytes.len(),
            "{sent} {received}"
        );
    }
}

/// Every batch stops in the middle, and more is queued meanwhile.
#[tokio::test]
async fn a_carrier_with_little_room_gets_everything_in_order() {
    let pair = UnixStream::pair().unwrap();
    for end in [&pair.0, &pair.1] {
        rustix::net::sockopt::set_socket_send_buffer_size(end, 20_000).unwrap();
    }
    exchange(&mut Session::over(pair), &pattern(10_000_000)).await;
}

/// Copied and piped, in every order that lengths, pauses and room in the carrier can bring about.
#[tokio::test]
async fn whatever_the_pieces_all_of_it_arrives() {
    for seed in 1..=12 {
        let mut next = numbers(0x9e37_79b9_u32.wrapping_mul(seed));
        let pair = UnixStream::pair().unwrap();
        let room = 4608 << (next() % 6);
        for end in [&pair.0, &pair.1] {
            rustix::net::sockopt::set_socket_send_buffer_size(end, room).unwrap();
        }
        let mut session = Session::over(pair);
        let bytes = pattern(1_500_000);
        let (mut client, server, _relays) = session.connect().await;
        let (mut server_in, mut server_out) = server.into_split();
        let echo = session
            .tracker
            .spawn(async move { tokio::io::copy(&mut server_in, &mut server_out).await });
        let (mut client_in, mut client_out) = client.split();
        let sending = async {
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let length = (1 + next() % (1 << (next() % 19))) as usize;
                let (piece, behind) = rest.split_at(length.min(rest.len()));
                client_out.write_all(piece).await.unwrap();
                rest = behind;
                for _ in 0..next() % 3 {
                    tokio::task::yield_now().await;
                }
            }
            client_out.shutdown().await.unwrap();
        };
        let receiving = receive(&mut client_in);
        let ((), came) = within(async { tokio::join!(sending, receiving) }).await;
        assert!(came == bytes, "seed {seed}, {room} bytes of room");
        echo.abort();
    }
}

/// A payload of which the last part never comes, behind one that came whole.
#[tokio::test(start_paused = true)]
async fn a_peer_that_stops_within_a_payload_in_a_pipe_is_given_up() {
    let (host, mut peer) = UnixStream::pair().unwrap();
    let session = SessionId(*b"sixteen bytes id");
    let (mux, _incoming, mut driver) =
        mux::new(host, Inbox::default(), Side::Host, session, LIMITS);
    let header = FlowHeader::new(FlowKind::Tcp, "127.0.0.1:80").unwrap();
    let stream = mux.open(&header).unwrap();
    let (mut client, near) = UnixStream::pair().unwrap();
    let tracker = TaskTracker::new();
    tracker.spawn(async move { join(near, stream, &Tally::default()).await.is_ok() });
    let data = |length: usize| {
        let [.., a, b, c] = length.to_be_bytes();
        [2, a, b, c, 0, 0, 0, 1]
    };
    let talk = async {
        // As much as a stream begins with, then what it gets credit for.
        peer.write_all(&data(INITIAL_CREDIT as usize))
            .await
            .unwrap();
        peer.write_all(&[7; INITIAL_CREDIT as usize]).await.unwrap();
        let mut taken = vec![0; INITIAL_CREDIT as usize];
        client.read_exact(&mut taken).await.unwrap();
        peer.write_all(&data(MAX_PAYLOAD)).await.unwrap();
        peer.write_all(&[8; 1000]).await.unwrap();
        client.read_exact(&mut taken[..1000]).await.unwrap();
        assert_eq!(taken[..1000], [8; 1000]);
        std::future::pending::<()>().await;
    };
    let end = tokio::select! {
        end = driver.run() => end,
        () = talk => unreachable!("it waits for ever"),
    };
    assert!(matches!(end, SessionEnd::Silent(_)), "{end}");
}

#[tokio::test]
async fn streams_at_once_do_not_mix() {
    let mut session = Session::over(UnixStream::pair().unwrap());
    let mut all = Vec::new();
    for number in 0..8 {
        let bytes = pattern(2_000_000 + number)[number..].to_vec();
        let (mut client, mut server, _relays) = session.connect().await;
        let sent = bytes.clone();
        session
            .tracker
            .spawn(async move { send(&mut client, &sent).await });
        all.push(
            session
                .tracker
                .spawn(async move { receive(&mut server).await == bytes }),
        );
    }
    for whole in all {
        assert!(within(whole).await.unwrap());
    }
}

#[tokio::test]
async fn a_carrier_that_takes_nothing_from_pipes_gets_everything_from_memory() {
    let pair = UnixStream::pair().unwrap();
    for end in [&pair.0, &pair.1] {
        // splice(2) refuses files that are only appended to.
        let flags = rustix::fs::OFlags::APPEND | rustix::fs::OFlags::NONBLOCK;
        rustix::fs::fcntl_setfl(end, flags).unwrap();
    }
    let mut session = Session::over(pair);
    let bytes = pattern(5_000_000);
    exchange(&mut session, &bytes).await;
    let (written, _) = session.copied();
    assert!(written > 2 * bytes.len(), "{written}");
}

#[tokio::test]
async fn a_stream_that_is_reset_with_much_on_its_way_leaves_the_others_alone() {
    let mut session = Session::over(UnixStream::pair().unwrap());
    for _ in 0..20 {
        let (mut client, server, relays) = session.connect().await;
        // Fills every buffer up to the server, who reads nothing.
        let bytes = pattern(4_000_000);
        let stuck = timeout(Duration::from_millis(50), client.write_all(&bytes)).await;
        assert!(stuck.is_err());
        drop((client, server));
        for relay in relays {
            relay.abort();
        }
    }
    exchange(&mut session, &pattern(3_000_000)).await;
}

#[tokio::test]
async fn a_client_that_reads_nothing_holds_up_nobody_else_and_loses_nothing() {
    let mut session = Session::over(UnixStream::pair().unwrap());
    let (mut slow, mut server, _relays) = session.connect().await;
    let bytes = pattern(6_000_000);
    let sent = bytes.clone();
    let sending = session
        .tracker
        .spawn(async move { send(&mut server, &sent).await });
    exchange(&mut session, &pattern(3_000_000)).await;
    assert!(!sending.is_finished());
    assert!(within(receive(&mut slow)).await == bytes);
    within(sending).await.unwrap();
}
