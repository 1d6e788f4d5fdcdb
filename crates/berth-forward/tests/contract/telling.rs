//! What people are told.

use std::time::Duration;

use berth_forward::reconcile::ForwardState;

use crate::support::{ask, ignore_all, is_refused, one, start};

#[tokio::test]
async fn what_no_rule_forwards_is_said_unless_everything_is_off() {
    let f = start([]);
    f.reports(&["tcp 192.168.5.15:80", "tcp 0.0.0.0:22", "udp 10.0.0.1:53"]);
    f.until("told", |_| f.notices.lock().unwrap().len() == 3)
        .await;
    let mut told = f.told();
    told.sort();
    assert_eq!(
        told,
        [
            "not forwarding tcp 0.0.0.0:22",
            "not forwarding tcp 192.168.5.15:80",
            "not forwarding udp 10.0.0.1:53"
        ]
    );
    f.reports(&[]);
    f.reports(&["tcp 192.168.5.15:80"]);
    f.handle.kick();
    f.stop().await;

    let off = start([ignore_all()]);
    off.reports(&["tcp 127.0.0.1:80", "udp 0.0.0.0:80", "tcp [::1]:80"]);
    off.handle.kick();
    off.until("looked", |status| status.is_settled).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(off.told(), Vec::<String>::new());
    off.stop().await;
}

/// The guest opens and closes a port as fast as it can.
#[tokio::test]
async fn a_flapping_guest_is_followed_to_the_end_and_told_of_now_and_then() {
    let f = start([one(80, "127.77.5.1", 20080)]);
    let begin = tokio::time::Instant::now();
    for _ in 0..5000 {
        f.reports(&["tcp 127.0.0.1:80"]);
        tokio::task::yield_now().await;
        f.reports(&[]);
        tokio::task::yield_now().await;
    }
    f.reports(&["tcp 127.0.0.1:80"]);
    f.until_listening(&["127.77.5.1:20080"]).await;
    assert!(ask("127.77.5.1:20080").await.is_ok());
    // A burst of six, and one more every five seconds.
    let most = 7 + begin.elapsed().as_secs() / 5;
    let told = f.told();
    assert!(told.len() as u64 <= most, "{told:?}");
    assert!(f.handle.status().notices_left_out > 0, "{told:?}");
    f.reports(&[]);
    f.until_listening(&[]).await;
    assert!(is_refused("127.77.5.1:20080").await);
    f.stop().await;
}

/// As many ports as a guest may report, all at once, and all gone at once.
#[tokio::test]
async fn thousands_of_ports_come_and_go() {
    let f = start([crate::support::rule(
        [1000, 5000],
        "127.77.5.2",
        [21000, 25000],
    )]);
    let ports: Vec<String> = (1000..2000).map(|n| format!("tcp 127.0.0.1:{n}")).collect();
    let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
    for _ in 0..3 {
        f.reports(&ports);
        f.until("all listen", |status| {
            status.forwards.len() == 1000
                && status
                    .forwards
                    .iter()
                    .all(|f| f.state == ForwardState::Listening)
        })
        .await;
        assert!(ask("127.77.5.2:21999").await.is_ok());
        f.reports(&[]);
        f.until_listening(&[]).await;
    }
    assert!(is_refused("127.77.5.2:21999").await);
    f.stop().await;
}
