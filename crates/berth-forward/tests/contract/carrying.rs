//! What goes through, and what becomes of it when something is gone.

use std::io;
use std::time::Duration;

use berth_config::model::Proto;
use berth_forward::address::GuestPorts;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UdpSocket;
use tokio::time::timeout;

use crate::support::{
    Beginning, LONG, Service, ask, connect, fixed, free_port, is_refused, one, rule, start,
};

#[tokio::test]
async fn a_reported_port_is_connected_to_and_its_end_is_passed_on() {
    let f = start([one(80, "127.77.1.1", 20080)]);
    f.reports(&["tcp 127.0.0.1:80"]);
    f.until_listening(&["127.77.1.1:20080"]).await;
    let answer = ask("127.77.1.1:20080").await.unwrap();
    assert_eq!(answer, "127.0.0.1:80\nhello bye", "also after our own end");

    let status = f.handle.status();
    let traffic = &status.forwards[0].traffic;
    assert_eq!((traffic.to_guest, traffic.total), (6, 1));
    assert_eq!(traffic.to_host, answer.len() as u64);

    f.reports(&[]);
    f.until_listening(&[]).await;
    assert!(is_refused("127.77.1.1:20080").await);
    assert_eq!(
        f.told(),
        [
            "forwarding tcp 127.0.0.1:80 to 127.77.1.1:20080",
            "stopping tcp 127.0.0.1:80 to 127.77.1.1:20080"
        ]
    );
    f.stop().await;
}

#[tokio::test]
async fn the_client_is_reset_when_the_guest_refuses_or_does_not_answer() {
    let rules = [one(80, "127.77.1.2", 20080), one(81, "127.77.1.2", 20081)];
    let mut beginning = Beginning::new(rules);
    beginning.limits.dial = Duration::from_millis(200);
    let f = beginning.start();
    f.reports(&["tcp 127.0.0.1:80", "tcp 127.0.0.1:81"]);
    f.guest.does("127.0.0.1:80", Service::Refuses);
    f.guest.does("127.0.0.1:81", Service::Hangs);
    f.until_listening(&["127.77.1.2:20080", "127.77.1.2:20081"])
        .await;
    for (address, why) in [
        (
            "127.77.1.2:20080",
            "cannot connect to 127.0.0.1:80 in the guest: connection refused",
        ),
        (
            "127.77.1.2:20081",
            "the guest did not answer a connection to 127.0.0.1:81 in time",
        ),
    ] {
        let mut client = connect(address).await;
        let read = timeout(LONG, client.read(&mut [0; 1])).await.unwrap();
        assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        let status = f.handle.status();
        let errors: Vec<_> = status
            .forwards
            .iter()
            .filter_map(|forward| forward.traffic.last_error.as_deref())
            .collect();
        assert!(errors.contains(&why), "{errors:?}");
    }
    f.stop().await;
}

#[tokio::test]
async fn a_client_waits_for_a_lost_guest_and_not_for_ever() {
    let mut beginning = Beginning::new([one(80, "127.77.1.3", 20080)]);
    beginning.limits.link = Duration::from_millis(200);
    let f = beginning.start();
    f.reports(&["tcp 127.0.0.1:80"]);
    f.until_listening(&["127.77.1.3:20080"]).await;
    f.guest.link.0.send_replace(false);
    // A new boot of which nothing is known yet closes nothing.
    f.ports.send_replace(GuestPorts::default());

    let mut patient = connect("127.77.1.3:20080").await;
    f.guest.link.0.send_replace(true);
    let mut first = [0; 13];
    timeout(LONG, patient.read_exact(&mut first))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&first, b"127.0.0.1:80\n");

    f.guest.link.0.send_replace(false);
    let mut unlucky = connect("127.77.1.3:20080").await;
    let read = timeout(LONG, unlucky.read(&mut first)).await.unwrap();
    assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionReset);

    // The new boot has no such port.
    f.reports(&["tcp 127.0.0.1:22"]);
    f.until_listening(&[]).await;
    f.stop().await;
}

#[tokio::test]
async fn connections_outlive_their_listener_and_end_with_everything() {
    let f = start([one(80, "127.77.1.4", 20080)]);
    f.reports(&["tcp 127.0.0.1:80"]);
    f.until_listening(&["127.77.1.4:20080"]).await;
    let mut client = connect("127.77.1.4:20080").await;
    let mut label = [0; 13];
    client.read_exact(&mut label).await.unwrap();

    f.reports(&[]);
    f.until_listening(&[]).await;
    client.write_all(b"still here").await.unwrap();
    let mut echo = [0; 10];
    timeout(LONG, client.read_exact(&mut echo))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&echo, b"still here");

    f.stop().await;
    let read = timeout(LONG, client.read(&mut echo)).await.unwrap();
    assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
}

#[tokio::test]
async fn one_connection_too_many_is_refused_and_said() {
    let mut beginning = Beginning::new([one(80, "127.77.1.5", 20080)]);
    beginning.limits.connections_per_forward = 2;
    let f = beginning.start();
    f.reports(&["tcp 127.0.0.1:80"]);
    f.until_listening(&["127.77.1.5:20080"]).await;
    let mut first = connect("127.77.1.5:20080").await;
    let mut second = connect("127.77.1.5:20080").await;
    for client in [&mut first, &mut second] {
        client.read_exact(&mut [0; 13]).await.unwrap();
    }
    let mut third = connect("127.77.1.5:20080").await;
    let read = timeout(LONG, third.read(&mut [0; 1])).await.unwrap();
    assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    let last_error = f.handle.status().forwards[0].traffic.last_error.clone();
    assert_eq!(
        last_error.as_deref(),
        Some("a connection was refused: there are 2 already")
    );

    drop(first);
    let deadline = tokio::time::Instant::now() + LONG;
    while ask("127.77.1.5:20080").await.is_err() {
        assert!(tokio::time::Instant::now() < deadline, "no place was freed");
    }
    f.stop().await;
}

#[tokio::test]
async fn datagrams_go_both_ways_for_each_client() {
    let f = start([one(53, "127.77.1.6", 20053)]);
    f.reports(&["udp 127.0.0.1:53", "tcp 127.0.0.1:53"]);
    f.until_listening(&["127.77.1.6:20053", "127.77.1.6:20053"])
        .await;
    for client in ["one", "two"] {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket
            .send_to(client.as_bytes(), "127.77.1.6:20053")
            .await
            .unwrap();
        let mut answer = [0; 100];
        let received = timeout(LONG, socket.recv_from(&mut answer)).await.unwrap();
        let (count, from) = received.unwrap();
        assert_eq!(
            std::str::from_utf8(&answer[..count]).unwrap(),
            format!("127.0.0.1:53 {client}")
        );
        assert_eq!(from.to_string(), "127.77.1.6:20053");
    }
    f.reports(&["tcp 127.0.0.1:53"]);
    f.until_listening(&["127.77.1.6:20053"]).await;
    UdpSocket::bind("127.77.1.6:20053")
        .await
        .expect("the port is free");
    f.stop().await;
}

#[tokio::test]
async fn static_ports_are_ranges_and_datagrams_too_and_know_where_to_go() {
    let port = free_port();
    let mut range = rule([8000, 8002], "127.77.1.7", [20000, 20002]);
    range.is_static = true;
    let mut datagrams = fixed(one(53, "127.77.1.7", 20053));
    datagrams.proto = Proto::Udp;
    let f = start([range, datagrams, fixed(one(7000, "localhost", port))]);
    assert!(f.handle.settled().await.is_empty());
    let localhost = format!("localhost:{port}");
    let all = [
        "127.77.1.7:20000",
        "127.77.1.7:20001",
        "127.77.1.7:20002",
        "127.77.1.7:20053",
        &*localhost,
    ];
    f.until_listening(&all).await;
    // Nobody listens at the rule's own address; what the guest reports shows where to go instead.
    assert!(ask("127.77.1.7:20001").await.is_err());
    f.reports(&["tcp [::1]:8001"]);
    f.until("told of it", |status| {
        status.forwards.iter().any(|f| f.guests.len() == 2)
    })
    .await;
    let answer = ask("127.77.1.7:20001").await.unwrap();
    assert_eq!(answer, "[::1]:8001\nhello bye");
    f.reports(&[]);
    f.until("rid of it", |status| {
        status.forwards.iter().all(|f| f.guests.len() == 1)
    })
    .await;
    f.until_listening(&all).await;
    let told = f.told();
    assert_eq!(told.len(), 5, "{told:?}");
    assert!(told.iter().all(|line| line.starts_with("forwarding ")));
    f.stop().await;
}

#[tokio::test]
async fn the_last_handle_ends_everything() {
    let f = start([fixed(one(80, "127.77.1.8", 20080))]);
    f.until_listening(&["127.77.1.8:20080"]).await;
    let second = f.handle.clone();
    drop(f.handle);
    assert!(!is_refused("127.77.1.8:20080").await);
    drop(second);
    f.tracker.close();
    timeout(LONG, f.tracker.wait()).await.expect("ends");
    assert!(is_refused("127.77.1.8:20080").await);
}

/// Time passes by itself only while nobody has anything to do.
#[tokio::test(start_paused = true)]
async fn nothing_happens_while_nothing_changes() {
    let f = start([fixed(one(80, "127.77.1.10", 20080))]);
    assert!(f.handle.settled().await.is_empty());
    drop(f.ports);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(!is_refused("127.77.1.10:20080").await);
    f.handle.stop().await;
}
