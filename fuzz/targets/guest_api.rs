//! A connection to Lima's guest agent whose other end says anything after its first SETTINGS.
#![no_main]

use std::time::Duration;

use berth_guest_api::client::GuestApi;
use berth_guest_api::tunnel::TunnelTarget;
use libfuzzer_sys::fuzz_target;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// An empty SETTINGS frame.
const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];

fuzz_target!(|bytes: &[u8]| {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(connection(bytes));
});

async fn connection(bytes: &[u8]) {
    let (ours, guest) = tokio::io::duplex(64 * 1024);
    let (tracker, cancel) = (TaskTracker::new(), CancellationToken::new());
    let hostile = async {
        let (mut read, mut write) = tokio::io::split(guest);
        let reading = async {
            let mut requests = [0; 4096];
            while read.read(&mut requests).await.is_ok_and(|count| count > 0) {}
        };
        let writing = async {
            let _ = write.write_all(&SETTINGS).await;
            // The calls are under way by then.
            tokio::time::sleep(Duration::from_millis(1)).await;
            let _ = write.write_all(bytes).await;
            tokio::time::sleep(Duration::from_secs(60)).await;
        };
        tokio::select! {
            () = reading => {}
            () = writing => {}
        }
    };
    let calling = async {
        let Ok(api) = GuestApi::connect(ours, &tracker, cancel.clone()).await else {
            return;
        };
        let info = api.info();
        let events = async {
            let mut stream = api.events().await.ok()?;
            for _ in 0..64 {
                let next = tokio::time::timeout(Duration::from_secs(5), stream.next());
                let _ = next.await.ok()??;
            }
            Some(())
        };
        let tunnel = async {
            let target = TunnelTarget::Tcp(([127, 0, 0, 1], 80).into());
            let mut tunnel = api.tunnel(&target).await.ok()?;
            let mut bytes = Vec::new();
            let read = tunnel.read_to_end(&mut bytes);
            let _ = tokio::time::timeout(Duration::from_secs(5), read).await;
            Some(())
        };
        let _ = tokio::join!(info, events, tunnel);
    };
    tokio::select! {
        () = hostile => {}
        () = calling => {}
        () = tokio::time::sleep(Duration::from_secs(3600)) => panic!("a call hangs"),
    }
    cancel.cancel();
    tracker.close();
    tracker.wait().await;
}
