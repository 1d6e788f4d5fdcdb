//! The host's half of the handshake.

use std::io;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::Carrier;
use crate::hello::{Ack, Greeting, Hello, Scanner, SessionId, VERSION};
use crate::mux::Inbox;
use crate::session::SessionEnd;

/// Bytes of an earlier session that may come before the ACK. QEMU and the guest's kernel hold at most 128 buffers of 32 KiB.
const MAX_STALE: u64 = 8 * 1024 * 1024;

/// How long the carrier may take for 64 bytes.
const WRITE_LIMIT: Duration = Duration::from_secs(5);

/// Says HELLO and discards everything until the ACK of this session; for as long as it takes.
///
/// QEMU keeps the HELLO until the guest opens its port, so nothing is repeated by the clock. It is repeated, with the same
/// id, when the guest knocks (an agent that took the first one may be dead) and when somebody kicks.
pub(super) async fn greet(
    carrier: &mut Box<dyn Carrier>,
    inbox: &mut Inbox,
    session: SessionId,
    kick: &Notify,
) -> Result<Ack, SessionEnd> {
    let hello = Greeting::Hello(Hello {
        version: VERSION,
        session,
    });
    let mut scanner = Scanner::default();
    let mut seen = 0;
    send(carrier, &hello).await?;
    loop {
        while let Some(greeting) = inbox.next_greeting(&mut scanner) {
            match greeting {
                Greeting::Ack(ack) if ack.session == session => return checked(ack),
                Greeting::Knock => send(carrier, &hello).await?,
                // An ACK of an earlier session, or an echo of our own HELLO.
                Greeting::Ack(_) | Greeting::Hello(_) => {}
            }
        }
        if seen > MAX_STALE {
            return Err(SessionEnd::Garbage(seen));
        }
        tokio::select! {
            read = inbox.fill(carrier) => match read {
                Ok(0) => return Err(SessionEnd::HungUp),
                Ok(count) => seen += count as u64,
                Err(source) => return Err(SessionEnd::io("read from", source)),
            },
            () = kick.notified() => send(carrier, &hello).await?,
        }
    }
}

fn checked(ack: Ack) -> Result<Ack, SessionEnd> {
    if (1..=VERSION).contains(&ack.version) {
        Ok(ack)
    } else {
        Err(SessionEnd::Version(ack.version))
    }
}

async fn send(carrier: &mut Box<dyn Carrier>, greeting: &Greeting) -> Result<(), SessionEnd> {
    let frame = greeting.encode();
    let written = timeout(WRITE_LIMIT, async {
        carrier.write_all(&frame).await?;
        carrier.flush().await
    });
    written
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(|source| SessionEnd::io("write to", source))
}
