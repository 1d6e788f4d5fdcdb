//! Serving a driver of berth to whoever speaks Lima's contract: Lima's command line, Lima's host agent, or berth.
//!
//! One process for each instance, as long as its client wants it. The VM lives on the stream of `Start`, as Lima's do: when the
//! client goes, the VM is stopped, in order if that takes less than eight seconds.

mod agent_socket;
mod configure;
mod service;
mod vm;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use berth_config::model::VmType;
use berth_config::platform::HostPlatform;
use berth_instance::dir::InstanceDir;
use berth_relay::accept;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::create::create_internal;
use crate::driver::{Driver, DriverContext};
use crate::error::DriverError;
use crate::external::files;
use crate::files::remove_all;
use crate::sys::LocalListener;
use service::DriverService;

/// How long a VM without a client may take to power itself down, and then its process to quit. Together less than the ten seconds
/// after which Lima kills a driver's process.
const PATIENCE: (Duration, Duration) = (Duration::from_secs(7), Duration::from_secs(1));

/// How long calls under way may take when the server ends.
const LAST_CALLS: Duration = Duration::from_secs(1);

/// Makes the driver of an instance.
pub type MakeDriver =
    dyn Fn(DriverContext) -> Result<Box<dyn Driver>, DriverError> + Send + Sync + 'static;

/// What is served, and to whom.
#[derive(Clone)]
pub struct ServerOptions {
    /// The name by which the driver is found: `vmType` of its instances.
    pub name: String,
    /// The driver of berth behind it.
    pub engine: VmType,
    /// The instance.
    pub dir: InstanceDir,
    /// The host.
    pub platform: Arc<HostPlatform>,
    /// The process environment.
    pub env: Arc<Vec<(String, String)>>,
    /// Makes the driver: [`of_berth`], or a test's own.
    pub make: Arc<MakeDriver>,
}

impl fmt::Debug for ServerOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerOptions")
            .field("name", &self.name)
            .field("engine", &self.engine)
            .field("dir", &self.dir)
            .finish_non_exhaustive()
    }
}

/// Makes berth's own drivers. `cache_dir` as for [`crate::create_driver`].
#[must_use]
pub fn of_berth(cache_dir: PathBuf) -> Arc<MakeDriver> {
    Arc::new(move |context| create_internal(context, &cache_dir))
}

/// The driver of berth that a name stands for: its own name, or that after `berth-`, for a host that has one of that name itself.
#[must_use]
pub fn engine_of(name: &str) -> Option<VmType> {
    let engine = VmType::from(name.strip_prefix("berth-").unwrap_or(name).to_owned());
    (!matches!(engine, VmType::External(_))).then_some(engine)
}

/// Serves until `stop`. Then the VM is stopped, calls under way end, and the socket goes.
pub async fn serve(options: ServerOptions, stop: CancellationToken) -> Result<(), DriverError> {
    let socket = files::socket(&options.dir, &options.name);
    remove_all([socket.clone()])?;
    let listener = LocalListener::bind(&socket).map_err(DriverError::io("listen on", &socket))?;
    tracing::info!(driver = options.name, socket = %socket.display(), "Serving.");
    let service = Arc::new(DriverService::new(options));
    let (connections, closing) = (TaskTracker::new(), CancellationToken::new());
    let accepting = async {
        loop {
            let told = |error| tracing::warn!(%error, "A connection was not accepted.");
            let stream = accept::next(|| listener.accept(), told).await;
            let serving = Arc::clone(&service);
            let (calls, closing) = (connections.clone(), closing.clone());
            connections.spawn(async move {
                let served = berth_grpc::server::serve(stream, serving, &calls, closing);
                if let Err(error) = served.await {
                    tracing::warn!(%error, "A connection broke.");
                }
            });
        }
    };
    let () = stop
        .run_until_cancelled(accepting)
        .await
        .unwrap_or_default();
    tracing::info!("Stopping.");
    drop(listener);
    closing.cancel();
    service.end().await;
    connections.close();
    if tokio::time::timeout(LAST_CALLS, connections.wait())
        .await
        .is_err()
    {
        tracing::warn!("Some calls did not end.");
    }
    remove_socket(&socket)
}

fn remove_socket(socket: &Path) -> Result<(), DriverError> {
    remove_all([socket.to_owned()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stands_for_a_driver_of_ours() {
        assert_eq!(engine_of("qemu"), Some(VmType::Qemu));
        assert_eq!(engine_of("berth-qemu"), Some(VmType::Qemu));
        assert_eq!(engine_of("berth-vz"), Some(VmType::Vz));
        assert_eq!(engine_of("mine"), None);
        assert_eq!(engine_of("berth-"), None);
    }
}
