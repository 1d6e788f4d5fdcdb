//! Streams that the guest opens, for those who asked for them.

use std::collections::HashMap;
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::mpsc;

use super::LinkError;
use crate::flow::FlowHeader;
use crate::frame::ResetCode;
use crate::mux::{Incoming, LinkStream};
use crate::session::SessionEnd;

/// Connections to one listener that wait for their taker; more are reset.
const WAITING: usize = 64;

/// Connections to one listener in the guest, over all sessions. Dropping it resets all that follow.
///
/// The listener itself ends with each session: ask for it again ([`crate::event::Request::Listen`]) whenever the link is up.
#[derive(Debug)]
pub struct ReverseStreams {
    id: u32,
    streams: mpsc::Receiver<LinkStream>,
    takers: WeakTakers,
}

impl ReverseStreams {
    /// What to call the listener in [`crate::event::ReverseListener`].
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Waits for the next connection; `None` when the link was shut down. Cancel-safe.
    pub async fn next(&mut self) -> Option<LinkStream> {
        self.streams.recv().await
    }
}

impl Drop for ReverseStreams {
    fn drop(&mut self) {
        if let Some(takers) = self.takers.0.upgrade() {
            lock(&takers).by_listener.remove(&self.id);
        }
    }
}

/// Who takes which listener's connections. The owner of the link holds it; when that is gone, so are the takers.
#[derive(Debug, Default)]
pub(super) struct Takers(Arc<Mutex<Register>>);

/// The way to [`Takers`] for handles.
#[derive(Debug, Clone)]
pub(super) struct WeakTakers(Weak<Mutex<Register>>);

#[derive(Debug, Default)]
struct Register {
    last: u32,
    by_listener: HashMap<u32, mpsc::Sender<LinkStream>>,
}

fn lock(register: &Mutex<Register>) -> MutexGuard<'_, Register> {
    register.lock().unwrap_or_else(PoisonError::into_inner)
}

impl WeakTakers {
    /// Registers a taker under a listener id that nobody has.
    pub(super) fn register(&self) -> Result<ReverseStreams, LinkError> {
        let takers = self.0.upgrade().ok_or(LinkError::Stopped)?;
        let mut register = lock(&takers);
        loop {
            register.last = register.last.wrapping_add(1);
            if !register.by_listener.contains_key(&register.last) {
                break;
            }
        }
        let id = register.last;
        let (sender, streams) = mpsc::channel(WAITING);
        register.by_listener.insert(id, sender);
        Ok(ReverseStreams {
            id,
            streams,
            takers: self.clone(),
        })
    }
}

impl Takers {
    pub(super) fn downgrade(&self) -> WeakTakers {
        WeakTakers(Arc::downgrade(&self.0))
    }

    /// Hands over what the guest opens, until the session is over.
    pub(super) async fn pass(&self, mut incoming: Incoming) -> SessionEnd {
        while let Some((header, stream)) = incoming.accept().await {
            if let Err((stream, code)) = self.hand_over(&header, stream) {
                tracing::debug!(?code, "a stream of the guest was refused");
                stream.reset(code);
            }
        }
        // The session is over; its driver says why.
        pending().await
    }

    fn hand_over(
        &self,
        header: &FlowHeader,
        stream: LinkStream,
    ) -> Result<(), (LinkStream, ResetCode)> {
        let taker = header
            .listener()
            .and_then(|id| lock(&self.0).by_listener.get(&id).cloned());
        let Some(taker) = taker else {
            return Err((stream, ResetCode::Unsupported));
        };
        taker.try_send(stream).map_err(|error| match error {
            mpsc::error::TrySendError::Full(stream) => (stream, ResetCode::TooMany),
            mpsc::error::TrySendError::Closed(stream) => (stream, ResetCode::Unsupported),
        })
    }
}
