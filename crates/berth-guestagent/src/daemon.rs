//! The agent as a service: boot steps, stages and the link, side by side on one thread, until systemd ends it.
//!
//! After the boot nothing of this wakes up by itself: the link waits for the host, and the rest has ended.

use std::error::Error;
use std::fs;
use std::future::pending;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::str::FromStr as _;
use std::time::Duration;

use berth_link::apart;
use berth_link::boot::BootSpec;
use berth_link::event::{BootId, Stage, StepOutcome, StepReport};
use berth_link::guest::{
    Board, GuestIdentity, Port, VsockListener, open_port, ring_over_vsock, serve,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::args::{Options, chain};
use crate::boot::{self, Site, public_host_keys};
use crate::clock::uptime;
use crate::cloud_init::Follower;
use crate::console::Console;
use crate::duties::{HostDuties, PortWatch};
use crate::files::failed;
use crate::guest::Guest;
use crate::install::become_current;
use crate::mounts::Mounts;
use crate::ports;
use crate::progress::{Progress, RUNTIME_DIRECTORY};
use crate::ready::Readiness;
use crate::runtime;
use crate::stages::{STAGE_LIMIT, login, network, sshd};
use crate::tunnels::Tunnels;
use crate::volume;
use crate::vsock_ssh;
use crate::watch::{Wait, WaitError};

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const KERNEL_RELEASE: &str = "/proc/sys/kernel/osrelease";
const PORTS: &str = "/dev/virtio-ports";
/// There as soon as the kernel knows vsock.
const VSOCK_DEVICE: &str = "/dev/vsock";

/// Without the volume there are no keys to wait for: so long sshd may be held up for it.
const PATIENCE_OF_SSHD: Duration = Duration::from_secs(3);

/// How long the port to the host may take to appear.
const PORT_LIMIT: Duration = Duration::from_mins(10);

/// Runs the agent until a signal ends it.
pub(crate) fn run(options: &Options, readiness: &Readiness) -> Result<(), Box<dyn Error>> {
    runtime::new()?.block_on(Agent::new(options, readiness)?.run())
}

/// The agent's parts, each used by several of the futures that make up its life.
struct Agent<'a> {
    options: &'a Options,
    readiness: &'a Readiness,
    guest: Guest,
    board: Board,
    progress: Progress,
    follower: Follower,
    tunnels: Tunnels,
    mounts: Mounts,
    port_watch: PortWatch,
}

impl<'a> Agent<'a> {
    fn new(options: &'a Options, readiness: &'a Readiness) -> Result<Self, Box<dyn Error>> {
        let identity = identity()?;
        let boot_id = identity.boot_id.to_string();
        let board = Board::new(identity);
        let directory = Path::new(RUNTIME_DIRECTORY);
        let progress = Progress::open(
            directory,
            &boot_id,
            Some(board.clone()),
            Console::of_guest(),
        )?;
        progress.reach(Stage::KernelUp);
        let guest = Guest::here();
        Ok(Self {
            options,
            readiness,
            tunnels: Tunnels::new(&guest),
            mounts: Mounts::new(&guest),
            guest,
            board,
            progress,
            follower: Follower::default(),
            port_watch: PortWatch::default(),
        })
    }

    async fn run(self) -> Result<(), Box<dyn Error>> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let cancel = CancellationToken::new();
        let work = async {
            tokio::join!(
                self.link(cancel.clone()),
                apart(self.boot()),
                apart(self.follower.run(&self.guest, &self.board)),
                apart(self.watch_ports()),
            );
            pending::<()>().await;
        };
        let mut work = pin!(work);
        let told_to_end = apart(async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        });
        tokio::select! {
            () = &mut work => {}
            () = told_to_end => {}
        }
        // Over the link, which must be served meanwhile.
        tokio::select! {
            () = &mut work => {}
            () = self.mounts.close() => {}
        }
        cancel.cancel();
        self.tunnels.close().await;
        tracing::info!("told to end");
        Ok(())
    }

    /// Tells the host which ports there are, from the moment it asks.
    async fn watch_ports(&self) {
        ports::watch(&self.guest, self.port_watch.interest(), |sockets| {
            self.board.set_ports(sockets);
            self.port_watch.told();
        })
        .await;
    }

    /// Serves the host as long as there is a port.
    async fn link(&self, cancel: CancellationToken) {
        let vsock = self.options.vsock_port();
        let path = match vsock {
            Some(_) => PathBuf::from(VSOCK_DEVICE),
            None => PathBuf::from(PORTS).join(&self.options.port),
        };
        let paths = [path.clone()];
        let appears = Wait {
            what: "the port to the host",
            paths: &paths,
            limit: PORT_LIMIT,
            tick: None,
        };
        if let Err(why) = appears.until(|| path.exists().then_some(())).await {
            tracing::error!("there is no link to the host: {}", chain(&why));
            return;
        }
        match vsock {
            Some(number) => self.link_over_vsock(&path, number, cancel).await,
            None => match open_port(&path) {
                Ok(port) => self.serve(port, cancel).await,
                Err(why) => tracing::error!("there is no link to the host: {}", chain(&why)),
            },
        }
    }

    /// Listens for the host, tells it so, and passes its connections to sshd on.
    async fn link_over_vsock(&self, device: &Path, number: u32, cancel: CancellationToken) {
        let listener = match VsockListener::bind(device, number) {
            Ok(listener) => listener,
            Err(why) => {
                tracing::error!("there is no link to the host: vsock port {number}: {why}");
                return;
            }
        };
        let bell = async {
            if let Err(why) = ring_over_vsock(device, number + 1).await {
                // A host without a bell, or one that is away.
                tracing::debug!("the host was not told that the agent listens: {why}");
            }
        };
        if self.options.is_shared_vsock() {
            // The other ports are another guest's as much as ours.
            return self.serve(Port::over_vsock(listener), cancel).await;
        }
        let sshd = vsock_ssh::serve(device, cancel.clone());
        tokio::join!(
            self.serve(Port::over_vsock(listener), cancel),
            apart(bell),
            apart(sshd),
        );
    }

    async fn serve(&self, port: Port, cancel: CancellationToken) {
        let duties = HostDuties::new(
            &self.follower,
            &self.tunnels,
            &self.mounts,
            &self.port_watch,
        );
        if let Err(why) = serve(port, self.board.clone(), &duties, cancel).await {
            tracing::error!("the link to the host is over: {}", chain(&why));
        }
    }

    /// Applies what the host asks for, and watches how far the guest's own boot is.
    async fn boot(&self) {
        let guest = &self.guest;
        if self.progress.is_resumed() {
            // The agent before this one has let sshd start.
            self.let_sshd_start();
        }
        let spec = self.spec().await;
        let spec = spec.as_ref();
        let steps = async {
            if let Some(spec) = spec {
                self.steps(spec).await;
            }
        };
        let user = async {
            if let Some(spec) = spec {
                self.note(
                    Stage::UserReady,
                    login::ready(spec, guest, STAGE_LIMIT).await,
                );
            }
        };
        let network = async {
            let first = spec.and_then(|spec| spec.nics.first());
            self.note(Stage::NetworkUp, network::up(first, STAGE_LIMIT).await);
        };
        let sshd = async {
            let listening = sshd::listening(guest, spec.map(|spec| spec.ssh_port)).await;
            // Whoever made them, now they are final.
            self.tell_host_keys();
            self.note(Stage::SshListening, listening);
        };
        // In this order: the first two only look; sshd's keys are put in place before anybody asks for sshd.
        tokio::join!(network, user, steps, sshd);
    }

    /// What the host asks for; `None` when it cannot be read, which the host is told.
    async fn spec(&self) -> Option<BootSpec> {
        let mut opening = pin!(volume::open(&self.guest, &self.options.cidata));
        let opened = if let Ok(opened) = timeout(PATIENCE_OF_SSHD, &mut opening).await {
            opened
        } else {
            self.let_sshd_start();
            opening.await
        };
        // Before the volume is judged: a newer one is for the agent that it brings.
        if let Err(why) = become_current(&self.options.cidata, self.options) {
            tracing::warn!("the agent in the volume is not installed: {}", chain(&why));
        }
        match opened {
            Ok(spec) => {
                self.board.set_instance_id(&spec.instance_id);
                self.tunnels.set_user(&spec.user.name);
                self.mounts.set_user(&spec.user.name);
                Some(spec)
            }
            Err(why) => {
                self.let_sshd_start();
                self.report_failure("cidata", &chain(&why));
                None
            }
        }
    }

    async fn steps(&self, spec: &BootSpec) {
        let site = Site {
            spec,
            guest: &self.guest,
            volume: &self.options.cidata,
            readiness: self.readiness,
        };
        let steps = async {
            if let Err(why) = boot::run(&site, &self.progress).await {
                self.let_sshd_start();
                self.report_failure("boot-steps", &chain(&why));
            }
        };
        tokio::join!(steps, boot::keep_host_resolver(&site));
    }

    fn let_sshd_start(&self) {
        if let Err(why) = self.readiness.tell() {
            tracing::warn!("could not tell systemd that the agent is ready: {why}");
        }
    }

    fn note(&self, stage: Stage, reached: Result<(), WaitError>) {
        match reached {
            Ok(()) => self.progress.reach(stage),
            Err(why) => tracing::warn!("{}", chain(&why)),
        }
    }

    /// Tells the host why there are no steps, in the place of a step, and that no more will come.
    fn report_failure(&self, name: &str, why: &str) {
        let now = uptime();
        self.progress.report(StepReport {
            name: name.to_owned(),
            outcome: StepOutcome::Failed,
            exit_code: None,
            tail: why.to_owned(),
            started: now,
            ended: now,
        });
        self.progress.reach(Stage::BootScriptsDone {
            failed: self.progress.failed(),
        });
    }

    fn tell_host_keys(&self) {
        match public_host_keys(&self.guest) {
            Ok(keys) => self.board.set_host_keys(keys),
            Err(why) => tracing::warn!("the SSH host keys are not reported: {}", chain(&why)),
        }
    }
}

fn identity() -> Result<GuestIdentity, Box<dyn Error>> {
    let boot_id = fs::read_to_string(BOOT_ID).map_err(failed("read", Path::new(BOOT_ID)))?;
    let kernel =
        fs::read_to_string(KERNEL_RELEASE).map_err(failed("read", Path::new(KERNEL_RELEASE)))?;
    Ok(GuestIdentity {
        boot_id: BootId::from_str(&boot_id)?,
        kernel: kernel.trim().to_owned(),
        agent_version: env!("CARGO_PKG_VERSION").to_owned(),
        // Not known before the volume is mounted.
        instance_id: String::new(),
    })
}
