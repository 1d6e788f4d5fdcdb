//! The contract between the host agent and whatever runs the VM.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use berth_config::model::Config;
use berth_instance::dir::InstanceDir;
use berth_process::identity::ProcessIdentity;
pub use berth_relay::Carrier;
use tokio::sync::{broadcast, watch};

use crate::error::DriverError;

/// What a driver is and can do. Cheap; known before the VM runs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DriverInfo {
    /// `qemu`, `vz`, …: also the stem of the VM's pid file.
    pub name: String,
    /// vsock port of the guest agent; 0: no vsock.
    pub vsock_port: u32,
    /// Name of the virtio-serial port of the guest agent; empty: none.
    pub virtio_port: String,
    /// The guest's first network.
    pub network: DefaultNetwork,
    /// Abilities and demands.
    pub features: DriverFeatures,
}

/// What the guest's first network interface is connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DefaultNetwork {
    /// A network of the driver's own, with Lima's addresses: the gateway leads to the host's loopback, where the host resolver
    /// listens.
    #[default]
    User,
    /// A network of somebody else's: its DHCP says who the router and the name server are, and the host's loopback is out of
    /// reach.
    Nat,
    /// Set up before the guest's own boot, interfaces and name servers included, and nobody tells where the host is.
    Ready,
}

/// Abilities and demands of a driver, with Lima's names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "a set of independent flags on Lima's wire"
)]
pub struct DriverFeatures {
    /// Shows a window on this host.
    pub can_run_gui: bool,
    /// The SSH address is known only after the start ([`Driver::ssh_address`]).
    pub dynamic_ssh_address: bool,
    /// The SSH port is the guest's own: it is chosen before the start, and sshd in the guest is told to listen there.
    pub static_ssh_port: bool,
    /// Unix sockets are not forwarded.
    pub skip_socket_forwarding: bool,
    /// cidata goes into a directory, and nobody runs cloud-init.
    pub no_cloud_init: bool,
    /// Rosetta is shared with the guest.
    pub rosetta_enabled: bool,
    /// Rosetta is registered with binfmt in the guest.
    pub rosetta_bin_fmt: bool,
    /// Disk formats that need no conversion.
    pub supported_image_formats: Vec<String>,
}

/// How SSH gets a port on the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SshPort {
    /// The configuration names it: busy is an error.
    Configured(u16),
    /// Try this one (the last start's), else any free one.
    Preferred(u16),
    /// Any free one.
    Any,
}

/// Something the VM did by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum VmEvent {
    /// The guest opened or closed its end of the agent's port.
    AgentPort {
        /// Whether the guest's end is open now.
        open: bool,
    },
    /// The guest reset itself: everything inside starts anew.
    Reset,
    /// The guest shuts down.
    Shutdown,
    /// The VM was paused or resumed (by a person or by host sleep).
    Paused(bool),
}

/// How and why the VM ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmExit {
    /// Exit code or signal in words, e.g. `exit status 1`, `killed by signal 9`; `None` for a clean end.
    pub failure: Option<String>,
    /// Last lines that the VM process wrote to stderr, escaped.
    pub stderr_tail: String,
}

/// How far [`Driver::stop`] goes, and how long each rung lasts.
#[derive(Debug, Clone)]
pub struct StopLadder {
    /// Wait after the ACPI power button; zero skips the rung.
    pub power_down: Duration,
    /// Wait after `quit` / SIGTERM to the VM process.
    pub quit: Duration,
    /// Set to `true` to go down to the last rung at once (a second signal).
    pub hurry: watch::Receiver<bool>,
}

impl StopLadder {
    /// The last rung and no other: for a VM that nobody uses yet.
    #[must_use]
    pub fn at_once() -> Self {
        Self {
            power_down: Duration::ZERO,
            quit: Duration::ZERO,
            hurry: watch::channel(true).1,
        }
    }
}

/// What every start needs beside the configuration.
#[derive(Debug, Clone)]
pub struct DriverContext {
    /// Instance name.
    pub name: String,
    /// Its directory.
    pub dir: InstanceDir,
    /// Its configuration, as resolved before the driver's own defaults.
    pub config: Arc<Config>,
    /// The host.
    pub platform: Arc<berth_config::platform::HostPlatform>,
    /// The process environment that the driver may look at (`QEMU_SYSTEM_*`, `PATH`, `BERTH_QEMU_ACCEL`), as pairs.
    pub env: Arc<Vec<(String, String)>>,
}

/// One configured driver: one VM of one instance.
///
/// Shared by the control loop, the HTTP API and the guest link, so every method takes `&self`; none blocks the thread. A driver
/// is dropped only after [`Driver::stop`], or when a start failed, in which case it left no process behind.
#[async_trait]
pub trait Driver: Send + Sync {
    /// What this driver is.
    fn info(&self) -> &DriverInfo;

    /// The configuration after the driver's own defaults (mount type, VNC display, …).
    fn config(&self) -> &Arc<Config>;

    /// Refuses what the driver cannot do; every problem, not just the first. Runs before anything is written.
    fn validate(&self) -> Result<Vec<String>, DriverError>;

    /// Whether there is a root disk, or the image that it is made from: if not, an image is fetched. `None`: the files of the
    /// instance tell.
    async fn holds_system(&self) -> Result<Option<bool>, DriverError> {
        Ok(None)
    }

    /// Makes the root disk from the downloaded image and grows it; a no-op when the disk is there with the right size.
    async fn prepare_disk(&self) -> Result<(), DriverError>;

    /// What of the VM's helpers has ended before it, in words for people, while the VM runs. Asked once it runs.
    fn troubles(&self) -> Option<watch::Receiver<Vec<String>>> {
        None
    }

    /// Starts the VM process and returns once it runs and answers (for QEMU: after QMP's greeting). Does not wait for the
    /// guest. On error nothing runs. The future may be dropped at any point (a signal during the start): [`Driver::stop`]
    /// then ends whatever was begun.
    async fn start(&self) -> Result<RunningVm, DriverError>;

    /// Opens the way to the guest's sshd and says where it is on the host.
    async fn ssh_address(&self, port: SshPort) -> Result<SocketAddr, DriverError>;

    /// Connects to the guest agent over the driver's own carrier. `None`: there is none, use SSH.
    async fn guest_agent_conn(&self) -> Result<Option<Box<dyn Carrier>>, DriverError>;

    /// Whether Lima's guest agent must be reached through an SSH-forwarded socket.
    fn forward_guest_agent(&self) -> bool {
        let info = self.info();
        info.vsock_port == 0 && info.virtio_port.is_empty()
    }

    /// The socket on this host that [`Driver::guest_agent_conn`] connects to, if it is one: others may connect there, too.
    fn agent_socket(&self) -> Option<PathBuf> {
        None
    }

    /// Whether [`Driver::guest_agent_conn`] leads to berth's own guest agent. Without that only Lima's can be used, over SSH.
    fn has_agent_carrier(&self) -> bool {
        true
    }

    /// Scripts that the guest runs at each boot, for this driver's sake: file name in the cidata volume to text.
    async fn boot_scripts(&self) -> Result<BTreeMap<String, String>, DriverError> {
        Ok(BTreeMap::new())
    }

    /// Sets the VNC password.
    async fn change_display_password(&self, password: &str) -> Result<(), DriverError>;

    /// The TCP port that the VNC server really listens on.
    async fn display_port(&self) -> Result<u16, DriverError>;

    /// A picture of the display in PNG, or [`DriverError::NoDisplay`] / [`DriverError::Unsupported`].
    async fn screenshot(&self) -> Result<Vec<u8>, DriverError>;

    /// Powers the VM down, and down the ladder until it is gone. Idempotent; removes the files of the VM's life.
    async fn stop(&self, ladder: StopLadder) -> Result<(), DriverError>;

    /// Snapshots (`qemu-img` or QMP, by whether the VM runs).
    async fn snapshot(&self, action: SnapshotAction) -> Result<String, DriverError>;
}

/// A VM that was started.
#[derive(Debug)]
pub struct RunningVm {
    /// Who it is; recorded in `berth.json`.
    pub identity: ProcessIdentity,
    /// Becomes `Some` when the VM is gone, for whatever reason. The asynchronous error channel.
    pub exit: watch::Receiver<Option<VmExit>>,
    /// What the VM does by itself.
    pub events: broadcast::Receiver<VmEvent>,
}

/// What to do with a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SnapshotAction {
    /// Make one with this tag.
    Create(String),
    /// Go back to the one with this tag.
    Apply(String),
    /// Delete the one with this tag.
    Delete(String),
    /// List them, in `qemu-img`'s table.
    List,
}
