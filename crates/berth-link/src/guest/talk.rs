//! The guest's side of one session: the control stream, and the streams behind it.

use std::future::pending;

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::io::ReadHalf;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc, watch};

use super::board::{Board, Post, Subscription};
use super::duties::Duties;
use super::ports::tell_ports;
use crate::event::wire;
use crate::event::{GuestEvent, Refusal, Request, Response};
use crate::flow::FlowKind;
use crate::message::{
    GuestMessage, HostKind, HostMessage, MessageError, MessageReader, framed, write_queued,
};
use crate::mux::{Incoming, LinkStream};
use crate::session::SessionEnd;

/// Messages to the host that wait for the carrier.
const OUT_CHANNEL: usize = 4;

/// Requests that are worked on at the same time; more are refused.
const MAX_AT_WORK: usize = 8;

/// Talks until the session is to end.
pub(super) async fn talk<D: Duties>(
    mut incoming: Incoming,
    board: &Board,
    duties: &D,
) -> SessionEnd {
    let Some((header, control)) = incoming.accept().await else {
        // The session is over; its driver says why.
        return pending().await;
    };
    if header.kind() != FlowKind::Control {
        return MessageError::Beginning("its own opening").into();
    }
    let (read, write) = tokio::io::split(control);
    let (out, queued) = mpsc::channel(OUT_CHANNEL);
    // Nothing of the board may come before its first snapshot.
    let notices = Notices::begin(board, out.clone()).await;
    let (ports_asked, asked) = watch::channel(false);
    tokio::select! {
        end = write_queued(write, queued) => end,
        end = notices.follow() => end,
        end = tell_ports(board, out.clone(), asked) => end,
        end = listen(read, out, duties, ports_asked) => end,
        end = pass_flows(incoming, duties) => end,
    }
}

/// What this session tells of the board, ports apart.
struct Notices<'a> {
    board: &'a Board,
    out: mpsc::Sender<Bytes>,
    posts: broadcast::Receiver<Post>,
    /// Lines of cloud-init's log that the host knows of, dropped ones included.
    lines_told: u64,
}

impl<'a> Notices<'a> {
    async fn begin(board: &'a Board, out: mpsc::Sender<Bytes>) -> Self {
        let Subscription { lines, posts, .. } = board.subscribe();
        let mut notices = Self {
            board,
            out,
            posts,
            lines_told: lines,
        };
        notices.send_snapshot().await;
        notices
    }

    async fn send_snapshot(&mut self) {
        let Subscription {
            mut snapshot,
            lines,
            posts,
        } = self.board.subscribe();
        snapshot.cloud_init.dropped = lines - self.lines_told;
        self.lines_told = lines;
        self.posts = posts;
        send(&self.out, GuestEvent::Snapshot(Box::new(snapshot)).into()).await;
    }

    /// Sends what follows; another snapshot whenever this session fell too far behind.
    async fn follow(mut self) -> SessionEnd {
        loop {
            match self.posts.recv().await {
                Ok(mut post) => {
                    if let GuestEvent::CloudInit(progress) = &mut post.event {
                        let told_now = u64::from(progress.line.is_some());
                        progress.dropped = (post.lines - self.lines_told).saturating_sub(told_now);
                        self.lines_told = post.lines;
                    }
                    send(&self.out, post.event.into()).await;
                }
                Err(RecvError::Lagged(_)) => self.send_snapshot().await,
                // The board is borrowed, so it lives.
                Err(RecvError::Closed) => return pending().await,
            }
        }
    }
}

async fn listen<D: Duties>(
    read: ReadHalf<LinkStream>,
    out: mpsc::Sender<Bytes>,
    duties: &D,
    ports_asked: watch::Sender<bool>,
) -> SessionEnd {
    let mut reader = MessageReader::new(read);
    let mut at_work = FuturesUnordered::new();
    loop {
        tokio::select! {
            message = reader.next::<HostMessage>() => match message {
                Err(end) => return end,
                Ok(HostMessage { kind: None }) => tracing::debug!("message of a later version ignored"),
                Ok(HostMessage { kind: Some(HostKind::Welcome(welcome)) }) => {
                    duties.welcome(welcome.into());
                }
                Ok(HostMessage { kind: Some(HostKind::Request(request)) }) => {
                    let id = request.id;
                    let request = match request.kind.map(Request::try_from).transpose() {
                        Ok(request) => request,
                        Err(error) => return error.into(),
                    };
                    if at_work.len() < MAX_AT_WORK {
                        at_work.push(work(duties, id, request));
                    } else {
                        let busy = Refusal("too many requests at once".to_owned());
                        send(&out, wire::response(id, Err(busy))).await;
                    }
                }
            },
            Some(done) = at_work.next() => {
                let begins_ports = done.asked_for_ports && done.response.is_ok();
                send(&out, wire::response(done.id, done.response)).await;
                if begins_ports {
                    ports_asked.send_replace(true);
                }
            }
        }
    }
}

/// A request that was answered.
struct Done {
    id: u64,
    asked_for_ports: bool,
    response: Response,
}

async fn work<D: Duties>(duties: &D, id: u64, request: Option<Request>) -> Done {
    let asked_for_ports = matches!(request, Some(Request::WatchPorts(_)));
    let response = match request {
        Some(Request::Ping) => Ok(()),
        Some(request) => duties.answer(request).await,
        None => Err(Refusal(
            "this guest agent does not know the request".to_owned(),
        )),
    };
    Done {
        id,
        asked_for_ports,
        response,
    }
}

async fn pass_flows<D: Duties>(mut incoming: Incoming, duties: &D) -> SessionEnd {
    while let Some((header, stream)) = incoming.accept().await {
        if header.kind() == FlowKind::Control {
            return MessageError::SecondControl.into();
        }
        duties.flow(header, stream);
    }
    pending().await
}

pub(super) async fn send(out: &mpsc::Sender<Bytes>, message: GuestMessage) {
    // The writer ends only together with the session.
    let _ = out.send(framed(&message)).await;
}
