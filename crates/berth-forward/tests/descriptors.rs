//! No listener is lost when the process has no descriptors left. In a process of its own, because the limit is the process's.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "contract/support.rs"]
#[allow(dead_code, reason = "shared with the other tests")]
mod support;

use std::fs::File;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::time::timeout;

use support::{LONG, ask, connect, converse, one, start};

#[tokio::test]
async fn a_listener_survives_a_process_without_descriptors() {
    let f = start([one(80, "127.77.6.1", 20080), one(81, "127.77.6.1", 20081)]);
    f.reports(&["tcp 127.0.0.1:80"]);
    f.until_listening(&["127.77.6.1:20080"]).await;
    assert!(ask("127.77.6.1:20080").await.is_ok());

    let before = getrlimit(Resource::Nofile);
    let soft = Some(256);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: soft,
            ..before
        },
    )
    .unwrap();
    let mut hoard = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        hoard.push(file);
    }
    // One for the client; none for the listener's end of it.
    hoard.pop();
    let mut client = connect("127.77.6.1:20080").await;
    f.until("out of descriptors", |status| {
        let traffic = &status.forwards[0].traffic;
        traffic
            .last_error
            .as_deref()
            .is_some_and(|why| why.starts_with("cannot accept a connection: "))
    })
    .await;
    // A port that opens meanwhile cannot be listened on, and is tried again.
    f.reports(&["tcp 127.0.0.1:80", "tcp 127.0.0.1:81"]);
    f.until("without the second", |status| status.forwards.len() == 2)
        .await;

    drop(hoard);
    setrlimit(Resource::Nofile, before).unwrap();
    let answer = timeout(LONG, converse(&mut client)).await.unwrap().unwrap();
    assert_eq!(answer, "127.0.0.1:80\nhello bye");
    f.until_listening(&["127.77.6.1:20080", "127.77.6.1:20081"])
        .await;
    assert!(ask("127.77.6.1:20081").await.is_ok());
    f.stop().await;
}
