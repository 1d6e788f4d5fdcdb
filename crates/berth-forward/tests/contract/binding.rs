//! Where the host listens.

use std::net::{TcpListener, UdpSocket};

use berth_config::platform::HostOs;
use berth_forward::reconcile::ForwardState;

use crate::support::{Beginning, ask, connect, free_port, is_refused, one, start};

#[tokio::test]
async fn localhost_is_both_loopback_addresses_and_leads_to_the_same_family() {
    let port = free_port();
    let f = start([one(80, "localhost", port)]);
    f.reports(&["tcp 127.0.0.1:80", "tcp [::1]:80"]);
    f.until_listening(&[&format!("localhost:{port}")]).await;
    let four = ask(&format!("127.0.0.1:{port}")).await.unwrap();
    let six = ask(&format!("[::1]:{port}")).await.unwrap();
    assert_eq!(
        (&*four, &*six),
        ("127.0.0.1:80\nhello bye", "[::1]:80\nhello bye")
    );
    f.reports(&["tcp [::1]:80"]);
    f.until("down to one", |status| status.forwards[0].guests.len() == 1)
        .await;
    let four = ask(&format!("127.0.0.1:{port}")).await.unwrap();
    assert_eq!(four, "[::1]:80\nhello bye");
    f.stop().await;
}

#[tokio::test]
async fn localhost_lives_as_a_whole_or_not_at_all() {
    let port = free_port();
    let half = TcpListener::bind(("::1", port)).unwrap();
    let f = start([one(80, "localhost", port)]);
    f.reports(&["tcp 127.0.0.1:80"]);
    let status = f
        .until("waiting", |status| {
            matches!(&status.forwards[..], [one] if matches!(one.state, ForwardState::Waiting { .. }))
        })
        .await;
    assert!(is_refused(&format!("127.0.0.1:{port}")).await);
    assert_eq!(
        status.forwards[0].host.to_string(),
        format!("localhost:{port}")
    );
    drop(half);
    f.until_listening(&[&format!("localhost:{port}")]).await;
    assert!(ask(&format!("127.0.0.1:{port}")).await.is_ok());
    f.stop().await;
}

#[tokio::test]
async fn both_wildcards_take_both_families_and_are_one_listener() {
    for host in ["0.0.0.0", "::"] {
        let port = free_port();
        let f = start([one(80, host, port)]);
        f.reports(&["tcp 0.0.0.0:80", "udp 0.0.0.0:80"]);
        f.until("listening", |status| {
            status.forwards.len() == 2
                && status
                    .forwards
                    .iter()
                    .all(|f| f.state == ForwardState::Listening)
        })
        .await;
        for address in [format!("127.0.0.1:{port}"), format!("[::1]:{port}")] {
            assert!(ask(&address).await.is_ok(), "{host} {address}");
        }
        assert!(UdpSocket::bind(("::1", port)).is_err());
        f.stop().await;
    }
    // Rules that name them differently want the same listener, and the earlier one has it.
    let port = free_port();
    let f = start([one(80, "0.0.0.0", port), one(81, "::", port)]);
    f.reports(&["tcp 127.0.0.1:80", "tcp 127.0.0.1:81"]);
    f.until("listening once", |status| {
        matches!(&status.forwards[..], [first, second]
            if first.state == ForwardState::Listening
                && matches!(second.state, ForwardState::Waiting { .. }))
    })
    .await;
    f.stop().await;
}

/// The plan of another system works on this one too: privileged ports of macOS are wildcard listeners that turn others away.
#[tokio::test]
async fn a_pseudo_loopback_listener_takes_only_peers_of_this_host() {
    let mut beginning = Beginning::new([one(80, "127.0.0.1", 1023)]);
    beginning.os = HostOs::Darwin;
    let f = beginning.start();
    f.reports(&["tcp 127.0.0.1:80"]);
    f.until("tried", |status| status.forwards.len() == 1).await;
    if f.handle.status().forwards[0].state != ForwardState::Listening {
        // Without the privilege it cannot be shown here.
        let told = f.told();
        assert!(told[0].starts_with("failed "), "{told:?}");
        return;
    }
    // Every address of 127.0.0.0/8 is this host's.
    for address in ["127.0.0.1:1023", "127.9.9.9:1023", "[::1]:1023"] {
        assert!(ask(address).await.is_ok(), "{address}");
    }
    f.stop().await;
}

#[tokio::test]
async fn nothing_of_an_ipv6_address_is_bound_for_ipv4() {
    let port = free_port();
    let f = start([one(80, "::1", port)]);
    f.reports(&["tcp [::1]:80", "tcp 127.0.0.1:80"]);
    let host = format!("[::1]:{port}");
    f.until_listening(&[&host]).await;
    assert!(ask(&host).await.is_ok());
    assert!(is_refused(&format!("127.0.0.1:{port}")).await);
    drop(connect(&host).await);
    f.stop().await;
}
