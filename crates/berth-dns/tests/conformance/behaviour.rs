//! What comes of each kind of upstream server, for each way of asking.

use std::net::Ipv4Addr;
use std::time::Duration;

use berth_dns::wire::{Rcode, RecordType};
use tokio::task::LocalSet;

use crate::client::{WAYS, Way};
use crate::lab::{Lab, Plan};
use crate::upstream::{Behaviour, Upstream};

/// What a client gets: how it ended, how many addresses over UDP, with EDNS, over TCP.
type Expected = (Rcode, [usize; 3]);

/// What fits into 512 and 1232 bytes: 16 bytes an address behind header, question and OPT record.
const CUT: [usize; 3] = [30, 74, 100];

const TABLE: &[(Behaviour, Expected)] = &[
    (
        Behaviour::Address(Ipv4Addr::new(10, 1, 1, 1), 60),
        (Rcode::NO_ERROR, [1, 1, 1]),
    ),
    (Behaviour::NoSuchName, (Rcode::NX_DOMAIN, [0, 0, 0])),
    (Behaviour::Fails, (Rcode::SERV_FAIL, [0, 0, 0])),
    (Behaviour::Refuses, (Rcode::REFUSED, [0, 0, 0])),
    (Behaviour::Truncating, (Rcode::NO_ERROR, CUT)),
    (Behaviour::Huge, (Rcode::NO_ERROR, CUT)),
    (
        Behaviour::Slow(Duration::from_millis(1500)),
        (Rcode::NO_ERROR, [1, 1, 1]),
    ),
    (Behaviour::Silent, (Rcode::SERV_FAIL, [0, 0, 0])),
    (Behaviour::WrongId, (Rcode::NO_ERROR, [1, 1, 1])),
    (Behaviour::WrongQuestion, (Rcode::NO_ERROR, [1, 1, 1])),
    (Behaviour::Noise, (Rcode::SERV_FAIL, [0, 0, 0])),
    (Behaviour::CutRecords, (Rcode::SERV_FAIL, [0, 0, 0])),
    (Behaviour::OldFashioned, (Rcode::NO_ERROR, [1, 1, 1])),
    (Behaviour::CutConnection, (Rcode::SERV_FAIL, [0, 0, 0])),
    (Behaviour::SilentConnection, (Rcode::SERV_FAIL, [0, 0, 0])),
];

#[tokio::test(flavor = "current_thread")]
async fn every_behaviour_ends_in_an_answer_over_every_transport() {
    let local = LocalSet::new();
    local
        .run_until(async {
            let rows = TABLE
                .iter()
                .map(|(behaviour, expected)| row(*behaviour, *expected));
            futures_util::future::join_all(rows).await;
        })
        .await;
}

/// Each way asks for a name of its own, so that nothing is answered from the cache; all at once, since some wait.
async fn row(behaviour: Behaviour, (rcode, counts): Expected) {
    let upstream = Upstream::start(behaviour).await;
    let lab = Lab::new(&Plan::default(), &[upstream.address], upstream.port);
    let asks = WAYS
        .into_iter()
        .zip(counts)
        .enumerate()
        .map(|(at, (way, count))| {
            let lab = &lab;
            async move {
                let client = lab.client().await;
                let name = format!("n{at}.example.com");
                let reply = client.ask(&name, RecordType::A, way).await;
                assert_eq!(reply.rcode(), rcode, "{behaviour:?} {way:?}");
                assert_eq!(reply.answers(), count, "{behaviour:?} {way:?}");
                let is_cut = counts[2] > count;
                assert_eq!(reply.is_truncated(), is_cut, "{behaviour:?} {way:?}");
                let forged: std::net::IpAddr = [6, 6, 6, 6].into();
                assert!(
                    !reply.addresses().contains(&forged),
                    "{behaviour:?} {way:?}"
                );
            }
        });
    futures_util::future::join_all(asks).await;
}

#[tokio::test(flavor = "current_thread")]
async fn a_server_that_is_not_there_is_no_reason_to_wait() {
    let local = LocalSet::new();
    local
        .run_until(async {
            let good = Upstream::start(Behaviour::Address([10, 1, 1, 1].into(), 60)).await;
            let nobody = [127, 0, 0, 77].into();
            let lab = Lab::new(&Plan::default(), &[nobody, good.address], good.port);
            let client = lab.client().await;
            assert_eq!(client.address("a.example.com").await.len(), 1);
            let alone = Lab::new(&Plan::default(), &[nobody], good.port);
            let reply = alone
                .client()
                .await
                .ask("a.example.com", RecordType::A, Way::Udp)
                .await;
            assert_eq!(reply.rcode(), Rcode::SERV_FAIL);
        })
        .await;
}

#[tokio::test(flavor = "current_thread")]
async fn a_silent_server_delays_one_question_and_no_more() {
    let local = LocalSet::new();
    local
        .run_until(async {
            let good = Upstream::start(Behaviour::Address([10, 1, 1, 1].into(), 60)).await;
            let silent = good.beside(2, Behaviour::Silent).await;
            let lab = Lab::new(&Plan::default(), &[silent.address, good.address], good.port);
            let client = lab.client().await;
            for n in 0..50 {
                let addresses = client.address(&format!("n{n}.example.com")).await;
                assert_eq!(addresses.len(), 1, "{n}");
            }
            // The first question, and at most a try or two to see whether it is back.
            let asked = silent.asked().len();
            assert!((1..=3).contains(&asked), "{asked}");
            assert!(lab.report().upstreams[0].is_silent);
        })
        .await;
}

#[tokio::test(flavor = "current_thread")]
async fn another_servers_answer_is_better_than_a_failure() {
    let local = LocalSet::new();
    local
        .run_until(async {
            let good = Upstream::start(Behaviour::Address([10, 1, 1, 1].into(), 60)).await;
            for (last, bad) in [
                (2, Behaviour::Fails),
                (3, Behaviour::Refuses),
                (4, Behaviour::CutRecords),
            ] {
                let bad = good.beside(last, bad).await;
                let lab = Lab::new(&Plan::default(), &[bad.address, good.address], good.port);
                assert_eq!(lab.client().await.address("a.example.com").await.len(), 1);
                assert_eq!(bad.asked().len(), 1);
            }
        })
        .await;
}

#[tokio::test(flavor = "current_thread")]
async fn ids_and_ports_cannot_be_guessed() {
    let local = LocalSet::new();
    local
        .run_until(async {
            let upstream = Upstream::start(Behaviour::NoSuchName).await;
            let lab = Lab::new(&Plan::default(), &[upstream.address], upstream.port);
            let client = lab.client().await;
            for n in 0..64 {
                client.address(&format!("n{n}.example.com")).await;
            }
            let asked = upstream.asked();
            let ids: std::collections::BTreeSet<u16> = asked.iter().map(|asked| asked.id).collect();
            let ports: std::collections::BTreeSet<u16> =
                asked.iter().map(|asked| asked.from.port()).collect();
            assert!(
                ids.len() > 55 && ports.len() > 55,
                "{} {}",
                ids.len(),
                ports.len()
            );
            let steps = asked
                .windows(2)
                .filter(|two| two[1].id == two[0].id.wrapping_add(1));
            assert!(steps.count() < 5);
        })
        .await;
}

#[tokio::test(flavor = "current_thread")]
async fn many_who_ask_the_same_are_one_question() {
    let local = LocalSet::new();
    local
        .run_until(async {
            let upstream = Upstream::start(Behaviour::Slow(Duration::from_millis(100))).await;
            let lab = Lab::new(&Plan::default(), &[upstream.address], upstream.port);
            let asks =
                (0..100).map(|_| async { lab.client().await.address("a.example.com").await });
            let answers = futures_util::future::join_all(asks).await;
            assert!(answers.iter().all(|addresses| addresses.len() == 1));
            assert_eq!(upstream.asked().len(), 1);
        })
        .await;
}
