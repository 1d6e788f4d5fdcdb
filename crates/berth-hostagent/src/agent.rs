//! One host agent: everything it owns, and small questions about it.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use berth_cidata::AgentKind;
use berth_config::model::Config;
use berth_config::platform::HostOs;
use berth_driver::driver::{Driver, RunningVm, SshPort, VmExit};
use berth_events::board::Board;
use berth_events::event::{VsockEvent, VsockKind};
use berth_forward::forwarders::Forwarders;
use berth_forward::reconcile::ForwardsHandle;
use berth_instance::dir::InstanceDir;
use berth_instance::home::LimaHome;
use berth_instance::record::{Record, VmRecord};
use berth_ssh::exec::{ExecError, Output, Script};
use berth_ssh::session::Session;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::cleanup::Cleanups;
use crate::error::AgentError;
use crate::guest::GuestLink;
use crate::lima_agent::LimaAgent;
use crate::master::{MasterHandle, MasterState};
use crate::names::{HostResolver, ServedNames};
use crate::report::Evidence;

pub(crate) use crate::ssh_setup::SshSetup;

/// The agent's tasks: every one is tracked, and ends when `cancel` is cancelled.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    /// Waits for all of them.
    pub tracker: TaskTracker,
    /// Ends all of them.
    pub cancel: CancellationToken,
}

/// Which agent the guest runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GuestAgentKind {
    /// Ours, over the link.
    Berth,
    /// Lima's, by gRPC through `ga.sock`.
    Lima,
    /// None: plain mode, or no binary for the guest.
    None,
}

impl GuestAgentKind {
    pub(crate) fn of(travelling: &AgentKind) -> Self {
        match travelling {
            AgentKind::Berth(_) => Self::Berth,
            AgentKind::Lima(_) => Self::Lima,
            AgentKind::None => Self::None,
        }
    }
}

/// A constructed agent: bound, written and checked, but nothing runs yet. [`HostAgent::run`] uses it up.
pub struct HostAgent {
    pub(crate) name: String,
    pub(crate) home: LimaHome,
    pub(crate) dir: InstanceDir,
    pub(crate) config: Arc<Config>,
    pub(crate) host_os: HostOs,
    /// The user's number on the host.
    pub(crate) host_uid: u32,
    /// The variable PATH.
    pub(crate) path: String,
    pub(crate) record: Mutex<Record>,
    pub(crate) driver: Arc<dyn Driver>,
    pub(crate) agent_kind: GuestAgentKind,
    pub(crate) ssh_port: SshPort,
    /// Bound, and not answering yet.
    pub(crate) resolver: HostResolver,
    pub(crate) forwarders: Forwarders,
    pub(crate) ssh: SshSetup,
    pub(crate) progress: bool,
    pub(crate) board: Arc<Board>,
    pub(crate) cleanups: Arc<Cleanups>,
    pub(crate) tasks: Tasks,
    pub(crate) live: Live,
}

/// What becomes known only while running, each once.
#[derive(Debug, Default)]
pub(crate) struct Live {
    pub(crate) ssh_address: OnceLock<SocketAddr>,
    pub(crate) session: OnceLock<Arc<Session>>,
    pub(crate) guest: OnceLock<GuestLink>,
    pub(crate) master: OnceLock<MasterHandle>,
    pub(crate) lima: OnceLock<LimaAgent>,
    /// See [`crate::file_events::secret`].
    pub(crate) touch: OnceLock<Option<u32>>,
    pub(crate) exit: OnceLock<watch::Receiver<Option<VmExit>>>,
    /// Shared with the API, which shows them.
    pub(crate) forwards: Arc<OnceLock<ForwardsHandle>>,
    /// Likewise.
    pub(crate) names: Arc<OnceLock<ServedNames>>,
}

impl fmt::Debug for HostAgent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HostAgent")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// sshd's port of vsock, where the driver reaches it that way.
const SSH_OVER_VSOCK: u32 = 22;

/// Limits of the cleanups registered here.
const MASTER_STOP: Duration = Duration::from_secs(10);

impl HostAgent {
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// This start's instance id, which marker files in the guest carry.
    pub(crate) fn instance_id(&self) -> String {
        self.record().instance_id.clone().unwrap_or_default()
    }

    fn record(&self) -> std::sync::MutexGuard<'_, Record> {
        self.record
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Notes who the VM is, so that it is recognised even if this agent is killed.
    pub(crate) fn remember_vm(&self, vm: &RunningVm) -> Result<(), AgentError> {
        // The first of its kind, so it cannot be set already.
        let _ = self.live.exit.set(vm.exit.clone());
        let mut record = self.record();
        record.vm = Some(VmRecord {
            driver: self.driver.info().name.clone(),
            identity: vm.identity.clone(),
        });
        record
            .save(&self.dir)
            .map_err(AgentError::set_up("note who the VM is"))
    }

    /// Forgets the VM and unlocks its disks; called when it is gone.
    pub(crate) fn forget_vm(&self) -> Vec<String> {
        let mut errors = Vec::new();
        let mut record = self.record();
        if let Some(vm) = record.vm.as_ref().filter(|vm| vm.identity.is_alive()) {
            return vec![format!(
                "the VM (pid {}) is still alive; its disks stay locked",
                vm.identity.pid
            )];
        }
        (record.vm, record.agent) = (None, None);
        if let Err(why) = record.save(&self.dir) {
            errors.push(crate::error::chain(&why));
        }
        for disk in &self.config.additional_disks {
            if let Err(why) = self.home.disk(&disk.name).unlock(&self.dir) {
                errors.push(crate::error::chain(&why));
            }
        }
        errors
    }

    /// Locks the additional disks, so that no second VM writes to them.
    pub(crate) fn lock_disks(&self) -> Result<(), AgentError> {
        for disk in &self.config.additional_disks {
            let locked = self.home.disk(&disk.name).lock(&self.dir);
            locked.map_err(AgentError::set_up("lock the additional disks"))?;
        }
        Ok(())
    }

    /// Opens the way to sshd, writes `ssh.config`, and starts the owner of the ControlMaster.
    pub(crate) async fn open_ssh(&mut self) -> Result<(), AgentError> {
        let address = self.driver.ssh_address(self.ssh_port).await?;
        {
            let mut record = self.record();
            if record.ssh_local_port != Some(address.port()) {
                record.ssh_local_port = Some(address.port());
                record
                    .save(&self.dir)
                    .map_err(AgentError::set_up("note the SSH port"))?;
            }
        }
        self.forwarders.ssh_port_is(address.port());
        let session = Arc::new(self.ssh.open(&self.dir, address)?);
        let _ = self.live.ssh_address.set(address);
        let _ = self.live.session.set(session);
        self.board.booting(address.port());
        let info = self.driver.info();
        if info.vsock_port != 0 && !info.features.dynamic_ssh_address {
            self.board.vsock(VsockEvent {
                kind: VsockKind::Started,
                host_addr: address.to_string(),
                vsock_port: SSH_OVER_VSOCK,
                reason: String::new(),
            });
        }
        Ok(())
    }

    /// VNC, when the configuration asks for it.
    pub(crate) async fn set_up_vnc(&self) -> Result<(), AgentError> {
        if self.config.video.display != "vnc" {
            return Ok(());
        }
        let mut random = [0; 32];
        getrandom::fill(&mut random).map_err(AgentError::set_up("make a VNC password"))?;
        let display = &self.config.video.vnc.display;
        crate::vnc::set_up(self.driver.as_ref(), &self.dir, display, &random).await
    }

    /// Starts the ways to the guest (the link or Lima's gRPC, the ControlMaster), and registers how they end.
    pub(crate) fn connect_guest(&self, vm: &mut RunningVm) {
        if self.agent_kind == GuestAgentKind::Berth {
            let driver = Arc::clone(&self.driver);
            let events = vm.events.resubscribe();
            let link = GuestLink::start(driver, events, Arc::clone(&self.board), &self.tasks);
            crate::time_sync::start(&link, vm.events.resubscribe(), &self.tasks);
            let _ = self.live.guest.set(link);
        }
        let Some(session) = self.live.session.get() else {
            return;
        };
        let view = self.live.guest.get().map(|link| link.view.clone());
        // A login that begins early has an agent of its own, and so could not forward the user's.
        let early_key = (!self.config.ssh.forward_agent).then(|| self.ssh.user_key().to_path_buf());
        let master = MasterHandle::start(Arc::clone(session), early_key, view, &self.tasks);
        let ending = master.clone();
        self.cleanups
            .register("ssh master", MASTER_STOP, move || async move {
                ending.stop().await;
                Ok(())
            });
        if self.agent_kind == GuestAgentKind::Lima {
            self.connect_lima_agent(&master, vm.events.resubscribe());
        }
        let _ = self.live.master.set(master);
    }

    /// Whether commands can be run in the guest.
    pub(crate) fn logged_in(&self) -> bool {
        self.live.master.get().is_some_and(MasterHandle::is_up)
    }

    /// Runs a script in the guest, through the ControlMaster.
    pub(crate) async fn exec(&self, script: &Script, limit: Duration) -> Result<Output, ExecError> {
        match self.live.session.get() {
            Some(session) => session.run(script, limit).await,
            None => Err(ExecError::NotConnected),
        }
    }

    /// How far the guest has come, for a person who asks why it is late.
    pub(crate) fn evidence(&self) -> String {
        let view = self.live.guest.get().map(|link| link.view.borrow().clone());
        let ssh_stage = self
            .live
            .master
            .get()
            .and_then(|m| match &*m.state.borrow() {
                MasterState::Up { .. } => Some("logged in".to_owned()),
                MasterState::Down { why, .. } => why.clone(),
            });
        let exit = self.live.exit.get();
        Evidence {
            vm_alive: exit.is_some_and(|exit| exit.borrow().is_none()),
            serial_log: self.dir.serial_log(),
            ssh: self.live.ssh_address.get().copied(),
            ssh_stage,
            guest: view.as_ref(),
        }
        .describe()
    }

    /// Writes the timeline beside the instance, for `berth status --timeline`.
    pub(crate) fn save_timeline(&self) {
        let timeline = self.board.timeline();
        let written = serde_json::to_vec_pretty(&timeline)
            .map_err(std::io::Error::other)
            .and_then(|bytes| {
                berth_instance::files::write_atomic(&self.dir.timeline(), &bytes, 0o644)
            });
        if let Err(why) = written {
            tracing::warn!(error = %why, "the timeline was not saved");
        }
    }
}
