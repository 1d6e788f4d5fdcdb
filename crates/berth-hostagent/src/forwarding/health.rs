//! A way into the guest that stays away is a cause of degradation, until it is back.

use std::sync::Arc;
use std::time::Duration;

use berth_events::board::Board;
use tokio::sync::watch;

use crate::agent::Tasks;

/// Longer than a restart of the guest agent takes.
const PATIENCE: Duration = Duration::from_secs(5);

/// Watches the way to the guest agent whose service has this name, until the host agent ends.
pub(super) fn watch(
    service: &'static str,
    mut gone: watch::Receiver<bool>,
    board: Arc<Board>,
    tasks: &Tasks,
) {
    let cause = format!(
        "the guest agent is not connected: no port is forwarded, and no change in the guest is seen; see `journalctl -u {service}` in the guest"
    );
    let cancel = tasks.cancel.clone();
    tasks.tracker.spawn(async move {
        let watching = async {
            loop {
                if gone.wait_for(|gone| *gone).await.is_err() {
                    return;
                }
                let back = tokio::time::timeout(PATIENCE, gone.wait_for(|gone| !gone)).await;
                match back.map(|back| back.is_ok()) {
                    Ok(true) => continue,
                    Ok(false) => return,
                    Err(_) => board.degrade(&cause),
                }
                if gone.wait_for(|gone| !gone).await.is_err() {
                    return;
                }
                board.heal(&cause);
            }
        };
        cancel.run_until_cancelled(watching).await;
    });
}
