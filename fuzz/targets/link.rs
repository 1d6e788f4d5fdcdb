//! A session of the guest link whose other end says anything: greetings, frames, control messages, streams of its own. The carrier
//! is a socket, and so is the end of the host's stream, so payloads may pass through pipes.
#![no_main]

use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use berth_link::event::{BootId, GuestEvent, MAX_PORTS, PortInterest, Request, Welcome};
use berth_link::flow::{FlowHeader, FlowKind};
use berth_link::hello::{Ack, GREETING_LEN, Greeting};
use berth_link::host::{Carrier, Connector, LinkEvent, Supervisor};
use berth_relay::{Tally, join};
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// One carrier, then none.
struct Once(Mutex<Option<UnixStream>>);

#[async_trait]
impl Connector for Once {
    async fn connect(&self) -> io::Result<Box<dyn Carrier>> {
        let carrier = self.0.lock().unwrap().take();
        carrier
            .map(|carrier| Box::new(carrier) as Box<dyn Carrier>)
            .ok_or_else(|| io::ErrorKind::ConnectionRefused.into())
    }
}

fuzz_target!(|bytes: &[u8]| {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(session(bytes));
});

async fn session(bytes: &[u8]) {
    let (ours, mut guest) = UnixStream::pair().unwrap();
    let (tracker, cancel) = (TaskTracker::new(), CancellationToken::new());
    let welcome = || Welcome {
        host_time: SystemTime::UNIX_EPOCH,
    };
    let connector = Arc::new(Once(Mutex::new(Some(ours))));
    let (handle, mut events) =
        Supervisor::start(connector, Arc::new(welcome), &tracker, cancel.clone());
    let _reverse = handle.take_reverse();
    let hostile = async {
        let mut hello = [0; GREETING_LEN];
        guest.read_exact(&mut hello).await.unwrap();
        let Some(Greeting::Hello(hello)) = Greeting::decode(&hello) else {
            panic!("the host begins with HELLO");
        };
        let ack = Greeting::Ack(Ack {
            version: hello.version,
            session: hello.session,
            boot_id: BootId([7; 16]),
            agent_version: "0".to_owned(),
        });
        guest.write_all(&ack.encode()).await.unwrap();
        let (mut read, mut write) = tokio::io::split(guest);
        let reading = async {
            let mut answers = [0; 4096];
            while read.read(&mut answers).await.is_ok_and(|count| count > 0) {}
        };
        let mut reading = pin!(reading);
        tokio::select! {
            _ = write.write_all(bytes) => {}
            () = &mut reading => {}
        }
        // Long enough for every silence to be noticed.
        let _ = tokio::time::timeout(Duration::from_secs(20), reading).await;
    };
    let using = async {
        let mut count = 0;
        while let Some(event) = events.recv().await {
            match event {
                LinkEvent::Up { .. } => {
                    let header = FlowHeader::new(FlowKind::Tcp, "127.0.0.1:80").unwrap();
                    if let Ok(stream) = handle.open_stream(&header) {
                        let (mut client, near) = UnixStream::pair().unwrap();
                        tracker.spawn(async move { join(near, stream, &Tally::default()).await });
                        tracker.spawn(async move {
                            let _ = client.write_all(b"GET").await;
                            let mut answer = Vec::new();
                            client.read_to_end(&mut answer).await
                        });
                    }
                    let _ = handle
                        .request(Request::WatchPorts(PortInterest::default()))
                        .await;
                }
                LinkEvent::Guest(GuestEvent::Ports(update)) => {
                    assert!(update.added.len() <= MAX_PORTS);
                }
                LinkEvent::Guest(_) => {}
                LinkEvent::Down { .. } => return,
            }
            count += 1;
            assert!(count < 1_000_000, "events without end");
        }
    };
    tokio::select! {
        ((), ()) = async { tokio::join!(hostile, using) } => {}
        () = tokio::time::sleep(Duration::from_secs(3600)) => panic!("the session hangs"),
    }
    cancel.cancel();
    tracker.close();
    tracker.wait().await;
}
