//! Many at once.

use berth_dns::wire::{Rcode, RecordType};
use futures_util::future::join_all;
use tokio::task::LocalSet;

use crate::client::{Way, question};
use crate::lab::{Lab, Plan};
use crate::upstream::{Behaviour, Upstream};

#[tokio::test(flavor = "current_thread")]
async fn two_hundred_clients_are_all_answered() {
    let local = LocalSet::new();
    local
        .run_until(async {
            let upstream = Upstream::start(Behaviour::Address([10, 0, 0, 1].into(), 60)).await;
            let lab = Lab::new(&Plan::default(), &[upstream.address], upstream.port);
            let clients = (0..200).map(|client| {
                let lab = &lab;
                async move {
                    let socket = lab.client().await;
                    for n in 0..20 {
                        let name = format!("n{n}.c{client}.example.com");
                        assert_eq!(socket.address(&name).await.len(), 1, "{name}");
                        assert_eq!(socket.address("host.lima.internal").await.len(), 1);
                    }
                }
            });
            join_all(clients).await;
            let counts = lab.report().counts;
            assert_eq!((counts.failed, counts.over_limit), (0, 0));
        })
        .await;
}

#[tokio::test(flavor = "current_thread")]
async fn one_client_cannot_take_every_place() {
    let local = LocalSet::new();
    local
        .run_until(async {
            let upstream = Upstream::start(Behaviour::Silent).await;
            let lab = Lab::new(&Plan::default(), &[upstream.address], upstream.port);
            let greedy = lab.client().await;
            for id in 0..80 {
                let name = format!("n{id}.example.com");
                greedy
                    .send(&question(id, &name, RecordType::A, Way::Udp))
                    .await;
            }
            // The first answers are refusals: of those who wait, nobody has one yet.
            for _ in 0..16 {
                let reply = greedy.receive().await;
                assert_eq!(reply.rcode(), Rcode::SERV_FAIL);
                assert!(reply.id() >= 64, "{}", reply.id());
            }
            assert_eq!(lab.report().counts.over_limit, 16);
            upstream.becomes(Behaviour::Address([10, 0, 0, 1].into(), 60));
            let other = lab.client().await;
            assert_eq!(other.address("other.example.com").await.len(), 1);
        })
        .await;
}
