//! Addresses beyond loopback, and hosts without IPv6. Each test runs itself again in a network of its own, which a user may make
//! where the system allows that, and root always.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "contract/support.rs"]
#[allow(dead_code, reason = "shared with the other tests")]
mod support;

use std::io;
use std::net::SocketAddr;
use std::process::Command;

use berth_config::platform::HostOs;
use berth_forward::reconcile::ForwardState;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpSocket, UdpSocket};
use tokio::time::timeout;

use support::{Beginning, LONG, ask, one, start};

/// Runs a program, which must succeed.
fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
}

/// Runs an ignored test of this file in a network of its own.
fn in_a_network_of_its_own(test: &str) {
    let this = std::env::current_exe().unwrap();
    let output = Command::new("unshare")
        .args(["--map-root-user", "--net", "--"])
        .arg(this)
        .args(["--exact", test, "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let passed = said.contains("1 passed");
    assert!(output.status.success() && passed, "{said}");
}

#[test]
fn only_this_host_reaches_a_pseudo_loopback_listener() {
    in_a_network_of_its_own("pseudo_loopback");
}

#[tokio::test]
#[ignore = "run by only_this_host_reaches_a_pseudo_loopback_listener"]
async fn pseudo_loopback() {
    run("ip", &["link", "set", "lo", "up"]);
    run("ip", &["address", "add", "192.0.2.7/32", "dev", "lo"]);
    // Where macOS binds the wildcard, because everybody may; it works the same here.
    let mut beginning = Beginning::new([one(80, "127.0.0.1", 80)]);
    beginning.os = HostOs::Darwin;
    let f = beginning.start();
    f.reports(&["tcp 127.0.0.1:80", "udp 127.0.0.1:80"]);
    f.until_listening(&["127.0.0.1:80", "127.0.0.1:80"]).await;
    for address in ["127.0.0.1:80", "[::1]:80"] {
        assert!(ask(address).await.is_ok(), "{address}");
    }
    let other = TcpSocket::new_v4().unwrap();
    other.bind("192.0.2.7:0".parse().unwrap()).unwrap();
    let address: SocketAddr = "192.0.2.7:80".parse().unwrap();
    let mut turned_away = other.connect(address).await.unwrap();
    let read = timeout(LONG, turned_away.read(&mut [0; 1])).await.unwrap();
    assert_eq!(read.unwrap_err().kind(), io::ErrorKind::ConnectionReset);

    let other = UdpSocket::bind("192.0.2.7:0").await.unwrap();
    other.send_to(b"other", "192.0.2.7:80").await.unwrap();
    let own = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    own.send_to(b"own", "127.0.0.1:80").await.unwrap();
    let mut answer = [0; 100];
    let (count, _) = timeout(LONG, own.recv_from(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(&answer[..count], b"127.0.0.1:80 own");
    let flows = f.handle.status().forwards.into_iter();
    let flows: u64 = flows.map(|f| f.traffic.total).sum();
    assert_eq!(flows, 3, "two connections and one flow of datagrams");
    f.stop().await;
}

#[test]
fn an_address_that_comes_later_is_listened_on_then() {
    in_a_network_of_its_own("late_address");
}

#[tokio::test]
#[ignore = "run by an_address_that_comes_later_is_listened_on_then"]
async fn late_address() {
    run("ip", &["link", "set", "lo", "up"]);
    let f = start([one(80, "192.0.2.8", 8080)]);
    f.reports(&["tcp 127.0.0.1:80"]);
    f.until("failed", |status| {
        matches!(&status.forwards[..], [one] if matches!(one.state, ForwardState::Failed { .. }))
    })
    .await;
    run("ip", &["address", "add", "192.0.2.8/32", "dev", "lo"]);
    f.until_listening(&["192.0.2.8:8080"]).await;
    assert!(ask("192.0.2.8:8080").await.is_ok());
    f.stop().await;
}

#[test]
fn localhost_is_ipv4_alone_on_a_host_without_ipv6() {
    in_a_network_of_its_own("no_ipv6");
}

#[tokio::test]
#[ignore = "run by localhost_is_ipv4_alone_on_a_host_without_ipv6"]
async fn no_ipv6() {
    run("ip", &["link", "set", "lo", "up"]);
    std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").unwrap();
    let f = start([one(80, "localhost", 8080), one(81, "0.0.0.0", 8081)]);
    f.reports(&["tcp [::1]:80", "udp [::1]:80", "tcp 0.0.0.0:81"]);
    f.until_listening(&["0.0.0.0:8081", "localhost:8080", "localhost:8080"])
        .await;
    for address in ["127.0.0.1:8080", "127.0.0.1:8081"] {
        assert!(ask(address).await.is_ok(), "{address}");
    }
    f.stop().await;
}
