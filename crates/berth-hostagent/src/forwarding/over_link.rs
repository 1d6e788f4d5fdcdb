//! Forwarded connections as streams of the guest link.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use berth_forward::address::GuestTarget;
use berth_forward::guest::{Dialer, GuestStream, ReverseListeners};
use berth_link::event::{Request, ReverseListener};
use berth_link::flow::{FlowHeader, FlowKind};
use berth_link::host::{LinkError, ReverseStreams};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::agent::Tasks;
use crate::error::chain;
use crate::guest::GuestLink;

/// Connections that wait for the reconciler, over all listeners.
const ACCEPTED: usize = 64;

/// The link as a way into the guest and out of it.
pub(crate) struct LinkCarrier {
    link: GuestLink,
    tasks: Tasks,
    session: watch::Receiver<Option<u64>>,
    listeners: Mutex<HashMap<u32, Listener>>,
    arrivals: mpsc::Sender<(u32, Box<dyn GuestStream>)>,
    accepted: tokio::sync::Mutex<mpsc::Receiver<(u32, Box<dyn GuestStream>)>>,
}

/// A listener in the guest, as long as this value lives.
struct Listener {
    /// Its name on the link.
    id: u32,
    _pump: DropGuard,
}

impl LinkCarrier {
    pub(crate) fn new(link: GuestLink, tasks: &Tasks) -> Arc<Self> {
        let (arrivals, accepted) = mpsc::channel(ACCEPTED);
        Arc::new(Self {
            session: link.sessions(tasks),
            link,
            tasks: tasks.clone(),
            listeners: Mutex::default(),
            arrivals,
            accepted: accepted.into(),
        })
    }

    fn listeners(&self) -> std::sync::MutexGuard<'_, HashMap<u32, Listener>> {
        // Only whole entries come and go.
        self.listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    async fn request(&self, request: Request) -> io::Result<()> {
        match self.link.handle.request(request).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(refusal)) => Err(io::Error::other(refusal)),
            Err(why) => Err(not_connected(why)),
        }
    }

    /// Passes the connections of one listener on, until its entry is dropped.
    fn pump(&self, id: u32, mut streams: ReverseStreams) -> DropGuard {
        let ended = CancellationToken::new();
        let stop = ended.clone();
        let (arrivals, cancel) = (self.arrivals.clone(), self.tasks.cancel.clone());
        self.tasks.tracker.spawn(async move {
            let pumped = async {
                while let Some(stream) = streams.next().await {
                    let stream: Box<dyn GuestStream> = Box::new(stream);
                    if arrivals.send((id, stream)).await.is_err() {
                        return;
                    }
                }
            };
            tokio::select! {
                () = pumped => {}
                () = stop.cancelled() => {}
                () = cancel.cancelled() => {}
            }
        });
        ended.drop_guard()
    }
}

#[async_trait]
impl Dialer for LinkCarrier {
    async fn dial(&self, target: &GuestTarget) -> io::Result<Box<dyn GuestStream>> {
        let stream = self.link.handle.open_stream(&header(target)?);
        Ok(Box::new(stream.map_err(not_connected)?))
    }

    async fn ready(&self) {
        let mut view = self.link.view.clone();
        if view.wait_for(|view| view.connected).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[async_trait]
impl ReverseListeners for LinkCarrier {
    async fn listen(&self, id: u32, path: &str) -> io::Result<()> {
        let streams = self.link.handle.take_reverse().map_err(not_connected)?;
        let listener = ReverseListener {
            id: streams.id(),
            path: path.to_owned(),
        };
        let entry = Listener {
            id: streams.id(),
            _pump: self.pump(id, streams),
        };
        // Before the guest listens: its first connection may come at once.
        self.listeners().insert(id, entry);
        let listening = self.request(Request::Listen(listener)).await;
        if listening.is_err() {
            self.listeners().remove(&id);
        }
        listening
    }

    async fn unlisten(&self, id: u32) -> io::Result<()> {
        let Some(listener) = self.listeners().remove(&id) else {
            return Ok(());
        };
        self.request(Request::Unlisten { id: listener.id }).await
    }

    async fn accept(&self) -> Option<(u32, Box<dyn GuestStream>)> {
        self.accepted.lock().await.recv().await
    }

    fn session(&self) -> watch::Receiver<Option<u64>> {
        self.session.clone()
    }
}

/// What a stream to this target begins with.
fn header(target: &GuestTarget) -> io::Result<FlowHeader> {
    let (kind, address) = match target {
        GuestTarget::Tcp(address) => (FlowKind::Tcp, address.to_string()),
        GuestTarget::Udp(address) => (FlowKind::Udp, address.to_string()),
        GuestTarget::Unix { path, as_root } => {
            let kind = if *as_root {
                FlowKind::UnixAsRoot
            } else {
                FlowKind::Unix
            };
            (kind, path.clone())
        }
    };
    FlowHeader::new(kind, address)
        .map_err(|why| io::Error::new(io::ErrorKind::InvalidInput, chain(&why)))
}

fn not_connected(why: LinkError) -> io::Error {
    let kind = match why {
        LinkError::Down | LinkError::Lost(_) | LinkError::Stopped => io::ErrorKind::NotConnected,
        LinkError::TimedOut(..) => io::ErrorKind::TimedOut,
        _ => io::ErrorKind::Other,
    };
    io::Error::new(kind, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_has_its_header() {
        let text = |target| header(&target).unwrap().to_string();
        let address = "[::1]:80".parse().unwrap();
        assert_eq!(text(GuestTarget::Tcp(address)), "tcp [::1]:80");
        assert_eq!(text(GuestTarget::Udp(address)), "udp [::1]:80");
        let unix = |as_root| GuestTarget::Unix {
            path: "/run/x.sock".to_owned(),
            as_root,
        };
        assert_eq!(text(unix(false)), "unix /run/x.sock");
        assert_eq!(text(unix(true)), "unix (as root) /run/x.sock");
    }

    #[test]
    fn a_path_that_is_too_long_is_refused_here() {
        let path = "/".repeat(300);
        let as_root = false;
        let refused = header(&GuestTarget::Unix { path, as_root }).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::InvalidInput);
    }
}
