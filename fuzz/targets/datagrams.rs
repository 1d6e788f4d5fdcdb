//! A flow of datagrams whose stream holds anything.
#![no_main]

use std::time::Duration;

use berth_relay::udp::{Patience, carry};
use libfuzzer_sys::fuzz_target;
use tokio::net::UdpSocket;

fuzz_target!(|bytes: &[u8]| {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let (server, socket) = (bind().await, bind().await);
        socket.connect(server.local_addr().unwrap()).await.unwrap();
        let stream = tokio::io::join(bytes, tokio::io::sink());
        let carried = carry(socket, stream, Patience::of_port(53));
        let ended = tokio::time::timeout(Duration::from_secs(3600), carried).await;
        assert!(ended.is_ok(), "the flow never ends");
    });
});

async fn bind() -> UdpSocket {
    UdpSocket::bind("127.0.0.1:0").await.unwrap()
}
