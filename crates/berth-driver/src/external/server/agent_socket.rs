//! `ga.sock`: the guest agent, for clients that dial it by path, each as often as it likes.

use std::sync::Arc;

use berth_instance::dir::InstanceDir;
use berth_relay::accept;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use super::vm::Vm;
use crate::driver::Driver;
use crate::error::DriverError;
use crate::files::remove_all;
use crate::sys::{LocalListener, LocalStream};

/// Connections at the same time.
const MAX_CONNECTIONS: usize = 64;

/// Makes `ga.sock` lead to the guest agent until the VM is gone, unless it does already.
///
/// Each connection gets its own to the guest, made when it comes and closed when it goes.
pub(super) fn open(
    vm: &Arc<Vm>,
    dir: &InstanceDir,
    tasks: &TaskTracker,
) -> Result<(), DriverError> {
    let path = dir.ga_sock();
    remove_all([path.clone()])?;
    let listener = LocalListener::bind(&path).map_err(DriverError::io("listen on", &path))?;
    let (vm, calls) = (Arc::clone(vm), tasks.clone());
    tasks.spawn(async move {
        let over = vm.over.clone();
        over.run_until_cancelled(serve(listener, &vm, &calls)).await;
        if let Err(error) = remove_all([path]) {
            tracing::warn!(%error, "A socket stays behind.");
        }
    });
    Ok(())
}

async fn serve(listener: LocalListener, vm: &Arc<Vm>, tasks: &TaskTracker) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // Nobody closes the semaphore.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let told =
            |error| tracing::warn!(%error, "A connection to the guest agent was not accepted.");
        let stream = accept::next(|| listener.accept(), told).await;
        let (over, driver) = (vm.over.clone(), Arc::clone(&vm.driver));
        tasks.spawn(async move {
            over.run_until_cancelled(carry(stream, driver.as_ref()))
                .await;
            drop(place);
        });
    }
}

async fn carry(mut here: LocalStream, driver: &dyn Driver) {
    match driver.guest_agent_conn().await {
        Ok(Some(mut there)) => {
            // How a connection ends is between the two ends. Not `berth_relay::join`: local streams are no sockets everywhere.
            let _ = tokio::io::copy_bidirectional(&mut here, &mut there).await;
        }
        Ok(None) => tracing::warn!("The driver has no way to the guest agent."),
        Err(error) => tracing::debug!(%error, "The guest agent cannot be reached."),
    }
}
