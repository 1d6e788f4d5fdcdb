//! The guest agent's bell. vsock has no event for "somebody listens now": a connection that comes too early is accepted by the
//! program and closed again. So the agent connects to a port of the host once it listens, which is all it has to say.

use std::io;
use std::path::Path;
use std::time::Duration;

use berth_relay::accept;
use tokio::sync::broadcast;

use crate::driver::VmEvent;
use crate::life::Life;
use crate::sys::LocalListener;

/// A guest that rings without end is heard ten times a second.
const PAUSE: Duration = Duration::from_millis(100);

/// Listens, and makes an event of each ring.
pub(super) fn hang(
    socket: &Path,
    events: broadcast::Sender<VmEvent>,
    life: &Life,
) -> io::Result<()> {
    let listener = LocalListener::bind(socket)?;
    life.tasks().spawn(async move {
        loop {
            let told = |error| tracing::warn!(%error, "The guest agent's bell is out of order.");
            drop(accept::next(|| listener.accept(), told).await);
            // Nobody listens for events: nobody waits for the agent.
            let _ = events.send(VmEvent::AgentPort { open: true });
            tokio::time::sleep(PAUSE).await;
        }
    });
    Ok(())
}
