//! One question to one server.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::counters::Counters;
use crate::sys::Asking;
use crate::wire::answer::Answer;
use crate::wire::message::Message;
use crate::wire::query::Query;
use crate::wire::reply::write_opt;
use crate::wire::{HEADER, Rcode, SAFE_UDP, flag, put_u16, u16_at};

/// How long a datagram of a server is waited for. Others are asked long before.
const SILENCE: Duration = Duration::from_secs(5);

/// How long a connection to a server has for one answer.
const CONNECTION: Duration = Duration::from_secs(3);

/// Why a server gave no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExchangeError {
    /// It was silent.
    #[error("it did not answer within {} s", .0.as_secs())]
    Silent(Duration),
    /// It cannot be reached.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// What it sent is no DNS message.
    #[error("its answer is malformed")]
    Garbage,
}

/// What is asked: the same for every server, but for its id.
#[derive(Debug)]
pub(crate) struct Ask {
    question: Box<[u8]>,
    flags: u16,
    dnssec_ok: bool,
}

impl Ask {
    /// A client's question, with only those of its wishes that go beyond us.
    pub(crate) fn of(query: &Query<'_>) -> Self {
        let passed = flag::CHECKING_DISABLED | flag::AUTHENTIC;
        Self {
            question: query.question.as_ref().into(),
            flags: query.flags & passed | flag::RECURSION_DESIRED,
            dnssec_ok: query.dnssec_ok(),
        }
    }

    fn message(&self, id: u16, has_edns: bool) -> Vec<u8> {
        let mut message = vec![0; HEADER];
        put_u16(&mut message, 0, id);
        put_u16(&mut message, 2, self.flags);
        put_u16(&mut message, 4, 1);
        message.extend(&self.question);
        if has_edns {
            put_u16(&mut message, 10, 1);
            write_opt(Rcode::NO_ERROR, self.dnssec_ok, &mut message);
        }
        message
    }

    /// Whether a message answers this question. A server that does not understand EDNS may repeat nothing.
    fn is_answered_by(&self, message: &Message<'_>) -> bool {
        let question = message.question();
        question.eq_ignore_ascii_case(&self.question)
            || question.is_empty() && rejects_edns(message.rcode())
    }
}

fn rejects_edns(rcode: Rcode) -> bool {
    matches!(rcode, Rcode::FORM_ERR | Rcode::NOT_IMP | Rcode::BAD_VERS)
}

/// Asks one server: over UDP, again without EDNS where it knows none, over TCP where the answer does not fit.
pub(crate) async fn ask(
    server: SocketAddr,
    ask: &Ask,
    counters: &Counters,
) -> Result<Answer, ExchangeError> {
    let mut has_edns = true;
    loop {
        let until = Instant::now() + SILENCE;
        let reply = timeout_at(until, over_udp(server, ask, has_edns, counters));
        let reply = reply.await.map_err(|_| ExchangeError::Silent(SILENCE))??;
        let message = Message::check(&reply.bytes);
        let is_cut = reply.is_cut || message.is_some_and(|message| message.is_truncated());
        if is_cut {
            counters.upstream_tcp.one();
            let until = Instant::now() + CONNECTION;
            // Boxed, as it is rare: every question pays for the size of this future.
            let whole = timeout_at(until, Box::pin(over_tcp(server, ask, has_edns)));
            return whole.await.map_err(|_| ExchangeError::Silent(CONNECTION))?;
        }
        let message = message.ok_or(ExchangeError::Garbage)?;
        if has_edns && rejects_edns(message.rcode()) {
            has_edns = false;
            continue;
        }
        return answer(&message);
    }
}

fn answer(message: &Message<'_>) -> Result<Answer, ExchangeError> {
    if message.question().is_empty() {
        return Err(ExchangeError::Garbage);
    }
    Ok(Answer::from_upstream(message))
}

struct Datagram {
    bytes: Vec<u8>,
    /// It was longer than what we had asked for.
    is_cut: bool,
}

/// Sends the question from a port of its own with an id of its own, and takes the first datagram that answers it. Whoever wants
/// to slip in an answer must guess both.
async fn over_udp(
    server: SocketAddr,
    ask: &Ask,
    has_edns: bool,
    counters: &Counters,
) -> Result<Datagram, ExchangeError> {
    let id = random_id()?;
    let asking = Asking::send(server, &ask.message(id, has_edns)).await?;
    loop {
        let bytes = asking.receive().await?;
        let is_cut = bytes.len() > SAFE_UDP;
        let is_ours = match Message::check(&bytes) {
            Some(message) => is_response(&message, id) && ask.is_answered_by(&message),
            // From the right place, with the right number, and no message: that is the server's own fault.
            None => has_header_of(&bytes, id, ask),
        };
        if is_ours {
            return Ok(Datagram { bytes, is_cut });
        }
        counters.forged.one();
    }
}

fn is_response(message: &Message<'_>, id: u16) -> bool {
    message.id() == id && message.flags() & flag::RESPONSE != 0
}

fn has_header_of(bytes: &[u8], id: u16, ask: &Ask) -> bool {
    let header = [u16_at(bytes, 0), u16_at(bytes, 2)];
    let [Some(theirs), Some(flags)] = header else {
        return false;
    };
    let question = bytes.get(HEADER..HEADER + ask.question.len());
    theirs == id
        && flags & flag::RESPONSE != 0
        && question.is_some_and(|question| question.eq_ignore_ascii_case(&ask.question))
}

async fn over_tcp(server: SocketAddr, ask: &Ask, has_edns: bool) -> Result<Answer, ExchangeError> {
    let mut stream = TcpStream::connect(server).await?;
    let id = random_id()?;
    let message = ask.message(id, has_edns);
    // A question is shorter than 300 bytes.
    let length = u16::try_from(message.len()).unwrap_or_default();
    stream
        .write_all(&[&length.to_be_bytes()[..], &message].concat())
        .await?;
    let length = stream.read_u16().await?;
    let mut bytes = Vec::new();
    (&mut stream)
        .take(length.into())
        .read_to_end(&mut bytes)
        .await?;
    if bytes.len() < usize::from(length) {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    let message = Message::check(&bytes).ok_or(ExchangeError::Garbage)?;
    if !is_response(&message, id) || !ask.is_answered_by(&message) || message.is_truncated() {
        return Err(ExchangeError::Garbage);
    }
    answer(&message)
}

fn random_id() -> Result<u16, ExchangeError> {
    let mut bytes = [0; 2];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(u16::from_be_bytes(bytes))
}
