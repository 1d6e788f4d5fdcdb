//! Questions over connections: as many as a client likes on each, answered as the answers come (RFC 7766).

use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use super::Shared;
use crate::resolver::Verdict;
use crate::wire::query::{Query, Transport};

/// Connections at a time; more wait to be accepted.
const MAX_CONNECTIONS: usize = 128;
/// Questions of one connection that may wait for somebody else's answer; then no more are read.
const MAX_OF_CLIENT: usize = 64;
/// A connection on which nothing is asked and nothing is waited for ends after so long.
const IDLE: Duration = Duration::from_secs(20);
/// A client that does not take its answers for so long is given up.
const WRITE: Duration = Duration::from_secs(10);
/// With so many bytes of answers nothing more is read before they are written.
const ENOUGH: usize = 64 * 1024;
/// Bytes that are read at a time.
const READ: usize = 2048;

/// Accepts and answers until cancelled.
pub(super) async fn serve(listener: TcpListener, shared: Shared) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let (resolver, tracker, cancel) = &shared;
    let work = async {
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else {
                return;
            };
            let told = |why| tracing::debug!(%why, "a connection was not accepted");
            let (stream, _) = berth_relay::accept::next(|| listener.accept(), told).await;
            resolver.counters.tcp_connections.one();
            let shared = shared.clone();
            tracker.spawn(async move {
                let cancel = shared.2.clone();
                let connection = Connection::new(stream, shared);
                if let Some(Err(why)) = cancel.run_until_cancelled(connection.run()).await {
                    tracing::debug!(%why, "a connection ended");
                }
                drop(place);
            });
        }
    };
    cancel.run_until_cancelled(work).await;
}

struct Connection {
    stream: TcpStream,
    shared: Shared,
    /// What came and is not a whole question yet.
    input: Vec<u8>,
    /// What is to be written.
    output: Vec<u8>,
    /// Answers of others, each with its length.
    answers: (mpsc::Sender<Vec<u8>>, mpsc::Receiver<Vec<u8>>),
    waiting: usize,
}

impl Connection {
    fn new(stream: TcpStream, shared: Shared) -> Self {
        Self {
            stream,
            shared,
            input: Vec::new(),
            output: Vec::new(),
            answers: mpsc::channel(MAX_OF_CLIENT),
            waiting: 0,
        }
    }

    async fn run(mut self) -> io::Result<()> {
        self.stream.set_nodelay(true)?;
        let mut is_open = true;
        loop {
            self.answer_input();
            if !self.output.is_empty() {
                let written = timeout(WRITE, self.stream.write_all(&self.output));
                written.await.map_err(|_| io::ErrorKind::TimedOut)??;
                self.output.clear();
                self.output.shrink_to(ENOUGH);
                // There may be whole questions left in the input.
                continue;
            }
            if !is_open && self.waiting == 0 {
                return Ok(());
            }
            self.input.reserve(READ);
            let may_read = is_open && self.waiting < MAX_OF_CLIENT;
            tokio::select! {
                Some(answer) = self.answers.1.recv(), if self.waiting > 0 => {
                    self.waiting -= 1;
                    self.output.extend(answer);
                }
                read = self.stream.read_buf(&mut self.input), if may_read => {
                    is_open = read? > 0;
                }
                () = tokio::time::sleep(IDLE), if self.waiting == 0 => return Ok(()),
            }
        }
    }

    /// Answers the whole questions of the input, while there is room for answers.
    fn answer_input(&mut self) {
        let mut taken = 0;
        while self.output.len() < ENOUGH && self.waiting < MAX_OF_CLIENT {
            let rest = &self.input[taken..];
            let Some(length) = rest.first_chunk().map(|two| u16::from_be_bytes(*two)) else {
                break;
            };
            let end = 2 + usize::from(length);
            let Some(message) = rest.get(2..end) else {
                break;
            };
            taken += end;
            self.shared.0.counters.tcp_queries.one();
            let received = Query::read(message, Transport::Tcp);
            let start = self.output.len();
            self.output.extend([0, 0]);
            match self.shared.0.answer(received, &mut self.output) {
                Verdict::Answered => finish(&mut self.output, start),
                Verdict::Ignored => self.output.truncate(start),
                Verdict::Ask(query) => {
                    self.output.truncate(start);
                    self.waiting += 1;
                    ask(&self.shared, self.answers.0.clone(), query);
                }
            }
        }
        self.input.drain(..taken);
        if self.input.is_empty() {
            self.input.shrink_to(ENOUGH);
        }
    }
}

/// Has somebody else's answer sent to the connection.
fn ask(
    (resolver, tracker, cancel): &Shared,
    answers: mpsc::Sender<Vec<u8>>,
    query: Box<Query<'static>>,
) {
    let (resolver, cancel) = (Arc::clone(resolver), cancel.clone());
    tracker.spawn(async move {
        // Pinned here, so that the task holds it once: a future that is passed on is held by both.
        let asked = pin!(async {
            let mut reply = vec![0, 0];
            match resolver.place() {
                Some(_place) => resolver.resolve(&query, &mut reply).await,
                None => resolver.fail(&query, &mut reply),
            }
            finish(&mut reply, 0);
            // The connection may have ended.
            let _ = answers.send(reply).await;
        });
        cancel.run_until_cancelled(asked).await;
    });
}

/// Writes a message's length before it.
fn finish(output: &mut [u8], start: usize) {
    // Never longer: no answer is.
    let length = u16::try_from(output.len() - start - 2).unwrap_or(u16::MAX);
    output[start..start + 2].copy_from_slice(&length.to_be_bytes());
}
