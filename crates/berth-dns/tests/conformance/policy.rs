//! Who answers what, and who is not even asked.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use berth_dns::wire::{Rcode, RecordType};
use tokio::task::LocalSet;

use crate::client::{WAYS, Way, question};
use crate::lab::{Lab, Plan};
use crate::upstream::{Behaviour, Upstream};

const USUAL: Behaviour = Behaviour::Address(Ipv4Addr::new(10, 7, 7, 7), 60);

fn address(text: &str) -> Vec<IpAddr> {
    vec![text.parse().unwrap()]
}

#[tokio::test(flavor = "current_thread")]
async fn static_names_are_nobody_elses_business() {
    let local = LocalSet::new();
    local
        .run_until(async {
            let upstream = Upstream::start(USUAL).await;
            let plan = Plan {
                hosts: vec![
                    ("db.corp", "10.0.0.5"),
                    ("six", "fd00::6"),
                    ("alias", "db.corp"),
                    ("self", "self"),
                ],
                etc_hosts: "10.0.0.9 filed.example\n",
                ..Plan::default()
            };
            let lab = Lab::new(&plan, &[upstream.address], upstream.port);
            let client = lab.client().await;
            for way in WAYS {
                for (name, kind, expected) in [
                    ("HOST.lima.internal", RecordType::A, "192.168.5.2"),
                    ("lima-x", RecordType::A, "192.168.5.15"),
                    ("db.CORP", RecordType::A, "10.0.0.5"),
                    ("alias", RecordType::A, "10.0.0.5"),
                    ("six", RecordType::AAAA, "fd00::6"),
                    ("filed.example", RecordType::A, "10.0.0.9"),
                ] {
                    let reply = client.ask(name, kind, way).await;
                    assert_eq!(reply.addresses(), address(expected), "{name} {way:?}");
                }
                let kinds = [
                    1, 2, 5, 6, 12, 15, 16, 28, 33, 43, 48, 64, 65, 255, 257, 65534,
                ];
                for name in [
                    "host.lima.internal",
                    "db.corp",
                    "six",
                    "alias",
                    "filed.example",
                ] {
                    for kind in kinds.map(RecordType) {
                        let reply = client.ask(name, kind, way).await;
                        assert_eq!(reply.rcode(), Rcode::NO_ERROR, "{name} {kind}");
                    }
                }
                let other_family = client.ask("db.corp", RecordType::AAAA, way).await;
                assert_eq!(other_family.answers(), 0);
                assert_eq!(
                    client.ask("alias", RecordType::CNAME, way).await.answers(),
                    1
                );
                let reverse = client
                    .ask("2.5.168.192.in-addr.arpa", RecordType::PTR, way)
                    .await;
                assert_eq!(reverse.answers(), 1);
                let nobody = client
                    .ask("77.5.168.192.in-addr.arpa", RecordType::PTR, way)
                    .await;
                assert_eq!(nobody.rcode(), Rcode::NX_DOMAIN);
                let filed = client
                    .ask("9.0.0.10.in-addr.arpa", RecordType::PTR, way)
                    .await;
                assert_eq!(filed.answers(), 1);
            }
            assert_eq!(upstream.asked(), []);
            // A name that is only its own: asked for as it stands.
            let reply = client.ask("self", RecordType::A, Way::Udp).await;
            assert_eq!(reply.addresses(), address("10.7.7.7"));
        })
        .await;
}

#[tokio::test(flavor = "current_thread")]
async fn an_alias_of_an_ordinary_name_has_its_addresses() {
    let local = LocalSet::new();
    local
        .run_until(async {
            let upstream = Upstream::start(USUAL).await;
            let plan = Plan {
                hosts: vec![("mine", "example.com")],
                ..Plan::default()
            };
            let lab = Lab::new(&plan, &[upstream.address], upstream.port);
            let client = lab.client().await;
            assert_eq!(client.address("mine").await, address("10.7.7.7"));
            assert!(
                upstream.asked()[0]
                    .question
                    .starts_with(b"\x07example\x03com\0")
            );
            // From the cache, under its own name.
            assert_eq!(client.address("mine").await, address("10.7.7.7"));
            assert_eq!(upstream.asked().len(), 1);
        })
        .await;
}

#[tokio::test(flavor = "current_thread")]
async fn ipv6_is_told_only_where_it_is_wanted() {
    let local = LocalSet::new();
    local
        .run_until(async {
            let upstream = Upstream::start(USUAL).await;
            for (ipv6, asked) in [(false, 0), (true, 1)] {
                let plan = Plan {
                    ipv6,
                    hosts: vec![("six", "fd00::6")],
                    ..Plan::default()
                };
                let lab = Lab::new(&plan, &[upstream.address], upstream.port);
                let client = lab.client().await;
                let reply = client.ask("example.com", RecordType::AAAA, Way::Udp).await;
                assert_eq!(reply.rcode(), Rcode::NO_ERROR);
                assert_eq!(upstream.asked().len(), asked);
                let six = client.ask("six", RecordType::AAAA, Way::Udp).await;
                assert_eq!(six.answers(), usize::from(ipv6));
            }
        })
        .await;
}

#[tokio::test(flavor = "current_thread")]
async fn public_names_do_not_lead_inside() {
    let local = LocalSet::new();
    local
        .run_until(async {
            for inside in [[127, 0, 0, 1], [192, 168, 5, 2], [0, 0, 0, 0]] {
                let upstream = Upstream::start(Behaviour::Address(inside.into(), 60)).await;
                let lab = Lab::new(&Plan::default(), &[upstream.address], upstream.port);
                let client = lab.client().await;
                for way in WAYS {
                    let reply = client.ask("evil.example.com", RecordType::A, way).await;
                    assert_eq!((reply.rcode(), reply.answers()), (Rcode::NO_ERROR, 0));
                }
                assert_eq!(lab.report().counts.rebinding, 1, "and remembered");
                assert_eq!(client.address("shop.test").await.len(), 1);
            }
        })
        .await;
}

#[tokio::test(flavor = "current_thread")]
async fn names_without_a_dot_are_looked_for_where_the_host_would() {
    let local = LocalSet::new();
    local
        .run_until(async {
            let upstream = Upstream::start(USUAL).await;
            let plan = Plan {
                search: "corp.example other.example",
                ..Plan::default()
            };
            let lab = Lab::new(&plan, &[upstream.address], upstream.port);
            let client = lab.client().await;
            assert_eq!(client.address("db").await, address("10.7.7.7"));
            assert!(
                upstream.asked()[0]
                    .question
                    .starts_with(b"\x02db\x04corp\x07example\0")
            );
            client.address("a.b").await;
            assert!(upstream.asked()[1].question.starts_with(b"\x01a\x01b\0"));
        })
        .await;
}

#[tokio::test(flavor = "current_thread")]
async fn other_modules_of_the_host_are_asked_through_it() {
    let local = LocalSet::new();
    local
        .run_until(async {
            let upstream = Upstream::start(Behaviour::NoSuchName).await;
            let plan = Plan {
                nsswitch: "hosts: mdns4_minimal [NOTFOUND=return] dns\n",
                ..Plan::default()
            };
            let lab = Lab::new(&plan, &[upstream.address], upstream.port);
            let client = lab.client().await;
            let localhost = client.address("localhost").await;
            assert_eq!(
                localhost,
                address("127.0.0.1"),
                "from this machine's own resolver"
            );
            assert_eq!(lab.report().counts.from_system, 1);
            assert_eq!(upstream.asked(), []);
            let other = client.ask("example.com", RecordType::MX, Way::Udp).await;
            assert_eq!(other.rcode(), Rcode::NX_DOMAIN, "raw");
            assert_eq!(upstream.asked().len(), 1);
        })
        .await;
}

#[tokio::test(flavor = "current_thread")]
async fn a_connection_carries_any_number_and_answers_come_as_they_come() {
    let local = LocalSet::new();
    local
        .run_until(async {
            let upstream = Upstream::start(Behaviour::Slow(Duration::from_millis(300))).await;
            let lab = Lab::new(&Plan::default(), &[upstream.address], upstream.port);
            let mut connection = lab.client().await.connect().await;
            connection
                .send(&question(1, "slow.example.com", RecordType::A, Way::Tcp))
                .await;
            for id in 2..3000 {
                let packet = question(id, "host.lima.internal", RecordType::A, Way::Tcp);
                connection.send(&packet).await;
                if id % 100 == 0 {
                    tokio::task::yield_now().await;
                }
            }
            connection.finish().await;
            let mut ids = Vec::new();
            for _ in 1..3000 {
                ids.push(connection.receive().await.id());
            }
            assert_eq!(ids[0], 2, "the slow one does not hold up the others");
            ids.sort_unstable();
            assert!(ids.into_iter().eq(1..3000), "each exactly once");
            assert!(connection.is_closed().await);
        })
        .await;
}

#[tokio::test(flavor = "current_thread")]
async fn what_is_no_question_harms_nobody() {
    let local = LocalSet::new();
    local
        .run_until(async {
            let upstream = Upstream::start(USUAL).await;
            let lab = Lab::new(&Plan::default(), &[upstream.address], upstream.port);
            let client = lab.client().await;
            let whole = question(7, "a.example.com", RecordType::A, Way::Edns(1232));
            for cut in 0..12 {
                client.send(&whole[..cut]).await;
            }
            client.send(&[0; 3000]).await;
            let mut response = whole.clone();
            response[2] |= 0x80;
            client.send(&response).await;
            let mut notify = whole.clone();
            notify[2] = 0x20;
            client.send(&notify).await;
            assert_eq!(
                client.receive().await.rcode(),
                Rcode::NOT_IMP,
                "the first that is answered"
            );
            let mut connection = client.connect().await;
            connection.send(&whole[..20]).await;
            assert_eq!(connection.receive().await.rcode(), Rcode::FORM_ERR);
            connection.send(&[]).await;
            connection.send(&whole).await;
            assert_eq!(connection.receive().await.rcode(), Rcode::NO_ERROR);
        })
        .await;
}
