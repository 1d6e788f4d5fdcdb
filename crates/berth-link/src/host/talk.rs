//! The host's side of one session: the control stream.

use std::collections::HashMap;
use std::future::pending;

use bytes::Bytes;
use tokio::io::ReadHalf;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::queue::EventQueue;
use super::{Ask, LinkError, LinkEvent, MAX_REQUESTS, REQUEST_DEADLINE};
use crate::event::wire::{self, FromGuest};
use crate::event::{BootId, GuestEvent, Request, Response, Welcome};
use crate::flow::FlowHeader;
use crate::message::{
    GuestMessage, HostMessage, MessageError, MessageReader, framed, write_queued,
};
use crate::mux::{LinkStream, Mux};
use crate::session::SessionEnd;

/// Messages to the guest that wait for the carrier: every request, a check, and the welcome.
const OUT_CHANNEL: usize = MAX_REQUESTS + 2;

/// Reads what the guest says, passes on what the host asks, and matches answers.
pub(super) struct Talk<'a> {
    events: &'a mut EventQueue,
    asked: mpsc::Receiver<Ask>,
    kick: &'a Notify,
    boot_id: BootId,
    next_id: u64,
    waiting: HashMap<u64, oneshot::Sender<Result<Response, LinkError>>>,
    check: Option<Check>,
    had_snapshot: bool,
}

/// A ping that decides whether the session lives.
struct Check {
    id: u64,
    deadline: Instant,
}

impl<'a> Talk<'a> {
    pub(super) fn new(
        events: &'a mut EventQueue,
        asked: mpsc::Receiver<Ask>,
        kick: &'a Notify,
        boot_id: BootId,
    ) -> Self {
        Self {
            events,
            asked,
            kick,
            boot_id,
            next_id: 1,
            waiting: HashMap::new(),
            check: None,
            had_snapshot: false,
        }
    }

    /// Talks until the session is to end. `None`: nobody reads events any more.
    pub(super) async fn run(self, mux: &Mux, welcome: Welcome) -> Option<SessionEnd> {
        let Ok(control) = mux.open(&FlowHeader::control()) else {
            // Only a session that is over already refuses its first stream; its driver knows why.
            return pending().await;
        };
        let (read, write) = tokio::io::split(control);
        let (out, queued) = mpsc::channel(OUT_CHANNEL);
        let _ = out.try_send(framed(&HostMessage::from(welcome)));
        tokio::select! {
            end = write_queued(write, queued) => Some(end),
            end = self.listen(read, out) => end,
        }
    }

    async fn listen(
        mut self,
        read: ReadHalf<LinkStream>,
        out: mpsc::Sender<Bytes>,
    ) -> Option<SessionEnd> {
        let mut reader = MessageReader::new(read);
        loop {
            let deadline = self.check.as_ref().map(|check| check.deadline);
            let can_read = self.events.has_room();
            tokio::select! {
                delivered = self.events.deliver_one() => {
                    if delivered.is_err() {
                        return None;
                    }
                }
                message = reader.next::<GuestMessage>(), if can_read => {
                    if let Err(end) = message.and_then(|message| self.on_message(message)) {
                        return Some(end);
                    }
                }
                Some(ask) = self.asked.recv() => self.pass_on(ask, &out),
                () = self.kick.notified() => self.begin_check(&out),
                () = passed(deadline) => {
                    return Some(SessionEnd::Unanswered(Request::Ping, REQUEST_DEADLINE));
                }
            }
        }
    }

    fn on_message(&mut self, message: GuestMessage) -> Result<(), SessionEnd> {
        match FromGuest::try_from(message)? {
            FromGuest::Event(event) => self.on_event(event)?,
            FromGuest::Response { id, response } => {
                if self.check.as_ref().is_some_and(|check| check.id == id) {
                    self.check = None;
                }
                if let Some(reply) = self.waiting.remove(&id) {
                    // Whoever asked may have given up.
                    let _ = reply.send(Ok(response));
                }
            }
            FromGuest::Unknown => tracing::debug!("message of a later version ignored"),
        }
        Ok(())
    }

    fn on_event(&mut self, event: GuestEvent) -> Result<(), MessageError> {
        if let GuestEvent::Snapshot(snapshot) = &event {
            if snapshot.boot_id != self.boot_id {
                return Err(MessageError::Field {
                    field: "snapshot.boot_id",
                    problem: "differs from the one in the ACK".to_owned(),
                });
            }
            self.had_snapshot = true;
        }
        if !self.had_snapshot {
            return Err(MessageError::Beginning("a snapshot"));
        }
        self.events.push(LinkEvent::Guest(event));
        Ok(())
    }

    fn pass_on(&mut self, ask: Ask, out: &mpsc::Sender<Bytes>) {
        self.waiting.retain(|_, reply| !reply.is_closed());
        let id = self.next_id;
        let is_sent = self.waiting.len() < MAX_REQUESTS
            && out
                .try_send(framed(&wire::request(id, ask.request)))
                .is_ok();
        if is_sent {
            self.next_id += 1;
            self.waiting.insert(id, ask.reply);
        } else {
            let _ = ask.reply.send(Err(LinkError::Busy));
        }
    }

    fn begin_check(&mut self, out: &mpsc::Sender<Bytes>) {
        if self.check.is_some() {
            return;
        }
        let id = self.next_id;
        self.next_id += 1;
        // A queue that is full of requests waits for the same guest: its silence shows all the same.
        let _ = out.try_send(framed(&wire::request(id, Request::Ping)));
        self.check = Some(Check {
            id,
            deadline: Instant::now() + REQUEST_DEADLINE,
        });
    }
}

async fn passed(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => pending().await,
    }
}
