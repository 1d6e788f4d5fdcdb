//! Connections between a socket and a stream that lends its buffers.

#![allow(clippy::unwrap_used, reason = "tests only")]

#[path = "cases/connection.rs"]
mod connection;
mod support;

fn remote(stream: support::Stream) -> support::lender::Lender {
    support::lender::Lender::new(stream)
}

/// A client that takes nothing leaves bytes behind, which must not hide it.
#[tokio::test]
async fn a_reset_by_the_other_end_is_noticed_behind_bytes_that_nobody_takes() {
    let (_client, mut joined) = connection::tcp_joined(64).await;
    connection::fill(&mut joined.other.pipe).await;
    joined.other.reset(std::io::ErrorKind::ConnectionReset);
    let error = joined.outcome().await.unwrap_err();
    assert!(
        matches!(error, berth_relay::RelayError::Remote(_)),
        "{error}"
    );
}
