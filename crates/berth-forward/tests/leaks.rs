//! What connections leave behind. In a process of its own, because descriptors are the process's.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "contract/support.rs"]
#[allow(dead_code, reason = "shared with the other tests")]
mod support;

use std::sync::Arc;

use support::{ask, one, start};

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[tokio::test]
async fn a_thousand_connections_leave_nothing_behind() {
    let f = start([one(80, "127.77.8.1", 20080)]);
    f.reports(&["tcp 127.0.0.1:80"]);
    f.until_listening(&["127.77.8.1:20080"]).await;
    ask("127.77.8.1:20080").await.unwrap();
    let idle = |status: &berth_forward::reconcile::Status| status.forwards[0].traffic.open == 0;
    f.until("idle", idle).await;
    let before = open_descriptors();
    for _ in 0..1000 {
        ask("127.77.8.1:20080").await.unwrap();
    }
    let status = f.until("idle", idle).await;
    assert_eq!(status.forwards[0].traffic.total, 1001);
    f.until("down to the descriptors of before", |_| {
        open_descriptors() <= before
    })
    .await;
    let guest = Arc::downgrade(&f.guest);
    f.stop().await;
    assert!(guest.upgrade().is_none(), "somebody still holds the guest");
}
