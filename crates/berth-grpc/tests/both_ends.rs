//! Client and server of this crate against each other. Each is also tested against Go's or Python's gRPC, where it is used.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use berth_grpc::client::Client;
use berth_grpc::error::{CallError, Method};
use berth_grpc::frame::Limit;
use berth_grpc::server::{Reply, Service, Status, serve};
use berth_grpc::status::Code;
use bytes::Bytes;
use prost::Message;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// What a test waits for before it calls it a hang.
const HANG: Duration = Duration::from_secs(60);

#[derive(Clone, PartialEq, Eq, Message)]
struct Text {
    #[prost(string, tag = "1")]
    text: String,
}

/// Echoes, counts, fails and waits.
#[derive(Default)]
struct Bench {
    waiting: Notify,
    dropped: Arc<Notify>,
}

/// Tells when it is dropped.
struct Bell(Arc<Notify>);

impl Drop for Bell {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

#[async_trait]
impl Service for Bench {
    async fn call(&self, path: &str, request: Bytes, reply: &Reply) -> Result<(), Status> {
        let text = Text::decode(request).unwrap();
        match path {
            "/Bench/Echo" => reply.send(&text).await,
            "/Bench/Thrice" => {
                for _ in 0..3 {
                    reply.send(&text).await;
                }
            }
            "/Bench/Fail" => return Err(Status::new(Code::UNKNOWN, text.text)),
            "/Bench/Wait" => {
                let _bell = Bell(Arc::clone(&self.dropped));
                self.waiting.notify_one();
                std::future::pending::<()>().await;
            }
            _ => return Err(Status::new(Code::UNIMPLEMENTED, "no such method")),
        }
        Ok(())
    }
}

fn method(name: &'static str) -> Method {
    Method {
        peer: "the bench",
        service: "Bench",
        name,
    }
}

struct Pair {
    client: Client,
    bench: Arc<Bench>,
    stop: CancellationToken,
    served: tokio::task::JoinHandle<Result<(), String>>,
}

async fn pair() -> Pair {
    let (here, there) = tokio::io::duplex(64 * 1024);
    let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
    let bench = Arc::new(Bench::default());
    let (service, stopping) = (Arc::clone(&bench), stop.clone());
    let calls = tracker.clone();
    let served = tracker.spawn(async move {
        let served = serve(there, service, &calls, stopping).await;
        served.map_err(|why| why.to_string())
    });
    let never = CancellationToken::new();
    let client = Client::begin(here, method("begin"), Limit::Mib16, &tracker, never);
    Pair {
        client: client.await.unwrap(),
        bench,
        stop,
        served,
    }
}

fn text(text: &str) -> Text {
    Text {
        text: text.to_owned(),
    }
}

async fn unary(pair: &Pair, name: &'static str, words: &str) -> Result<Text, CallError> {
    pair.client
        .unary(method(name), &text(words), Some(HANG))
        .await
}

#[tokio::test]
async fn a_call_is_answered() {
    let pair = pair().await;
    assert_eq!(unary(&pair, "Echo", "hello").await.unwrap(), text("hello"));
    let long = "x".repeat(3 << 20);
    assert_eq!(unary(&pair, "Echo", &long).await.unwrap(), text(&long));
}

#[tokio::test]
async fn answers_come_one_by_one() {
    let pair = pair().await;
    let request = text("ho");
    let call = pair.client.streaming(method("Thrice"), &request);
    let mut answers = call.await.unwrap();
    for _ in 0..3 {
        assert_eq!(answers.next::<Text>().await.unwrap().unwrap(), text("ho"));
    }
    assert!(answers.next::<Text>().await.is_none());
}

#[tokio::test]
async fn a_failure_says_what_the_service_said() {
    let pair = pair().await;
    let error = unary(&pair, "Fail", "50% of\nit \x1b[2J")
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        "Fail of the bench failed: 50% of\\nit \\u{1b}[2J (unknown error)"
    );
    let error = unary(&pair, "Nothing", "").await.unwrap_err();
    assert!(error.to_string().contains("(not implemented)"), "{error}");
    let error = unary(&pair, "Thrice", "").await.unwrap_err().to_string();
    assert!(error.contains("more than one message"), "{error}");
}

#[tokio::test]
async fn a_request_that_is_too_large_is_refused_and_the_connection_lives() {
    let pair = pair().await;
    let error = unary(&pair, "Echo", &"x".repeat(5 << 20))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("above 4 MiB"), "{error}");
    unary(&pair, "Echo", "again").await.unwrap();
}

#[tokio::test]
async fn a_call_that_nobody_waits_for_is_dropped() {
    let pair = pair().await;
    {
        let request = text("");
        let call = pair.client.unary::<Text>(method("Wait"), &request, None);
        tokio::select! {
            answer = call => panic!("{answer:?}"),
            () = pair.bench.waiting.notified() => {}
        }
    }
    let dropped = pair.bench.dropped.notified();
    tokio::time::timeout(HANG, dropped).await.unwrap();
    unary(&pair, "Echo", "the connection lives").await.unwrap();
}

#[tokio::test]
async fn a_client_that_goes_ends_its_calls() {
    let Pair {
        client,
        bench,
        served,
        ..
    } = pair().await;
    let request = text("");
    let call = client.unary::<Text>(method("Wait"), &request, None);
    tokio::select! {
        answer = call => panic!("{answer:?}"),
        () = bench.waiting.notified() => {}
    }
    drop(client);
    tokio::time::timeout(HANG, bench.dropped.notified())
        .await
        .unwrap();
    tokio::time::timeout(HANG, served)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
}

#[tokio::test]
async fn a_server_that_stops_ends_when_its_calls_have() {
    let pair = pair().await;
    unary(&pair, "Echo", "").await.unwrap();
    pair.stop.cancel();
    tokio::time::timeout(HANG, pair.served)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    tokio::time::timeout(HANG, pair.client.over())
        .await
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_deadline_ends_the_wait() {
    let pair = pair().await;
    let after = Duration::from_secs(10);
    let request = text("");
    let call = pair
        .client
        .unary::<Text>(method("Wait"), &request, Some(after));
    let error = call.await.unwrap_err().to_string();
    assert_eq!(error, "the bench did not answer Wait within 10s");
}
