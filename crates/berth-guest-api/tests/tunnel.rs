//! Tunnels against an agent by hand that behaves as Lima's does, as an older one does, or badly.

#![allow(clippy::unwrap_used, reason = "tests only")]

mod agent;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use berth_guest_api::client::GuestApi;
use berth_guest_api::error::{CallError, GuestApiError};
use berth_guest_api::tunnel::{MAX_PAYLOAD, SocketPath, Tunnel, TunnelTarget};
use bytes::Bytes;
use h2::{Reason, SendStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use agent::{Agent, Call, flood, from_guest, send, succeed, within};

struct Client {
    api: GuestApi,
}

async fn connected() -> (Client, Agent) {
    connected_to(2048).await
}

/// A client of an agent that takes so many streams.
async fn connected_to(streams: u32) -> (Client, Agent) {
    let (ours, theirs) = tokio::io::duplex(256 * 1024);
    let tracker = TaskTracker::new();
    let api = GuestApi::connect(ours, &tracker, CancellationToken::new())
        .await
        .unwrap();
    let agent = Agent::serve_with(theirs, &tracker, streams);
    (Client { api }, agent)
}

fn tcp() -> TunnelTarget {
    TunnelTarget::Tcp("127.0.0.1:80".parse().unwrap())
}

fn udp() -> TunnelTarget {
    TunnelTarget::Udp(SocketAddr::from(([127, 0, 0, 1], 53)))
}

/// A tunnel, and the agent's end of it behind the handshake.
async fn opened(client: &Client, agent: &mut Agent, target: &TunnelTarget) -> (Tunnel, Call) {
    let tunnel = within(client.api.tunnel(target)).await.unwrap();
    let mut call = agent.call_of("Tunnel").await;
    let handshake = call.tunnelled().await;
    assert_eq!(handshake.data, b"");
    (tunnel, call)
}

async fn answered(client: &Client, agent: &mut Agent) -> (Tunnel, Call, SendStream<Bytes>) {
    let (tunnel, mut call) = opened(client, agent, &tcp()).await;
    let stream = call.headers();
    (tunnel, call, stream)
}

async fn read_some(tunnel: &mut Tunnel) -> io::Result<Vec<u8>> {
    let mut buffer = vec![0; 100_000];
    let length = within(tunnel.read(&mut buffer)).await?;
    buffer.truncate(length);
    Ok(buffer)
}

/// Answers `GetInfo`, which shows that nothing waits behind tunnels.
async fn calls_pass(client: &Client, agent: &mut Agent) {
    let serving = async { agent.call_of("GetInfo").await.answer(b"") };
    let (info, ()) = tokio::join!(within(client.api.info()), serving);
    info.unwrap();
}

/// Waits until the agent is told that the call was reset, and why.
async fn reset_reason(call: &mut Call) -> Option<Reason> {
    loop {
        match call.message().await {
            Ok(Some(_)) => {}
            Ok(None) => return None,
            Err(why) => return why.reason(),
        }
    }
}

#[tokio::test]
async fn bytes_go_at_once_and_every_message_says_where_to() {
    let (client, mut agent) = connected().await;
    let mut tunnel = within(client.api.tunnel(&tcp())).await.unwrap();
    // Nobody has answered, or read anything.
    tunnel.write_all(b"GET /").await.unwrap();
    let mut call = agent.call_of("Tunnel").await;
    for data in [&b""[..], b"GET /"] {
        let message = call.tunnelled().await;
        assert_eq!(message.id, "tcp-127.0.0.1:80-1");
        assert_eq!(message.protocol, "tcp");
        assert_eq!(message.guest_addr, "127.0.0.1:80");
        assert_eq!(message.data, data);
    }
    let mut stream = call.headers();
    send(&mut stream, &from_guest(b"200 "));
    send(&mut stream, &from_guest(b""));
    send(&mut stream, &from_guest(b"OK"));
    succeed(&mut stream);
    let mut answer = String::new();
    within(tunnel.read_to_string(&mut answer)).await.unwrap();
    assert_eq!(answer, "200 OK");

    let second = within(client.api.tunnel(&tcp())).await.unwrap();
    let message = agent.call_of("Tunnel").await.tunnelled().await;
    assert_eq!(message.id, "tcp-127.0.0.1:80-2");
    drop(second);
}

#[tokio::test]
async fn megabytes_go_both_ways_at_the_same_time() {
    const LENGTH: usize = 5_000_000;
    let (client, mut agent) = connected().await;
    let (tunnel, mut call) = opened(&client, &mut agent, &tcp()).await;
    let sent: Vec<u8> = (0..=250).cycle().take(LENGTH).collect();
    let (mut reading, mut writing) = tokio::io::split(tunnel);
    let echoing = async {
        let mut stream = call.headers();
        while let Some(message) = call.message().await.unwrap() {
            let message: berth_guest_api::message::TunnelMessage =
                prost::Message::decode(message).unwrap();
            assert!(!message.data.is_empty() && message.data.len() <= MAX_PAYLOAD);
            send(&mut stream, &from_guest(&message.data));
        }
        succeed(&mut stream);
    };
    let writing = async {
        writing.write_all(&sent).await.unwrap();
        writing.shutdown().await.unwrap();
    };
    let mut received = Vec::new();
    let reading = reading.read_to_end(&mut received);
    let ((), (), length) = within(async { tokio::join!(echoing, writing, reading) }).await;
    assert_eq!(length.unwrap(), LENGTH);
    assert!(received == sent);
}

#[tokio::test]
async fn what_the_dial_met_is_the_error_of_the_first_read() {
    use io::ErrorKind as Kind;
    let (client, mut agent) = connected().await;
    for (status, text, kind) in [
        (
            "2",
            "dial tcp 127.0.0.1:80: connect: connection refused",
            Kind::ConnectionRefused,
        ),
        (
            "2",
            "dial tcp [2001:db8::1]:80: connect: network is unreachable",
            Kind::NetworkUnreachable,
        ),
        (
            "2",
            "dial tcp 10.0.0.1:80: connect: no route to host",
            Kind::HostUnreachable,
        ),
        (
            "2",
            "dial tcp 10.0.0.1:80: connect: connection timed out",
            Kind::TimedOut,
        ),
        (
            "2",
            "dial unix /run/x: connect: permission denied",
            Kind::PermissionDenied,
        ),
        (
            "2",
            "dial unix /run/x: connect: no such file or directory",
            Kind::NotFound,
        ),
        ("2", "dial: unknown network sctp", Kind::Other),
        ("12", "unknown method Tunnel", Kind::Unsupported),
        ("14", "the server is stopping", Kind::NotConnected),
    ] {
        let (mut tunnel, call) = opened(&client, &mut agent, &tcp()).await;
        call.fail(status, text);
        for _ in 0..2 {
            let error = read_some(&mut tunnel).await.unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.to_string().contains(text), "{error}");
        }
        // Whoever only writes learns it too, and ending such a tunnel is no error.
        let error = within(tunnel.write_all(b"more")).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        within(tunnel.shutdown()).await.unwrap();
    }
}

#[tokio::test]
async fn a_writer_that_never_reads_learns_why_the_dial_failed() {
    let (client, mut agent) = connected().await;
    let (mut tunnel, call) = opened(&client, &mut agent, &tcp()).await;
    call.fail("2", "dial tcp 127.0.0.1:80: connect: connection refused");
    let error = loop {
        // The refusal may take a moment to arrive.
        if let Err(why) = within(tunnel.write_all(b"x")).await {
            break why;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn shutdown_closes_one_direction_and_the_answer_still_comes() {
    let (client, mut agent) = connected().await;
    let (mut tunnel, mut call, mut stream) = answered(&client, &mut agent).await;
    tunnel.write_all(b"question").await.unwrap();
    tunnel.shutdown().await.unwrap();
    tunnel.shutdown().await.unwrap();
    assert_eq!(call.tunnelled().await.data, b"question");
    assert!(
        call.message().await.unwrap().is_none(),
        "END_STREAM, no reset"
    );
    assert!(within(tunnel.write_all(b"late")).await.is_err());
    send(&mut stream, &from_guest(b"answer"));
    succeed(&mut stream);
    assert_eq!(read_some(&mut tunnel).await.unwrap(), b"answer");
    assert_eq!(read_some(&mut tunnel).await.unwrap(), b"");
    assert_eq!(read_some(&mut tunnel).await.unwrap(), b"");
}

#[tokio::test]
async fn an_older_agent_ends_everything_with_this_direction() {
    let (client, mut agent) = connected().await;
    let (mut tunnel, mut call, mut stream) = answered(&client, &mut agent).await;
    tunnel.shutdown().await.unwrap();
    assert!(call.message().await.unwrap().is_none());
    succeed(&mut stream);
    assert_eq!(read_some(&mut tunnel).await.unwrap(), b"");
}

#[tokio::test]
async fn the_guests_close_ends_both_directions_and_what_it_sent_before_arrives() {
    let (client, mut agent) = connected().await;
    let (mut tunnel, call, mut stream) = answered(&client, &mut agent).await;
    send(&mut stream, &from_guest(b"bye"));
    succeed(&mut stream);
    assert_eq!(read_some(&mut tunnel).await.unwrap(), b"bye");
    assert_eq!(read_some(&mut tunnel).await.unwrap(), b"");
    let error = within(tunnel.write_all(b"x")).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    within(tunnel.shutdown()).await.unwrap();
    drop((call, stream));

    // Lima's agent adds RST_STREAM with NO_ERROR, by which a writer that does not read notices.
    let (mut tunnel, call, mut stream) = answered(&client, &mut agent).await;
    send(&mut stream, &from_guest(b"bye"));
    succeed(&mut stream);
    drop((call, stream));
    let error = loop {
        if let Err(why) = within(tunnel.write_all(b"x")).await {
            break why;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    within(tunnel.shutdown()).await.unwrap();
    assert_eq!(read_some(&mut tunnel).await.unwrap(), b"bye");
    assert_eq!(read_some(&mut tunnel).await.unwrap(), b"");
}

#[tokio::test]
async fn dropping_a_tunnel_resets_it_at_once() {
    let (client, mut agent) = connected().await;
    let (tunnel, mut call) = opened(&client, &mut agent, &tcp()).await;
    drop(tunnel);
    assert_eq!(reset_reason(&mut call).await, Some(Reason::CANCEL));

    // With an answer half read, and this direction closed.
    let (mut tunnel, _call, mut stream) = answered(&client, &mut agent).await;
    send(&mut stream, &from_guest(b"x"));
    tunnel.shutdown().await.unwrap();
    drop(tunnel);
    let reason = within(std::future::poll_fn(|cx| stream.poll_reset(cx))).await;
    assert_eq!(reason.unwrap(), Reason::CANCEL);
    calls_pass(&client, &mut agent).await;
}

#[tokio::test]
async fn a_reset_and_a_broken_connection_are_no_ends() {
    let (client, mut agent) = connected().await;
    let (mut tunnel, _call, mut stream) = answered(&client, &mut agent).await;
    send(&mut stream, &from_guest(b"some"));
    assert_eq!(read_some(&mut tunnel).await.unwrap(), b"some");
    stream.send_reset(Reason::INTERNAL_ERROR);
    let error = read_some(&mut tunnel).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);

    let (mut tunnel, _call, _stream) = answered(&client, &mut agent).await;
    let (mut unanswered, _unanswered) = opened(&client, &mut agent, &tcp()).await;
    agent.cut.cancel();
    for tunnel in [&mut tunnel, &mut unanswered] {
        let error = read_some(tunnel).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionAborted);
    }
    let error = within(client.api.tunnel(&tcp())).await.unwrap_err();
    assert_eq!(io::Error::from(error).kind(), io::ErrorKind::NotConnected);
}

#[tokio::test]
async fn going_away_leaves_open_tunnels_alone() {
    let (client, mut agent) = connected().await;
    let (mut tunnel, _call, mut stream) = answered(&client, &mut agent).await;
    agent.stop.cancel();
    let refused = loop {
        // GOAWAY may take a moment to arrive; a stream opened just before it is answered never.
        match within(client.api.tunnel(&tcp())).await {
            Ok(_) => tokio::task::yield_now().await,
            Err(why) => break why,
        }
    };
    assert!(
        matches!(refused, GuestApiError::Call(CallError::Lost { .. })),
        "{refused}"
    );
    send(&mut stream, &from_guest(b"still here"));
    succeed(&mut stream);
    assert_eq!(read_some(&mut tunnel).await.unwrap(), b"still here");
    assert_eq!(read_some(&mut tunnel).await.unwrap(), b"");
    drop(tunnel);
    within(client.api.over()).await;
}

#[tokio::test(start_paused = true)]
async fn a_guest_that_never_answers_holds_up_nobody() {
    let (client, mut agent) = connected().await;
    let (mut tunnel, mut call) = opened(&client, &mut agent, &tcp()).await;
    let mut buffer = [0; 9];
    let waiting = timeout(Duration::from_secs(3600), tunnel.read(&mut buffer));
    assert!(waiting.await.is_err());
    calls_pass(&client, &mut agent).await;
    drop(tunnel);
    assert_eq!(reset_reason(&mut call).await, Some(Reason::CANCEL));
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_stops_holds_up_the_guest_and_nobody_else() {
    let (client, mut agent) = connected().await;
    let message = from_guest(&[7; 1000]);
    // More of them than the connection's window would hold, did each keep the window it began with.
    let mut stopped = Vec::new();
    let mut total = 0;
    for count in 1..=130 {
        let (tunnel, call, mut stream) = answered(&client, &mut agent).await;
        let sent = flood(&mut stream, &message).await;
        assert!(sent <= 256 * 1024, "tunnel {count} took {sent} bytes");
        assert!(
            sent > 8 * 1024,
            "tunnel {count} was held up by others at {sent} bytes"
        );
        total += sent;
        stopped.push((tunnel, call, stream));
    }
    assert!(total < 25 * 1024 * 1024, "{total}");
    calls_pass(&client, &mut agent).await;

    // Once it reads again, it gets everything.
    let (tunnel, _call, stream) = &mut stopped[0];
    succeed(stream);
    let mut received = Vec::new();
    within(tunnel.read_to_end(&mut received)).await.unwrap();
    assert!(received.len() > 200 * 1024 && received.iter().all(|byte| *byte == 7));
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_stops_reading_holds_up_the_writer() {
    let (ours, _theirs) = tokio::io::duplex(4096);
    let api = GuestApi::connect(ours, &TaskTracker::new(), CancellationToken::new())
        .await
        .unwrap();
    let mut tunnel = within(api.tunnel(&tcp())).await.unwrap();
    let piece = vec![0; MAX_PAYLOAD];
    let mut written = 0;
    while let Ok(length) = timeout(Duration::from_secs(1), tunnel.write(&piece)).await {
        written += length.unwrap();
        assert!(written <= 256 * 1024, "it never stops");
    }
    assert!(written > 0);
}

#[tokio::test(start_paused = true)]
async fn the_2049th_tunnel_fails_in_time_and_other_calls_still_pass() {
    let (client, mut agent) = connected().await;
    let mut open = Vec::new();
    let full = loop {
        assert!(open.len() < 2049);
        match client.api.tunnel(&tcp()).await {
            Ok(tunnel) => open.push((tunnel, agent.call_of("Tunnel").await)),
            Err(why) => break why,
        }
    };
    assert!(open.len() > 2000, "{}", open.len());
    assert!(matches!(full, GuestApiError::Full { .. }), "{full}");
    calls_pass(&client, &mut agent).await;
    // A place that becomes free is used by whoever waits for it.
    let target = tcp();
    let waiting = client.api.tunnel(&target);
    let freeing = async {
        tokio::task::yield_now().await;
        open.pop();
    };
    let (waited, ()) = within(async { tokio::join!(waiting, freeing) }).await;
    waited.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_takes_fewer_streams_is_not_waited_for_longer() {
    let (client, mut agent) = connected_to(2).await;
    calls_pass(&client, &mut agent).await;
    let first = opened(&client, &mut agent, &tcp()).await;
    let second = opened(&client, &mut agent, &tcp()).await;
    let error = client.api.tunnel(&tcp()).await.unwrap_err();
    let text = "Lima's guest agent did not answer Tunnel within 3s";
    assert_eq!(error.to_string(), text);
    drop(first);
    let third = within(client.api.tunnel(&tcp())).await.unwrap();
    // The one that was given up may still be announced, and taken back.
    while agent.call_of("Tunnel").await.message().await.is_err() {}
    drop((second, third));
}

#[tokio::test]
async fn datagrams_keep_their_boundaries() {
    let (client, mut agent) = connected().await;
    let (mut tunnel, mut call) = opened(&client, &mut agent, &udp()).await;
    let mut stream = call.headers();
    let framed = |datagram: &[u8]| {
        let length = u16::try_from(datagram.len()).unwrap();
        [&length.to_be_bytes(), datagram].concat()
    };
    let longest = vec![1; MAX_PAYLOAD];
    let too_long = vec![2; MAX_PAYLOAD + 1];
    let mut bytes = Vec::new();
    for datagram in [&b"one"[..], b"", &longest, &too_long, b"two"] {
        bytes.extend(framed(datagram));
    }
    // However the caller cuts them.
    for piece in bytes.chunks(7) {
        tunnel.write_all(piece).await.unwrap();
    }
    tunnel.write_all(&bytes).await.unwrap();
    tunnel.write_all(b"\0\x05begun").await.unwrap();
    for _ in 0..2 {
        for expected in [&b"one"[..], &longest, b"two"] {
            let message = call.tunnelled().await;
            assert_eq!(message.protocol, "udp");
            assert!(message.data == expected, "{}", message.data.len());
        }
    }
    assert_eq!(call.tunnelled().await.data, b"begun");

    let largest = vec![3; 65_507];
    for datagram in [&b"three"[..], b"", &largest, b"4"] {
        send(&mut stream, &from_guest(datagram));
    }
    let expected = [framed(b"three"), framed(&largest), framed(b"4")].concat();
    let mut received = vec![0; expected.len()];
    within(tunnel.read_exact(&mut received)).await.unwrap();
    assert!(received == expected);

    send(&mut stream, &from_guest(&vec![5; 65_508]));
    let error = read_some(&mut tunnel).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
}

#[tokio::test]
async fn unix_sockets_are_dialled_by_path() {
    let (client, mut agent) = connected().await;
    let target = TunnelTarget::Unix(SocketPath::new("/run/docker.sock").unwrap());
    let tunnel = within(client.api.tunnel(&target)).await.unwrap();
    let message = agent.call_of("Tunnel").await.tunnelled().await;
    assert_eq!(message.protocol, "unix");
    assert_eq!(message.guest_addr, "/run/docker.sock");
    drop(tunnel);
}

#[tokio::test]
async fn what_is_no_message_ends_the_tunnel_and_only_it() {
    let (client, mut agent) = connected().await;
    for (bytes, end) in [
        (&b"\0\xff\xff\xff\xff"[..], false),
        (b"\x01\0\0\0\x01x", false),
        (b"\0\0\0\0\x02\x1a\x05hello", false),
        (b"\0\0\0\0\x09\x1a\x07cut", true),
    ] {
        let (mut tunnel, mut call, mut stream) = answered(&client, &mut agent).await;
        stream.send_data(Bytes::from_static(bytes), false).unwrap();
        if end {
            succeed(&mut stream);
        }
        let error = loop {
            match read_some(&mut tunnel).await {
                Ok(some) => assert_eq!(some, b"cut"),
                Err(why) => break why,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
        drop(tunnel);
        if !end {
            assert_eq!(reset_reason(&mut call).await, Some(Reason::CANCEL));
        }
    }
    calls_pass(&client, &mut agent).await;
}

#[tokio::test]
async fn thousands_of_short_tunnels_leave_nothing_behind() {
    let (client, mut agent) = connected().await;
    for count in 0..6000 {
        let (mut tunnel, call, mut stream) = answered(&client, &mut agent).await;
        send(&mut stream, &from_guest(b"x"));
        if count % 2 == 0 {
            succeed(&mut stream);
            assert_eq!(read_some(&mut tunnel).await.unwrap(), b"x");
            assert_eq!(read_some(&mut tunnel).await.unwrap(), b"");
        }
        // The others are dropped with bytes on their way.
        drop((tunnel, call));
    }
    calls_pass(&client, &mut agent).await;
}
