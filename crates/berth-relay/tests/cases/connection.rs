//! Connections between a socket and a stream of the link: every way to go on and to end. Run with both kinds of streams.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use berth_relay::{LocalSocket, RelayError, Tally, join};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

use crate::remote;
use crate::support::{
    HANG, OtherEnd, exchange, hear, hear_end, hear_reset, say, stream, tcp, within,
};

/// A join that runs.
pub(crate) struct Joined {
    pub(crate) other: OtherEnd,
    tally: Arc<Tally>,
    task: JoinHandle<Result<(), RelayError>>,
}

fn joined(local: impl LocalSocket + 'static, capacity: usize) -> Joined {
    let (near, other) = stream(capacity);
    let tally = Arc::new(Tally::default());
    let counted = tally.clone();
    let remote = remote(near);
    let task = TaskTracker::new().spawn(async move { join(local, remote, &counted).await });
    Joined { other, tally, task }
}

pub(crate) async fn tcp_joined(capacity: usize) -> (TcpStream, Joined) {
    let (client, accepted) = tcp().await;
    (client, joined(accepted, capacity))
}

impl Joined {
    pub(crate) async fn outcome(&mut self) -> Result<(), RelayError> {
        within(&mut self.task).await.unwrap()
    }
}

/// Who says first that no more follows, and whether the other goes on talking then.
async fn ends_in_order(client_first: bool, talks_on: bool) {
    let (mut client, mut joined) = tcp_joined(64).await;
    let far = &mut joined.other.pipe;
    say(&mut client, "question").await;
    hear(far, "question").await;
    let (first, second): (&mut dyn AsyncReadWrite, &mut dyn AsyncReadWrite) = if client_first {
        (&mut client, far)
    } else {
        (far, &mut client)
    };
    within(first.shutdown()).await.unwrap();
    hear_end(second).await;
    if talks_on {
        say(second, "a late answer").await;
        hear(first, "a late answer").await;
    }
    within(second.shutdown()).await.unwrap();
    hear_end(first).await;
    joined.outcome().await.unwrap();
    let traffic = joined.tally.traffic();
    let late = if talks_on { 13 } else { 0 };
    let (up, down) = if client_first {
        (8, late)
    } else {
        (8 + late, 0)
    };
    assert_eq!((traffic.to_guest, traffic.to_host), (up, down));
    assert_eq!(
        (traffic.open, traffic.total, traffic.last_error),
        (0, 1, None)
    );
}

trait AsyncReadWrite: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> AsyncReadWrite for T {}

#[tokio::test]
async fn the_client_ends_first_and_the_other_end_answers() {
    ends_in_order(true, true).await;
}

#[tokio::test]
async fn the_client_ends_first_and_the_other_end_too() {
    ends_in_order(true, false).await;
}

#[tokio::test]
async fn the_other_end_ends_first_and_the_client_goes_on() {
    ends_in_order(false, true).await;
}

#[tokio::test]
async fn the_other_end_ends_first_and_the_client_too() {
    ends_in_order(false, false).await;
}

#[tokio::test]
async fn what_the_kernel_still_holds_at_the_end_arrives() {
    const SIZE: usize = 200_000;
    let (mut client, mut joined) = tcp_joined(16 * 1024).await;
    client.shutdown().await.unwrap();
    within(joined.other.pipe.write_all(&vec![7; SIZE]))
        .await
        .unwrap();
    joined.other.pipe.shutdown().await.unwrap();
    joined.outcome().await.unwrap();
    let mut heard = Vec::new();
    within(client.read_to_end(&mut heard)).await.unwrap();
    assert_eq!(heard.len(), SIZE);
}

#[tokio::test]
async fn a_reset_by_the_client_drops_the_stream() {
    let (client, mut joined) = tcp_joined(64).await;
    client.abort();
    within(joined.other.dropped.cancelled()).await;
    let error = joined.outcome().await.unwrap_err();
    assert!(matches!(&error, RelayError::Local(why) if why.kind() == ErrorKind::ConnectionReset));
    // Nobody needs to hear of it.
    assert_eq!(joined.tally.traffic().last_error, None);
}

#[tokio::test]
async fn a_reset_by_the_other_end_resets_the_client() {
    let (mut client, mut joined) = tcp_joined(64).await;
    say(&mut client, "hello").await;
    hear(&mut joined.other.pipe, "hello").await;
    joined.other.reset(ErrorKind::ConnectionReset);
    hear_reset(&mut client).await;
    let error = joined.outcome().await.unwrap_err();
    assert!(matches!(error, RelayError::Remote(_)), "{error}");
}

#[tokio::test]
async fn a_dial_that_fails_beyond_the_link_resets_the_client_and_is_told() {
    let (mut client, mut joined) = tcp_joined(64).await;
    joined.other.reset(ErrorKind::ConnectionRefused);
    hear_reset(&mut client).await;
    let error = joined.outcome().await.unwrap_err();
    assert!(
        matches!(&error, RelayError::Remote(why) if why.kind() == ErrorKind::ConnectionRefused)
    );
    let told = joined.tally.traffic().last_error.unwrap();
    assert_eq!(
        told,
        "the connection beyond the link failed: connection refused"
    );
}

/// Fills everything between `from` and somebody who does not read.
pub(crate) async fn fill(from: &mut (impl AsyncWrite + Unpin + ?Sized)) -> usize {
    let block = vec![7; 16 * 1024];
    let mut taken = 0;
    // How long nothing moves proves nothing; the tests hold whether or not all of it is full.
    while let Ok(written) =
        tokio::time::timeout(Duration::from_millis(300), from.write(&block)).await
    {
        taken += written.unwrap();
    }
    taken
}

#[tokio::test]
async fn a_client_that_vanishes_is_noticed_although_nobody_reads_from_it() {
    let (mut client, mut joined) = tcp_joined(64).await;
    fill(&mut client).await;
    client.abort();
    within(joined.other.dropped.cancelled()).await;
    joined.outcome().await.unwrap_err();
}

#[tokio::test]
async fn a_client_that_vanishes_after_its_end_is_noticed_while_the_other_end_is_silent() {
    let (mut client, mut joined) = tcp_joined(64).await;
    client.shutdown().await.unwrap();
    hear_end(&mut joined.other.pipe).await;
    client.abort();
    within(joined.other.dropped.cancelled()).await;
    joined.outcome().await.unwrap_err();
}

#[tokio::test]
async fn a_reset_by_the_other_end_is_noticed_although_the_client_reads_nothing() {
    let (mut client, mut joined) = tcp_joined(64).await;
    say(&mut client, "x").await;
    joined.other.reset(ErrorKind::ConnectionReset);
    joined.outcome().await.unwrap_err();
    hear_reset(&mut client).await;
}

#[cfg(unix)]
mod unix {
    use tokio::net::UnixStream;

    use super::*;

    #[tokio::test]
    async fn a_unix_socket_ends_in_both_directions() {
        let (mut client, accepted) = UnixStream::pair().unwrap();
        let mut joined = joined(accepted, 64);
        say(&mut client, "question").await;
        client.shutdown().await.unwrap();
        hear(&mut joined.other.pipe, "question").await;
        hear_end(&mut joined.other.pipe).await;
        say(&mut joined.other.pipe, "answer").await;
        hear(&mut client, "answer").await;
        joined.other.pipe.shutdown().await.unwrap();
        hear_end(&mut client).await;
        joined.outcome().await.unwrap();
    }

    #[tokio::test]
    async fn what_a_client_wrote_before_it_went_away_arrives() {
        let (mut client, accepted) = UnixStream::pair().unwrap();
        let mut joined = joined(accepted, 4);
        say(&mut client, "all of this").await;
        drop(client);
        hear(&mut joined.other.pipe, "all of this").await;
        hear_end(&mut joined.other.pipe).await;
        // There is nobody to hear it, which the other end is told.
        let _ = joined.other.pipe.write_all(b"answer").await;
        within(joined.other.dropped.cancelled()).await;
        joined.outcome().await.unwrap_err();
    }

    #[tokio::test]
    async fn a_reader_that_is_too_slow_costs_one_buffer() {
        let (mut client, accepted) = UnixStream::pair().unwrap();
        let mut joined = joined(accepted, 64);
        let taken = fill(&mut joined.other.pipe).await;
        // The kernel's own buffer is a good 200 KiB.
        assert!(taken < 512 * 1024, "{taken}");
        let mut all = vec![0; taken];
        within(client.read_exact(&mut all)).await.unwrap();
        assert!(all.iter().all(|byte| *byte == 7));
    }

    #[tokio::test]
    async fn two_thousand_idle_connections_each_carry_a_byte() {
        raise_descriptors();
        let mut all = Vec::new();
        for _ in 0..2_000 {
            let (client, accepted) = UnixStream::pair().unwrap();
            all.push((client, joined(accepted, 1)));
        }
        for (client, joined) in &mut all {
            say(client, "a").await;
            hear(&mut joined.other.pipe, "a").await;
        }
        for (client, joined) in all {
            drop((client, joined.other));
            within(joined.task).await.unwrap().unwrap();
        }
    }

    fn raise_descriptors() {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        let raised = Rlimit {
            current: maximum,
            maximum,
        };
        setrlimit(Resource::Nofile, raised).unwrap();
    }
}

#[tokio::test]
async fn bytes_one_by_one_stay_in_order() {
    let (mut client, mut joined) = tcp_joined(1).await;
    let far = &mut joined.other.pipe;
    for byte in 0..=255 {
        client.write_u8(byte).await.unwrap();
        assert_eq!(within(far.read_u8()).await.unwrap(), byte);
        far.write_u8(!byte).await.unwrap();
        assert_eq!(within(client.read_u8()).await.unwrap(), !byte);
    }
}

#[tokio::test]
async fn ten_megabytes_both_ways_at_once() {
    const SIZE: usize = 10 * 1024 * 1024;
    let (client, mut joined) = tcp_joined(16 * 1024).await;
    let (far, other_half) = tokio::io::duplex(1);
    drop(other_half);
    let far = std::mem::replace(&mut joined.other.pipe, far);
    // A length that no power of two divides shows a block in the wrong place.
    let content = |seed: u8| (seed..251).cycle().take(SIZE).collect::<Vec<u8>>();
    let (up, down) = (content(0), content(7));
    within(async {
        tokio::join!(exchange(client, &up, &down), exchange(far, &down, &up));
    })
    .await;
    joined.outcome().await.unwrap();
    assert_eq!(joined.tally.traffic().to_guest, SIZE as u64);
}

/// Drops the connection after each number of steps that it can make.
#[tokio::test]
async fn a_connection_given_up_at_any_point_leaves_nothing() {
    for steps in 0..40 {
        let (mut client, accepted) = tcp().await;
        let (near, other) = stream(3);
        let tally = Tally::default();
        let (mut far_read, mut far_write) = tokio::io::split(other.pipe);
        let mut busy = Box::pin(async {
            loop {
                tokio::select! {
                    written = client.write(b"up and") => drop(written.unwrap()),
                    read = far_read.read_u8() => drop(read.unwrap()),
                    written = far_write.write(b"down") => drop(written.unwrap()),
                }
                tokio::task::yield_now().await;
            }
        });
        let mut joining = Box::pin(join(accepted, remote(near), &tally));
        for _ in 0..steps {
            tokio::select! {
                biased;
                outcome = &mut joining => panic!("{outcome:?}"),
                () = &mut busy => {}
                () = tokio::task::yield_now() => {}
            }
        }
        drop((joining, busy));
        assert!(other.dropped.is_cancelled());
        assert_eq!(tally.traffic().open, 0);
        let mut rest = Vec::new();
        let end = tokio::time::timeout(HANG, client.read_to_end(&mut rest))
            .await
            .unwrap();
        assert_eq!(
            end.unwrap_err().kind(),
            ErrorKind::ConnectionReset,
            "{steps}"
        );
    }
}

#[tokio::test]
async fn a_connection_is_small() {
    let (_client, accepted) = tcp().await;
    let (near, _other) = stream(1);
    let near = remote(near);
    let stand_in = size_of_val(&near);
    let tally = Tally::default();
    let size = size_of_val(&join(accepted, near, &tally)) - stand_in;
    assert!(size < 768, "{size}");
}
