//! The guest's loop: wait for a host, join its session, and over again.

use std::time::Duration;

use berth_relay::Carrier;
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::board::Board;
use super::duties::Duties;
use super::port::{Port, PortError};
use super::reverse::ReverseOpener;
use super::talk::talk;
use crate::apart;
use crate::hello::{Ack, Greeting, Hello, MAX_AGENT_VERSION, Scanner};
use crate::mux::{
    self, Inbox, LONGEST_WINDOW, Limits, Remains, Side, WINDOW_BUDGET, cancelled_with_bye,
};
use crate::session::SessionEnd;
use crate::text;

/// What the guest keeps for one session.
const LIMITS: Limits = Limits {
    own_streams: 256,
    peer_streams: 8192,
    window: LONGEST_WINDOW,
    budget: WINDOW_BUDGET,
};

/// How long the last frames may take to leave when the agent stops.
const FAREWELL_LIMIT: Duration = Duration::from_secs(1);

/// Bytes without a HELLO after which the guest knocks again: a host that missed the end of its session sends on.
const KNOCK_AGAIN_AFTER: usize = 1024 * 1024;

/// Serves the host on `port`, session after session, until `cancel`.
///
/// Returns early only when the port itself is gone for good.
pub async fn serve<D: Duties>(
    mut port: Port,
    board: Board,
    duties: &D,
    cancel: CancellationToken,
) -> Result<(), PortError> {
    // Whoever had the port before this process, and whatever session the host believes in, is gone.
    let mut arrival = Arrival::Knocking;
    while let Some(host) = cancel.run_until_cancelled(port.wait_for_host()).await {
        host?;
        let end = serve_carrier(port.stream(), arrival, &board, duties, &cancel).await;
        tracing::debug!(%end, "the host is gone");
        // A host that connects anew says HELLO by itself.
        arrival = Arrival::Quiet;
    }
    Ok(())
}

/// Whether the host has to be told that somebody waits for a HELLO.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// It may believe in a session of which this end knows nothing.
    Knocking,
    /// It says HELLO by itself.
    Quiet,
}

/// Serves the host on one carrier, session after session, until the carrier ends or `cancel`: [`serve`] without a port.
pub async fn serve_carrier<S, D>(
    mut io: S,
    mut arrival: Arrival,
    board: &Board,
    duties: &D,
    cancel: &CancellationToken,
) -> SessionEnd
where
    S: Carrier,
    D: Duties,
{
    let mut inbox = Inbox::default();
    let mut superseding = None;
    loop {
        let joined = cancel.run_until_cancelled(async {
            let hello = match superseding.take() {
                Some(hello) => hello,
                None => await_hello(&mut io, &mut inbox, arrival).await?,
            };
            join(&mut io, hello, board).await?;
            Ok(hello)
        });
        let hello = match joined.await {
            Some(Ok(hello)) => hello,
            Some(Err(end)) => return end,
            None => return SessionEnd::Cancelled,
        };
        let (end, remains) = hold_session(&mut io, inbox, hello, board, duties, cancel).await;
        tracing::debug!(%end, "session over");
        inbox = remains.inbox;
        match end {
            SessionEnd::Superseded(hello) => superseding = Some(hello),
            SessionEnd::Goodbye => arrival = Arrival::Quiet,
            SessionEnd::BadFrame(_) | SessionEnd::BadMessage(_) | SessionEnd::Silent(_) => {
                // The KNOCK must not end up inside a frame of which the host has the first part.
                if let Err(source) = io.write_all(&remains.unsent).await {
                    return SessionEnd::io("write to", source);
                }
                arrival = Arrival::Knocking;
            }
            end => return end,
        }
    }
}

/// Discards everything up to a HELLO, for as long as it takes.
async fn await_hello<S>(
    io: &mut S,
    inbox: &mut Inbox,
    arrival: Arrival,
) -> Result<Hello, SessionEnd>
where
    S: Carrier,
{
    if arrival == Arrival::Knocking {
        send(io, &Greeting::Knock).await?;
    }
    let mut scanner = Scanner::default();
    let mut seen = 0;
    loop {
        while let Some(greeting) = inbox.next_greeting(&mut scanner) {
            if let Greeting::Hello(hello) = greeting {
                return Ok(hello);
            }
        }
        if seen > KNOCK_AGAIN_AFTER {
            seen = 0;
            send(io, &Greeting::Knock).await?;
        }
        match inbox.fill(io).await {
            Ok(0) => return Err(SessionEnd::HungUp),
            Ok(count) => seen += count,
            Err(source) => return Err(SessionEnd::io("read from", source)),
        }
    }
}

async fn join<S>(io: &mut S, hello: Hello, board: &Board) -> Result<(), SessionEnd>
where
    S: AsyncWrite + Unpin,
{
    let snapshot = board.snapshot();
    let ack = Greeting::Ack(Ack {
        version: hello.agreed_version(),
        session: hello.session,
        boot_id: snapshot.boot_id,
        agent_version: text::name(&snapshot.agent_version, MAX_AGENT_VERSION).replace(' ', "_"),
    });
    send(io, &ack).await
}

async fn send<S>(io: &mut S, greeting: &Greeting) -> Result<(), SessionEnd>
where
    S: AsyncWrite + Unpin,
{
    let sent = async {
        io.write_all(&greeting.encode()).await?;
        io.flush().await
    };
    sent.await
        .map_err(|source| SessionEnd::io("write to", source))
}

async fn hold_session<S, D>(
    io: &mut S,
    inbox: Inbox,
    hello: Hello,
    board: &Board,
    duties: &D,
    cancel: &CancellationToken,
) -> (SessionEnd, Remains)
where
    S: Carrier,
    D: Duties,
{
    let (mux, incoming, mut driver) = mux::new(io, inbox, Side::Guest, hello.session, LIMITS);
    let over = CancellationToken::new();
    let _over_at_the_end = over.clone().drop_guard();
    duties.begin(ReverseOpener::new(mux.clone(), over));
    let end = tokio::select! {
        // First, because the other fails when the session does, and knows less of why.
        biased;
        end = driver.run() => end,
        () = apart(cancelled_with_bye(cancel, &mux)) => SessionEnd::Cancelled,
        end = apart(talk(incoming, board, duties)) => end,
    };
    if matches!(end, SessionEnd::Cancelled) {
        // A host that does not read the last frame does not keep the agent.
        let _ = timeout(FAREWELL_LIMIT, driver.run()).await;
    }
    (end, driver.into_remains())
}
