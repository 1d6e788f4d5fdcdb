//! The client against an agent by hand: calls with one answer, streams of events, and everything that can go wrong with them.

#![allow(clippy::unwrap_used, reason = "tests only")]

mod agent;

use std::time::{Duration, SystemTime};

use berth_guest_api::client::{ClockReport, EventStream, GuestApi, MAX_MESSAGE};
use berth_guest_api::error::{CallError, GuestApiError};
use berth_guest_api::port::{GuestPort, PortChanges, Protocol};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use agent::{Agent, send, succeed, within};

struct Client {
    api: GuestApi,
    tracker: TaskTracker,
}

async fn connect_over<S>(stream: S) -> Client
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let tracker = TaskTracker::new();
    let api = GuestApi::connect(stream, &tracker, CancellationToken::new())
        .await
        .unwrap();
    Client { api, tracker }
}

/// A client, and the other end of its stream.
async fn connect() -> (Client, DuplexStream) {
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    (connect_over(ours).await, theirs)
}

async fn connected() -> (Client, Agent) {
    let (client, theirs) = connect().await;
    let agent = Agent::serve(theirs, &client.tracker);
    (client, agent)
}

/// `Info { local_ports: [tcp 127.0.0.1:8080, udp [::]:53] }`.
const INFO: &[u8] =
    b"\x0a\x13\x0a\x03tcp\x12\x09127.0.0.1\x18\x90\x3f\x0a\x0b\x0a\x03udp\x12\x02::\x18\x35";

async fn answer_info(agent: &mut Agent) {
    let mut call = agent.call_of("GetInfo").await;
    assert_eq!(call.body().await, [0; 5]);
    call.answer(INFO);
}

fn tcp(ip: &str, port: u16) -> GuestPort {
    GuestPort {
        protocol: Protocol::Tcp,
        ip: ip.parse().unwrap(),
        port,
    }
}

async fn next(events: &mut EventStream) -> PortChanges {
    within(events.next())
        .await
        .expect("the stream ended")
        .unwrap()
}

#[tokio::test]
async fn get_info_lists_the_ports() {
    let (client, mut agent) = connected().await;
    let (info, ()) = tokio::join!(within(client.api.info()), answer_info(&mut agent));
    let info = info.unwrap();
    assert_eq!((info.ports.len(), info.malformed), (2, 0));
    assert_eq!(info.ports[0], tcp("127.0.0.1", 8080));
    assert_eq!(
        (info.ports[1].protocol, info.ports[1].port),
        (Protocol::Udp, 53)
    );
}

#[cfg(unix)]
#[tokio::test]
async fn the_same_over_a_unix_socket() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("ga.sock");
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    let client = connect_over(tokio::net::UnixStream::connect(&path).await.unwrap()).await;
    let mut agent = Agent::serve(listener.accept().await.unwrap().0, &client.tracker);
    let (info, ()) = tokio::join!(within(client.api.info()), answer_info(&mut agent));
    assert_eq!(info.unwrap().ports.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn events_may_come_hours_late_and_other_calls_pass_them() {
    let (client, mut agent) = connected().await;
    let mut events = client.api.events().await.unwrap();
    // Go's server sends its headers with the first event: until then there is no answer at all.
    let waiting = timeout(Duration::from_secs(7200), events.next()).await;
    assert!(waiting.is_err());
    let mut subscribed = agent.call_of("GetEvents").await;
    assert_eq!(subscribed.body().await, [0; 5]);
    let (info, ()) = tokio::join!(within(client.api.info()), answer_info(&mut agent));
    assert_eq!(info.unwrap().ports.len(), 2);

    let mut stream = subscribed.headers();
    // time 1700000000.5 s, added tcp 0.0.0.0:80, removed tcp 127.0.0.1:8080, errors "a<ESC>b"; then an empty one.
    send(
        &mut stream,
        b"\x0a\x0c\x08\x80\xe2\xcf\xaa\x06\x10\x80\xca\xb5\xee\x01\
          \x12\x10\x0a\x03tcp\x12\x070.0.0.0\x18\x50\
          \x1a\x13\x0a\x03tcp\x12\x09127.0.0.1\x18\x90\x3f\
          \x22\x03a\x1bb",
    );
    send(&mut stream, b"");
    succeed(&mut stream);
    let changes = next(&mut events).await;
    assert_eq!(changes.time, Some(Duration::from_millis(1_700_000_000_500)));
    assert_eq!(changes.added, [tcp("0.0.0.0", 80)]);
    assert_eq!(changes.removed, [tcp("127.0.0.1", 8080)]);
    assert_eq!(changes.errors, ["a\\u{1b}b"]);
    assert_eq!(next(&mut events).await, PortChanges::default());
    for _ in 0..2 {
        assert!(within(events.next()).await.is_none());
    }
}

#[tokio::test]
async fn a_wait_for_an_event_can_be_given_up_in_the_middle_of_one() {
    let (client, mut agent) = connected().await;
    let mut events = client.api.events().await.unwrap();
    let mut call = agent.call_of("GetEvents").await;
    let mut stream = call.headers();
    let event = b"\x12\x10\x0a\x03tcp\x12\x070.0.0.0\x18\x50";
    for byte in agent::framed(event) {
        let begun = timeout(Duration::from_millis(5), events.next()).await;
        assert!(begun.is_err(), "{begun:?}");
        stream.send_data(vec![byte].into(), false).unwrap();
    }
    assert_eq!(next(&mut events).await.added, [tcp("0.0.0.0", 80)]);
}

#[tokio::test]
async fn what_the_agent_refuses_is_told_in_its_words_without_its_escapes() {
    let (client, mut agent) = connected().await;
    let mut events = client.api.events().await.unwrap();
    agent
        .call_of("GetEvents")
        .await
        .fail("12", "unknown method");
    let serving = async {
        let call = agent.call_of("GetInfo").await;
        call.fail("2", "no %1B[2Jsockets");
    };
    let (info, ()) = tokio::join!(within(client.api.info()), serving);
    let text = info.unwrap_err().to_string();
    let expected = "GetInfo of Lima's guest agent failed: no \\u{1b}[2Jsockets (unknown error)";
    assert_eq!(text, expected);
    let event = within(events.next()).await.unwrap().unwrap_err();
    assert_eq!(event.kind(), std::io::ErrorKind::Unsupported);
    assert!(within(events.next()).await.is_none());
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_hangs_and_a_socket_without_an_agent_are_not_waited_for() {
    let (client, _agent) = connected().await;
    let error = client.api.info().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "Lima's guest agent did not answer GetInfo within 3s"
    );

    let (client, _nobody) = connect().await;
    let error = client.api.info().await.unwrap_err();
    assert!(
        matches!(error, GuestApiError::Call(CallError::TimedOut { .. })),
        "{error}"
    );
}

#[tokio::test]
async fn a_connection_that_breaks_is_named_and_not_taken_for_an_end() {
    let (client, mut agent) = connected().await;
    let mut events = client.api.events().await.unwrap();
    let mut subscribed = agent.call_of("GetEvents").await;
    let mut stream = subscribed.headers();
    send(&mut stream, b"");
    next(&mut events).await;
    let serving = async {
        // This call is never answered.
        let unanswered = agent.call_of("GetInfo").await;
        agent.cut.cancel();
        unanswered
    };
    let (info, _kept) = tokio::join!(within(client.api.info()), serving);
    let lost = |method| move |error: &GuestApiError| matches!(error, GuestApiError::Call(CallError::Lost { method: m, .. }) if m.name == method);
    assert!(info.as_ref().is_err_and(lost("GetInfo")), "{info:?}");
    let event = within(events.next()).await.unwrap();
    assert!(event.as_ref().is_err_and(lost("GetEvents")), "{event:?}");
    let again = within(client.api.info()).await;
    assert!(again.as_ref().is_err_and(lost("GetInfo")), "{again:?}");
    within(client.api.over()).await;
}

#[tokio::test]
async fn what_is_no_answer_is_refused_and_the_connection_lives() {
    let (client, mut agent) = connected().await;
    let too_long = u32::try_from(MAX_MESSAGE + 1).unwrap().to_be_bytes();
    for (message, what) in [
        // The length alone is enough: nothing of it has to come.
        (
            [&[0][..], &too_long, &[0; 100]].concat(),
            "a message above 4 MiB",
        ),
        (
            b"\0\0\0\0\x03\x0a\x7fx".to_vec(),
            "a field longer than its message",
        ),
        (b"\x01\0\0\0\x01x".to_vec(), "a compressed message"),
        (b"\0\0\0\0\0\0\0\0\0\0".to_vec(), "more than one message"),
        (b"\0\0\0\0\x09x".to_vec(), "a message that is cut off"),
        (Vec::new(), "no message"),
    ] {
        let serving = async {
            let mut call = agent.call_of("GetInfo").await;
            let mut answer = call.headers();
            answer.send_data(message.into(), false).unwrap();
            succeed(&mut answer);
        };
        let (info, ()) = tokio::join!(within(client.api.info()), serving);
        let expected = format!("Lima's guest agent answered GetInfo with {what}");
        assert_eq!(info.unwrap_err().to_string(), expected);
    }
    let (info, ()) = tokio::join!(within(client.api.info()), answer_info(&mut agent));
    assert_eq!(info.unwrap().ports.len(), 2);
}

#[tokio::test]
async fn a_reset_call_and_an_answer_without_a_status_are_told() {
    let (client, mut agent) = connected().await;
    let serving = async {
        let mut call = agent.call_of("GetInfo").await;
        call.respond.send_reset(h2::Reason::INTERNAL_ERROR);
        let mut call = agent.call_of("GetInfo").await;
        let mut answer = call.headers();
        answer.send_data(agent::framed(INFO), true).unwrap();
    };
    let asking = async { (client.api.info().await, client.api.info().await) };
    let ((reset, endless), ()) = within(async { tokio::join!(asking, serving) }).await;
    assert!(
        matches!(reset, Err(GuestApiError::Call(CallError::Reset { .. }))),
        "{reset:?}"
    );
    let what = "Lima's guest agent answered GetInfo with no status";
    assert_eq!(endless.unwrap_err().to_string(), what);
}

#[tokio::test]
async fn ten_million_ports_are_refused_before_they_are_held() {
    let (client, mut agent) = connected().await;
    let mut events = client.api.events().await.unwrap();
    let mut call = agent.call_of("GetEvents").await;
    let mut stream = call.headers();
    // Ten million entries in one message, of which the agent may send what the window holds.
    let length = 10_000_000_u32 * 16;
    let mut begun = [&[0][..], &length.to_be_bytes()].concat();
    begun.extend(b"\x12\x0e\x0a\x03tcp\x12\x05::1:1".repeat(1000));
    stream.send_data(begun.into(), false).unwrap();
    let refused = within(events.next()).await.unwrap().unwrap_err();
    let what = "Lima's guest agent answered GetEvents with a message above 4 MiB";
    assert_eq!(refused.to_string(), what);
    let reset = within(std::future::poll_fn(|cx| stream.poll_reset(cx))).await;
    assert_eq!(reset.unwrap(), h2::Reason::CANCEL);
}

#[tokio::test]
async fn something_else_behind_the_socket_is_noticed() {
    for greeting in [
        &b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n"[..],
        &[0xb5; 200],
        b"",
    ] {
        let (client, mut theirs) = connect().await;
        theirs.write_all(greeting).await.unwrap();
        theirs.shutdown().await.unwrap();
        let draining = client.tracker.spawn(async move {
            let _ = theirs.read_to_end(&mut Vec::new()).await;
        });
        let info = within(client.api.info()).await;
        assert!(
            matches!(info, Err(GuestApiError::Call(CallError::Lost { .. }))),
            "{info:?}"
        );
        drop(client);
        within(draining).await.unwrap();
    }
}

#[tokio::test]
async fn the_agent_is_told_the_time_and_says_what_it_found() {
    let (client, mut agent) = connected().await;
    let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_500);
    for (answer, expected) in [
        (
            &b"\x08\x01\x10\xd0\x0f"[..],
            ClockReport {
                adjusted: true,
                drift_ms: 2000,
                failure: None,
            },
        ),
        (
            b"\x10\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01\x1a\x05not\x1b!",
            ClockReport {
                adjusted: false,
                drift_ms: -2,
                failure: Some("not\\u{1b}!".into()),
            },
        ),
        (
            b"",
            ClockReport {
                adjusted: false,
                drift_ms: 0,
                failure: None,
            },
        ),
    ] {
        let serving = async {
            let mut call = agent.call_of("SyncTime").await;
            let request = b"\0\0\0\0\x0e\x0a\x0c\x08\x80\xe2\xcf\xaa\x06\x10\x80\xca\xb5\xee\x01";
            assert_eq!(call.body().await, request);
            call.answer(answer);
        };
        let (report, ()) = tokio::join!(within(client.api.sync_time(time)), serving);
        assert_eq!(report.unwrap(), expected);
    }
}

#[tokio::test]
async fn file_events_are_streamed_until_the_end_that_go_calls_a_failure() {
    let (client, mut agent) = connected().await;
    let time = SystemTime::UNIX_EPOCH + Duration::from_secs(5);
    let mut events = client.api.file_events().await.unwrap();
    events.post("/home/u/a.txt", time).await.unwrap();
    events.post("/ü", time).await.unwrap();
    for path in ["relative", "", "/nul\0", &format!("/{}", "x".repeat(5000))] {
        let error = events.post(path, time).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput, "{path:?}");
    }
    let mut call = agent.call_of("PostInotify").await;
    let first = call.message().await.unwrap().unwrap();
    assert_eq!(first, b"\x0a\x0d/home/u/a.txt\x12\x02\x08\x05"[..]);
    let second = call.message().await.unwrap().unwrap();
    assert_eq!(second, "\x0a\x03/ü\x12\x02\x08\x05".as_bytes());
    let serving = async {
        assert!(call.message().await.unwrap().is_none());
        call.fail("2", "EOF");
    };
    let (end, ()) = tokio::join!(within(events.finish()), serving);
    end.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_reads_no_file_events_is_not_waited_for_and_a_refusal_is_told() {
    let (client, mut agent) = connected().await;
    let time = SystemTime::UNIX_EPOCH;
    let mut events = client.api.file_events().await.unwrap();
    events.post("/a", time).await.unwrap();
    agent
        .call_of("PostInotify")
        .await
        .fail("12", "unknown method");
    let refused = loop {
        // The answer may take a moment to arrive; posting into the void succeeds.
        if let Err(why) = events.post("/a", time).await {
            break why;
        }
        tokio::task::yield_now().await;
    };
    assert_eq!(refused.kind(), std::io::ErrorKind::Unsupported, "{refused}");

    let (ours, theirs) = tokio::io::duplex(1024);
    let client = connect_over(ours).await;
    let mut events = client.api.file_events().await.unwrap();
    let path = format!("/{}", "x".repeat(4000));
    let stuck = loop {
        if let Err(why) = events.post(&path, time).await {
            break why;
        }
    };
    assert!(
        matches!(stuck, GuestApiError::Call(CallError::TimedOut { .. })),
        "{stuck}"
    );
    drop(theirs);
}

#[tokio::test]
async fn the_connection_ends_with_its_last_user_and_when_told_to() {
    let (client, mut theirs) = connect().await;
    let events = client.api.events().await.unwrap();
    let Client { api, tracker } = client;
    tracker.close();
    drop(api);
    drop(events);
    // HTTP/2's own farewell, then the end.
    within(theirs.read_to_end(&mut Vec::new())).await.unwrap();
    within(tracker.wait()).await;

    let (ours, _theirs) = tokio::io::duplex(64 * 1024);
    let (tracker, cancel) = (TaskTracker::new(), CancellationToken::new());
    let api = GuestApi::connect(ours, &tracker, cancel.clone())
        .await
        .unwrap();
    tracker.close();
    cancel.cancel();
    within(tracker.wait()).await;
    within(api.over()).await;
}
