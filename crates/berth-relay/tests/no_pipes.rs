//! Two sockets where there are no descriptors left for pipes. Alone in its process: the limit belongs to that.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "tests only")]

mod support;

use std::fs::File;

use berth_relay::{Tally, join_sockets};
use support::{exchange, tcp, within};

#[tokio::test]
async fn sockets_are_joined_without_pipes_too() {
    let (client, accepted) = tcp().await;
    let (dialled, server) = tcp().await;
    let tally = Tally::default();
    let mut all = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        all.push(file);
    }
    let (up, down) = (vec![1; 1_000_000], vec![2; 1_000_000]);
    let (joined, (), ()) = within(async {
        tokio::join!(
            join_sockets(accepted, dialled, &tally),
            exchange(client, &up, &down),
            exchange(server, &down, &up),
        )
    })
    .await;
    joined.unwrap();
    assert_eq!(tally.traffic().to_guest, 1_000_000);
}
