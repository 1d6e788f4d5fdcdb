//! Flows that the host opens.

use std::io::ErrorKind;
use std::process::Command;

use berth_link::flow::FlowKind;
use berth_link::mux::LinkStream;
use berth_relay::LocalSocket as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket, UnixDatagram, UnixListener};

use super::super::MOST_FLOWS;
use super::setting::{Setting, hear, hear_end, hear_reset, say, within};

/// A flow to a server of ours: its two ends.
async fn connected(setting: &Setting) -> (LinkStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let stream = setting.open(FlowKind::Tcp, &address);
    let (server, _) = within(listener.accept()).await.unwrap();
    (stream, server)
}

#[tokio::test]
async fn servers_are_reached_in_both_families_and_where_they_listen_on_all() {
    let setting = Setting::new().await;
    for (listens, dialled) in [
        ("127.0.0.1", "127.0.0.1"),
        ("0.0.0.0", "0.0.0.0"),
        ("[::1]", "[::1]"),
        ("[::]", "[::]"),
        ("127.0.0.9", "127.0.0.9"),
    ] {
        let listener = TcpListener::bind(format!("{listens}:0")).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut stream = setting.open(FlowKind::Tcp, &format!("{dialled}:{port}"));
        say(&mut stream, "sent before anybody accepted").await;
        let (mut server, _) = within(listener.accept()).await.unwrap();
        hear(&mut server, "sent before anybody accepted").await;
        say(&mut server, "answer").await;
        hear(&mut stream, "answer").await;
    }
}

#[tokio::test]
async fn either_end_may_end_first_and_hear_the_other_to_its_end() {
    let setting = Setting::new().await;
    for (host_first, talks_on) in [(true, true), (true, false), (false, true), (false, false)] {
        let (mut stream, mut server) = connected(&setting).await;
        if host_first {
            stream.shutdown().await.unwrap();
            hear_end(&mut server).await;
            if talks_on {
                say(&mut server, "late").await;
                hear(&mut stream, "late").await;
            }
            server.shutdown().await.unwrap();
            hear_end(&mut stream).await;
        } else {
            server.shutdown().await.unwrap();
            hear_end(&mut stream).await;
            if talks_on {
                say(&mut stream, "late").await;
                hear(&mut server, "late").await;
            }
            stream.shutdown().await.unwrap();
            hear_end(&mut server).await;
        }
    }
}

#[tokio::test]
async fn resets_arrive_in_both_directions() {
    let setting = Setting::new().await;
    let (mut stream, server) = connected(&setting).await;
    server.abort();
    hear_reset(&mut stream).await;
    let (stream, mut server) = connected(&setting).await;
    drop(stream);
    hear_reset(&mut server).await;
}

#[tokio::test]
async fn what_cannot_be_reached_is_refused_with_the_reason() {
    let setting = Setting::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed_port = listener.local_addr().unwrap().to_string();
    drop(listener);
    let [nobody, file, datagrams] = ["nobody", "file", "datagrams"].map(|name| setting.path(name));
    std::fs::write(&file, "").unwrap();
    let _datagrams = UnixDatagram::bind(&datagrams).unwrap();
    for (kind, address, refusal) in [
        (
            FlowKind::Tcp,
            closed_port.as_str(),
            ErrorKind::ConnectionRefused,
        ),
        // The kernel has no way for a stream to everybody.
        (
            FlowKind::Tcp,
            "255.255.255.255:80",
            ErrorKind::HostUnreachable,
        ),
        (FlowKind::Tcp, "localhost:80", ErrorKind::Unsupported),
        (FlowKind::Udp, "127.0.0.1:0", ErrorKind::Unsupported),
        (FlowKind::Unix, "relative", ErrorKind::Unsupported),
        (FlowKind::Unix, &nobody, ErrorKind::ConnectionRefused),
        (FlowKind::UnixAsRoot, &file, ErrorKind::ConnectionRefused),
        (FlowKind::UnixAsRoot, &datagrams, ErrorKind::Unsupported),
        (FlowKind::Reverse, "1", ErrorKind::Unsupported),
    ] {
        assert_eq!(
            setting.refused(kind, address).await,
            refusal,
            "{kind:?} {address}"
        );
    }
    drop(UnixListener::bind(&nobody).unwrap());
    let stale = setting.refused(FlowKind::UnixAsRoot, &nobody).await;
    assert_eq!(stale, ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn datagrams_reach_a_server_and_come_back() {
    let setting = Setting::new().await;
    for (listens, dialled) in [("127.0.0.1", "127.0.0.1"), ("[::]", "[::]")] {
        let server = UdpSocket::bind(format!("{listens}:0")).await.unwrap();
        let port = server.local_addr().unwrap().port();
        let mut stream = setting.open(FlowKind::Udp, &format!("{dialled}:{port}"));
        for length in [0, 3, 65_507_u16] {
            let datagram = vec![7; usize::from(length)];
            let framed = [&length.to_be_bytes(), &datagram[..]].concat();
            within(stream.write_all(&framed)).await.unwrap();
            let mut room = vec![0; 70_000];
            let (received, from) = within(server.recv_from(&mut room)).await.unwrap();
            assert_eq!(received, usize::from(length));
            server.send_to(&room[..received], from).await.unwrap();
            assert_eq!(within(stream.read_u16()).await.unwrap(), length);
            let mut back = vec![0; usize::from(length)];
            within(stream.read_exact(&mut back)).await.unwrap();
            assert!(back == datagram);
        }
    }
}

#[tokio::test]
async fn a_full_queue_is_waited_for() {
    let setting = Setting::new().await;
    let path = setting.path("busy");
    let socket = tokio::net::UnixSocket::new_stream().unwrap();
    socket.bind(&path).unwrap();
    let listener = socket.listen(1).unwrap();
    // More than fit.
    let mut streams: Vec<_> = (0..5)
        .map(|_| setting.open(FlowKind::UnixAsRoot, &path))
        .collect();
    for stream in &mut streams {
        say(stream, "hello").await;
    }
    for _ in 0..5 {
        let (mut server, _) = within(listener.accept()).await.unwrap();
        hear(&mut server, "hello").await;
    }
}

#[tokio::test]
async fn the_end_of_the_tunnels_ends_flows() {
    let setting = Setting::new().await;
    let (mut stream, mut server) = connected(&setting).await;
    within(setting.tunnels.close()).await;
    hear_reset(&mut server).await;
    hear_reset(&mut stream).await;
}

#[tokio::test]
async fn there_are_only_so_many_flows() {
    let setting = Setting::new().await;
    let (mut stream, mut server) = connected(&setting).await;
    let address = server.local_addr().unwrap().to_string();
    let mut places = Vec::new();
    while let Some(place) = setting.tunnels.house.place() {
        places.push(place);
    }
    assert_eq!(places.len(), MOST_FLOWS - 1);
    let refusal = setting.refused(FlowKind::Tcp, &address).await;
    assert_eq!(refusal, ErrorKind::ConnectionReset);
    say(&mut server, "still here").await;
    hear(&mut stream, "still here").await;
    places.pop();
    // There is a place again, but nobody listens any more.
    let refusal = setting.refused(FlowKind::Tcp, &address).await;
    assert_eq!(refusal, ErrorKind::ConnectionRefused);
}

/// The limit belongs to the process, so the test has one of its own.
#[test]
fn without_descriptors_only_that_flow_is_refused() {
    const ALONE: &str = "BERTH_TEST_ALONE";
    if std::env::var_os(ALONE).is_none() {
        let name = "tunnels::tests::dialled::without_descriptors_only_that_flow_is_refused";
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", name, "--nocapture"])
            .env(ALONE, "1")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("1 passed"), "{output:?}");
        return;
    }
    let runtime = crate::runtime::new().unwrap();
    runtime.block_on(refused_without_descriptors());
}

async fn refused_without_descriptors() {
    let setting = Setting::new().await;
    let path = setting.path("host.sock");
    super::reversed::listen(&setting, 1, &path).await.unwrap();
    let (mut stream, mut server) = connected(&setting).await;
    let address = server.local_addr().unwrap().to_string();
    let mut all = Vec::new();
    while let Ok(file) = std::fs::File::open("/dev/null") {
        all.push(file);
    }
    for (kind, address) in [
        (FlowKind::Tcp, &address),
        (FlowKind::Udp, &address),
        (FlowKind::UnixAsRoot, &path),
    ] {
        let refusal = setting.refused(kind, address).await;
        assert_eq!(refusal, ErrorKind::ConnectionReset, "{kind:?}");
    }
    say(&mut server, "still here").await;
    hear(&mut stream, "still here").await;
    drop(all);
    let mut stream = setting.open(FlowKind::Unix, &path);
    hear_end(&mut stream).await;
}
