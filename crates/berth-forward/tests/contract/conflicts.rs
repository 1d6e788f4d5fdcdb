//! Who has a port, and what happens when it is let go.

use std::net::{TcpListener, UdpSocket};

use berth_forward::reconcile::ForwardState;

use crate::support::{
    Beginning, Service, ask, fixed, free_port, ignore_all, is_refused, one, rule, start,
};

#[tokio::test]
async fn a_busy_port_is_named_with_its_owner_and_taken_when_it_is_free() {
    let busy = TcpListener::bind("127.77.2.1:20080").unwrap();
    let busy_datagrams = UdpSocket::bind("127.77.2.1:20080").unwrap();
    let f = start([one(80, "127.77.2.1", 20080)]);
    f.reports(&["tcp 127.0.0.1:80", "udp 127.0.0.1:80"]);
    let me = format!("(pid {})", std::process::id());
    f.until("waiting for both", |status| {
        status.forwards.len() == 2
            && status.forwards.iter().all(|forward| match &forward.state {
                ForwardState::Waiting { why } => {
                    why.starts_with("port 20080 is taken by ") && why.ends_with(&me)
                }
                _ => false,
            })
    })
    .await;
    let told = f.told();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(
        told.iter()
            .all(|line| line.starts_with("failed ") && line.ends_with(&me))
    );

    drop((busy, busy_datagrams));
    f.until_listening(&["127.77.2.1:20080", "127.77.2.1:20080"])
        .await;
    assert_eq!(
        f.told(),
        [
            "forwarding tcp 127.0.0.1:80 to 127.77.2.1:20080",
            "forwarding udp 127.0.0.1:80 to 127.77.2.1:20080"
        ]
    );
    f.stop().await;
}

#[tokio::test]
async fn a_port_that_was_never_had_is_not_missed() {
    let busy = TcpListener::bind("127.77.2.2:20080").unwrap();
    let f = start([one(80, "127.77.2.2", 20080)]);
    f.reports(&["tcp 127.0.0.1:80"]);
    f.until("told", |status| {
        matches!(&status.forwards[..], [one] if matches!(&one.state, ForwardState::Waiting { why } if why.contains("pid")))
    })
    .await;
    f.reports(&[]);
    f.until_listening(&[]).await;
    drop(busy);
    let told = f.told();
    assert!(
        matches!(&told[..], [one] if one.starts_with("failed ")),
        "{told:?}"
    );
    f.stop().await;
}

#[tokio::test]
async fn two_instances_want_one_port_and_the_second_gets_it_after_the_first() {
    let first = start([fixed(one(80, "127.77.2.3", 20080))]);
    assert!(first.handle.settled().await.is_empty());
    let second = start([fixed(one(81, "127.77.2.3", 20080))]);
    let missing = second.handle.settled().await;
    assert_eq!(missing.len(), 1);
    assert!(
        matches!(&missing[0].state, ForwardState::Waiting { why } if why.contains("(pid ")),
        "{missing:?}"
    );
    second.guest.serves(&["127.0.0.1:81"]);
    first.stop().await;
    second.until_listening(&["127.77.2.3:20080"]).await;
    assert_eq!(
        ask("127.77.2.3:20080").await.unwrap(),
        "127.0.0.1:81\nhello bye"
    );
    second.stop().await;
}

#[tokio::test]
async fn one_host_address_lives_as_long_as_one_socket_of_the_guest() {
    let f = start([one(80, "127.77.2.4", 20080)]);
    f.reports(&["tcp 0.0.0.0:80", "tcp [::]:80", "tcp [::1]:80"]);
    f.until_listening(&["127.77.2.4:20080"]).await;
    let mut told = f.told();
    told.sort();
    assert_eq!(
        told,
        [
            "forwarding tcp 0.0.0.0:80 to 127.77.2.4:20080",
            "forwarding tcp [::1]:80 to 127.77.2.4:20080",
            "forwarding tcp [::]:80 to 127.77.2.4:20080",
        ]
    );
    // One that is reported and yet refuses does not spoil the others.
    f.guest.does("0.0.0.0:80", Service::Refuses);
    assert_eq!(ask("127.77.2.4:20080").await.unwrap(), "[::]:80\nhello bye");
    f.reports(&["tcp [::1]:80"]);
    f.until("down to one", |status| status.forwards[0].guests.len() == 1)
        .await;
    assert_eq!(
        ask("127.77.2.4:20080").await.unwrap(),
        "[::1]:80\nhello bye"
    );
    assert_eq!(
        f.told(),
        [
            "stopping tcp 0.0.0.0:80 to 127.77.2.4:20080",
            "stopping tcp [::]:80 to 127.77.2.4:20080",
        ]
    );
    f.reports(&[]);
    f.until_listening(&[]).await;
    assert!(is_refused("127.77.2.4:20080").await);
    f.stop().await;
}

#[tokio::test]
async fn an_address_that_moves_within_one_report_is_let_go_first() {
    let port = free_port();
    let (everywhere, there) = (format!("0.0.0.0:{port}"), format!("127.77.2.5:{port}"));
    let f = start([one(81, "0.0.0.0", port), one(82, "127.77.2.5", port)]);
    f.reports(&["tcp 127.0.0.1:81"]);
    f.until_listening(&[&everywhere]).await;
    for _ in 0..20 {
        f.reports(&["tcp 127.0.0.1:82"]);
        f.until_listening(&[&there]).await;
        f.reports(&["tcp 127.0.0.1:81"]);
        f.until_listening(&[&everywhere]).await;
    }
    assert!(f.told().iter().all(|line| !line.starts_with("failed")));
    // Both at once: one of them has the port, the other gets it afterwards.
    f.reports(&["tcp 127.0.0.1:81", "tcp 127.0.0.1:82"]);
    f.until("one of two", |status| status.forwards.len() == 2)
        .await;
    f.reports(&["tcp 127.0.0.1:82"]);
    f.until_listening(&[&there]).await;
    f.stop().await;
}

#[tokio::test]
async fn the_earlier_rule_has_a_host_port_that_two_lead_to() {
    let f = start([one(80, "127.77.2.6", 20080), one(81, "127.77.2.6", 20080)]);
    f.reports(&["tcp 127.0.0.1:81"]);
    f.until_listening(&["127.77.2.6:20080"]).await;
    assert!(
        ask("127.77.2.6:20080")
            .await
            .unwrap()
            .starts_with("127.0.0.1:81")
    );
    f.reports(&["tcp 127.0.0.1:80", "tcp 127.0.0.1:81"]);
    f.until("both", |status| status.forwards.len() == 2).await;
    assert!(
        ask("127.77.2.6:20080")
            .await
            .unwrap()
            .starts_with("127.0.0.1:80")
    );
    f.reports(&["tcp 127.0.0.1:81"]);
    f.until_listening(&["127.77.2.6:20080"]).await;
    assert!(
        ask("127.77.2.6:20080")
            .await
            .unwrap()
            .starts_with("127.0.0.1:81")
    );
    let mut told = f.told();
    told.sort();
    assert_eq!(
        told,
        [
            "failed tcp 127.0.0.1:81 to 127.77.2.6:20080: an earlier rule leads from there to 127.0.0.1:80",
            "forwarding tcp 127.0.0.1:80 to 127.77.2.6:20080",
            "forwarding tcp 127.0.0.1:81 to 127.77.2.6:20080",
            "forwarding tcp 127.0.0.1:81 to 127.77.2.6:20080",
            "stopping tcp 127.0.0.1:80 to 127.77.2.6:20080",
        ]
    );
    f.stop().await;
}

#[tokio::test]
async fn an_address_that_the_host_does_not_have_yet_is_an_error_that_is_tried_again() {
    // 192.0.2.0/24 is nobody's.
    let f = start([one(80, "192.0.2.1", 20080)]);
    f.reports(&["tcp 127.0.0.1:80"]);
    f.until("failed", |status| {
        matches!(&status.forwards[..], [one] if matches!(one.state, ForwardState::Failed { .. }))
    })
    .await;
    let told = f.told();
    assert!(
        told[0].starts_with("failed tcp 127.0.0.1:80 to 192.0.2.1:20080: "),
        "{told:?}"
    );
    f.handle.kick();
    f.reports(&[]);
    f.until_listening(&[]).await;
    f.stop().await;
}

#[tokio::test]
async fn too_many_forwards_are_left_out_and_that_is_said_once() {
    let mut beginning = Beginning::new([
        rule([1000, 1100], "127.77.2.7", [21000, 21100]),
        fixed(one(80, "127.77.2.7", 20080)),
        ignore_all(),
    ]);
    beginning.limits.listeners = 10;
    let f = beginning.start();
    let many = |count: u16| -> Vec<String> {
        (0..count)
            .map(|n| format!("tcp 127.0.0.1:{}", 1000 + n))
            .collect()
    };
    let report = |ports: Vec<String>| {
        let ports: Vec<&str> = ports.iter().map(String::as_str).collect();
        f.reports(&ports);
    };
    report(many(50));
    f.until("at the limit", |status| {
        status.left_out == 41 && status.forwards.len() == 10
    })
    .await;
    assert!(
        !is_refused("127.77.2.7:20080").await,
        "static ones come first"
    );
    report(many(60));
    f.until("over the limit", |status| status.left_out == 51)
        .await;
    let failed: Vec<_> = f
        .told()
        .into_iter()
        .filter(|line| line.starts_with("failed"))
        .collect();
    assert_eq!(
        failed,
        [
            "failed tcp 127.0.0.1:1009 to 127.77.2.7:21009: there are more than 10 forwards: the others are left out"
        ]
    );
    report(many(9));
    f.until("within the limit", |status| status.left_out == 0)
        .await;
    f.stop().await;
}
