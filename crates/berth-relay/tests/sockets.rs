//! Connections between two sockets of this machine.

#![allow(clippy::unwrap_used, reason = "tests only")]

mod support;

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use berth_relay::{LocalSocket, RelayError, Tally, join_sockets};
#[cfg(unix)]
use support::exchange;
use support::{hear, hear_end, hear_reset, say, tcp, within};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

/// A join that runs.
struct Joined {
    tally: Arc<Tally>,
    task: JoinHandle<Result<(), RelayError>>,
}

fn joined(local: impl LocalSocket + 'static, remote: impl LocalSocket + 'static) -> Joined {
    let tally = Arc::new(Tally::default());
    let counted = tally.clone();
    let task = TaskTracker::new().spawn(async move { join_sockets(local, remote, &counted).await });
    Joined { tally, task }
}

/// Two joined TCP connections: client, server.
async fn tcp_joined() -> (TcpStream, TcpStream, Joined) {
    let (client, accepted) = tcp().await;
    let (dialled, server) = tcp().await;
    (client, server, joined(accepted, dialled))
}

impl Joined {
    async fn outcome(self) -> Result<(), RelayError> {
        within(self.task).await.unwrap()
    }
}

#[tokio::test]
async fn either_side_may_end_first_and_hear_the_other_to_its_end() {
    for (client_first, talks_on) in [(true, true), (true, false), (false, true), (false, false)] {
        let (client, server, joined) = tcp_joined().await;
        let (mut first, mut second) = if client_first {
            (client, server)
        } else {
            (server, client)
        };
        say(&mut first, "question").await;
        first.shutdown().await.unwrap();
        hear(&mut second, "question").await;
        hear_end(&mut second).await;
        if talks_on {
            say(&mut second, "late").await;
            hear(&mut first, "late").await;
        }
        second.shutdown().await.unwrap();
        hear_end(&mut first).await;
        joined.outcome().await.unwrap();
    }
}

#[tokio::test]
async fn resets_arrive_in_both_directions() {
    let (client, mut server, joined) = tcp_joined().await;
    client.abort();
    hear_reset(&mut server).await;
    let error = joined.outcome().await.unwrap_err();
    assert!(matches!(error, RelayError::Local(_)), "{error}");

    let (mut client, server, joined) = tcp_joined().await;
    server.abort();
    hear_reset(&mut client).await;
    let error = joined.outcome().await.unwrap_err();
    assert!(matches!(error, RelayError::Remote(_)), "{error}");
}

#[tokio::test]
async fn a_side_that_vanishes_is_noticed_although_nobody_reads_from_it() {
    let (mut client, mut server, joined) = tcp_joined().await;
    let block = vec![7; 64 * 1024];
    // The server does not read, so at some point nothing moves any more.
    let written = async { while client.write(&block).await.is_ok() {} };
    let _ = tokio::time::timeout(Duration::from_millis(300), written).await;
    client.abort();
    joined.outcome().await.unwrap_err();
    let error = within(server.read_to_end(&mut Vec::new()))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_connection_given_up_resets_both_sides() {
    let (mut client, mut server, joined) = tcp_joined().await;
    say(&mut client, "hello").await;
    hear(&mut server, "hello").await;
    joined.task.abort();
    hear_reset(&mut client).await;
    hear_reset(&mut server).await;
    assert_eq!(joined.tally.traffic().open, 0);
}

#[cfg(unix)]
#[tokio::test]
async fn ten_megabytes_both_ways_between_every_kind_of_sockets() {
    use tokio::net::UnixStream;

    const SIZE: usize = 10 * 1024 * 1024;
    // A length that no power of two divides shows a block in the wrong place.
    let content = |seed: u8| (seed..251).cycle().take(SIZE).collect::<Vec<u8>>();
    let (up, down) = (content(0), content(7));
    let (client, accepted) = tcp().await;
    let (server, dialled) = UnixStream::pair().unwrap();
    let outer = joined(accepted, dialled);
    let (far, inner_accepted) = UnixStream::pair().unwrap();
    let inner = joined(server, inner_accepted);
    within(async {
        tokio::join!(exchange(client, &up, &down), exchange(far, &down, &up));
    })
    .await;
    for joined in [outer, inner] {
        let traffic = joined.tally.traffic();
        assert_eq!(
            (traffic.to_guest, traffic.to_host),
            (SIZE as u64, SIZE as u64)
        );
        joined.outcome().await.unwrap();
    }
}
