//! The host changes, and the guest's names with it.

use std::net::Ipv4Addr;

use berth_dns::wire::{Rcode, RecordType};
use tokio::task::LocalSet;

use crate::client::Way;
use crate::lab::{Lab, Plan};
use crate::upstream::{Behaviour, Upstream};

fn answering(last: u8) -> Behaviour {
    Behaviour::Address(Ipv4Addr::new(10, 0, 0, last), 600)
}

#[tokio::test(flavor = "current_thread")]
async fn other_servers_are_asked_at_once_and_nothing_old_is_told() {
    let local = LocalSet::new();
    local
        .run_until(async {
            let home = Upstream::start(answering(1)).await;
            let office = home.beside(2, answering(2)).await;
            let lab = Lab::new(&Plan::default(), &[home.address], home.port);
            let client = lab.client().await;
            let first = client.address("a.example.com").await;
            assert_eq!(client.address("a.example.com").await, first);
            assert_eq!(home.asked().len(), 1, "the second came from the cache");
            let before = lab.report().counts.changes;
            lab.move_to(&[office.address]);
            lab.noticed(before).await;
            let second = client.address("a.example.com").await;
            assert_ne!(second, first);
            assert_eq!(lab.report().upstreams[0].address.ip(), office.address);
        })
        .await;
}

#[tokio::test(flavor = "current_thread")]
async fn names_of_the_hosts_file_come_and_go() {
    let local = LocalSet::new();
    local
        .run_until(async {
            let upstream = Upstream::start(Behaviour::NoSuchName).await;
            let lab = Lab::new(&Plan::default(), &[upstream.address], upstream.port);
            let client = lab.client().await;
            for (text, found) in [("10.1.2.3 new.example\n", 1), ("", 0)] {
                let before = lab.report().counts.changes;
                lab.write_hosts(text);
                lab.noticed(before).await;
                // Written in two steps, so perhaps noticed in two.
                while client.address("new.example").await.len() != found {
                    tokio::task::yield_now().await;
                }
            }
        })
        .await;
}

#[tokio::test(flavor = "current_thread")]
async fn a_server_that_comes_back_is_asked_again() {
    let local = LocalSet::new();
    local
        .run_until(async {
            let upstream = Upstream::start(Behaviour::Silent).await;
            let lab = Lab::new(&Plan::default(), &[upstream.address], upstream.port);
            let client = lab.client().await;
            let down = client.ask("a.example.com", RecordType::A, Way::Udp).await;
            assert_eq!(down.rcode(), Rcode::SERV_FAIL);
            assert!(lab.report().upstreams[0].is_silent);
            upstream.becomes(answering(1));
            assert_eq!(
                client.address("a.example.com").await.len(),
                1,
                "failures are not kept"
            );
            assert!(!lab.report().upstreams[0].is_silent);
        })
        .await;
}

#[tokio::test(flavor = "current_thread")]
async fn times_are_honoured() {
    let local = LocalSet::new();
    local
        .run_until(async {
            let upstream = Upstream::start(Behaviour::Address([10, 0, 0, 1].into(), 0)).await;
            let lab = Lab::new(&Plan::default(), &[upstream.address], upstream.port);
            let client = lab.client().await;
            for asked in 1..4 {
                client.address("a.example.com").await;
                assert_eq!(upstream.asked().len(), asked, "a time of zero is not kept");
            }
            upstream.becomes(Behaviour::NoSuchName);
            for asked in 4..6 {
                client.address("b.example.com").await;
                assert_eq!(
                    upstream.asked().len(),
                    asked,
                    "neither is a \"no\" without a time"
                );
            }
        })
        .await;
}
