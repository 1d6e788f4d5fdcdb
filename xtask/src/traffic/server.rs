//! The servers: TCP with one thread for each connection at a time, and UDP beside it.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::thread::spawn;

use anyhow::{Context, Result};

use super::block::Block;
use super::{request, udp};

/// Connections served at the same time; more of them wait to be accepted.
const THREADS: usize = 64;

/// Answers until standard input ends: whoever started this has gone then.
pub(super) fn serve(address: SocketAddr) -> Result<()> {
    start(address)?;
    println!("serving");
    io::copy(&mut io::stdin().lock(), &mut io::sink()).context("wait for the end of the input")?;
    Ok(())
}

/// Answers in threads for as long as this process lives, and says where.
pub(crate) fn start(address: SocketAddr) -> Result<SocketAddr> {
    let listener = TcpListener::bind(address).with_context(|| format!("listen on {address}"))?;
    let address = listener.local_addr().context("ask for the port")?;
    let datagrams = UdpSocket::bind(address).with_context(|| format!("bind {address}/udp"))?;
    spawn(move || udp::serve(&datagrams));
    let listener = Arc::new(listener);
    for _ in 0..THREADS {
        let listener = Arc::clone(&listener);
        spawn(move || accept_forever(&listener));
    }
    Ok(address)
}

fn accept_forever(listener: &TcpListener) {
    let mut buffer = Block::new();
    loop {
        let Ok((mut stream, _)) = listener.accept() else {
            continue;
        };
        // A client that breaks off has its reasons, and counts the failure itself.
        let _ = stream
            .set_nodelay(true)
            .and_then(|()| request::serve(&mut stream, &mut buffer));
    }
}
