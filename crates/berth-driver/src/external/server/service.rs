//! The methods of Lima's `Driver` service.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use berth_grpc::server::{Reply, Service, Status};
use berth_grpc::status::Code;
use berth_image::error::with_causes;
use bytes::Bytes;
use prost::Message;
use tokio_util::task::TaskTracker;

use super::configure::Configured;
use super::vm::Vm;
use super::{ServerOptions, agent_socket};
use crate::driver::{DefaultNetwork, Driver, SnapshotAction, SshPort, VmExit};
use crate::error::DriverError;
use crate::external::info::{Extension, Info};
use crate::external::instance::Instance;
use crate::external::message::{
    BootScriptsResponse, Empty, ForwardGuestAgentResponse, InfoResponse, SetConfig, StartResponse,
    Text,
};

/// How long the guest may take to power itself off after `Stop` (Lima's limit), and its process to end then.
const POWER_DOWN: Duration = Duration::from_secs(180);
const QUIT: Duration = Duration::from_secs(5);

/// One instance's driver, for any number of clients.
pub(super) struct DriverService {
    options: ServerOptions,
    state: Arc<Mutex<State>>,
    /// What outlives the call that began it.
    tasks: TaskTracker,
}

#[derive(Default)]
struct State {
    /// What the last `Configure` made.
    configured: Option<Configured>,
    /// The VM. While it runs, every call is about it: who configures meanwhile changes nothing of it.
    vm: Option<Arc<Vm>>,
    /// `ga.sock` is open.
    agent: bool,
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A driver's failure, with the code that Go gives to errors without one.
#[allow(clippy::needless_pass_by_value, reason = "for map_err")]
fn failed(error: DriverError) -> Status {
    Status::new(Code::UNKNOWN, with_causes(&error))
}

fn read<M: Message + Default>(request: Bytes) -> Result<M, Status> {
    M::decode(request)
        .map_err(|error| Status::new(Code::INVALID_ARGUMENT, format!("the request: {error}")))
}

#[async_trait]
impl Service for DriverService {
    async fn call(&self, path: &str, request: Bytes, reply: &Reply) -> Result<(), Status> {
        let Some(method) = path.strip_prefix("/Driver/") else {
            return Err(Status::new(Code::UNIMPLEMENTED, "no such service"));
        };
        tracing::debug!(method, "called");
        match method {
            "Info" => reply.send(&self.info()).await,
            "Configure" => reply.send(&self.configure(&read(request)?)?).await,
            "Start" => return self.start(reply).await,
            "SSHAddress" => reply.send(&self.ssh_address().await?).await,
            "BootScripts" => reply.send(&self.boot_scripts().await?).await,
            "ForwardGuestAgent" => {
                let should_forward = self.driver()?.forward_guest_agent();
                reply
                    .send(&ForwardGuestAgentResponse { should_forward })
                    .await;
            }
            "GetDisplayConnection" => {
                let port = self.driver()?.display_port().await.map_err(failed)?;
                let text = port.to_string();
                reply.send(&Text { text }).await;
            }
            "ListSnapshots" => {
                let text = self.snapshot(SnapshotAction::List).await?;
                reply.send(&Text { text }).await;
            }
            _ => {
                self.order(method, request).await?;
                reply.send(&Empty {}).await;
            }
        }
        Ok(())
    }
}

impl DriverService {
    pub(super) fn new(options: ServerOptions) -> Self {
        Self {
            options,
            state: Arc::default(),
            tasks: TaskTracker::new(),
        }
    }

    /// Stops the VM, and waits for everything that was begun.
    pub(super) async fn end(&self) {
        let vm = lock(&self.state).vm.clone();
        if let Some(vm) = vm {
            vm.stop_alone().await;
        }
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// The calls that have nothing to tell but that they are done.
    async fn order(&self, method: &str, request: Bytes) -> Result<(), Status> {
        match method {
            // The files that identify a VM are made with its disk, or by its first start.
            "Create" | "Delete" | "AdditionalSetupForSSH" => self.driver().map(drop),
            "Validate" => {
                for warning in self.driver()?.validate().map_err(failed)? {
                    tracing::warn!("{warning}");
                }
                Ok(())
            }
            "CreateDisk" => self.driver()?.prepare_disk().await.map_err(failed),
            "Stop" => self.stop().await,
            "RunGUI" => {
                // The window is the VM's own; there is only its end to wait for.
                let vm = self.vm()?;
                vm.over.cancelled().await;
                Ok(())
            }
            "ChangeDisplayPassword" => {
                let password: Text = read(request)?;
                let driver = self.driver()?;
                let changed = driver.change_display_password(&password.text);
                changed.await.map_err(failed)
            }
            "GuestAgentConn" => self.open_agent_socket(),
            "CreateSnapshot" => self.act(SnapshotAction::Create, request).await,
            "ApplySnapshot" => self.act(SnapshotAction::Apply, request).await,
            "DeleteSnapshot" => self.act(SnapshotAction::Delete, request).await,
            _ => Err(Status::new(Code::UNIMPLEMENTED, "no such method")),
        }
    }

    /// The driver of the VM that runs, else the configured one.
    fn driver(&self) -> Result<Arc<dyn Driver>, Status> {
        let state = lock(&self.state);
        let of_vm = state.vm.as_ref().map(|vm| &vm.driver);
        let driver = of_vm.or_else(|| state.configured.as_ref().map(|made| &made.driver));
        driver.map(Arc::clone).ok_or_else(not_configured)
    }

    fn vm(&self) -> Result<Arc<Vm>, Status> {
        let vm = lock(&self.state).vm.clone();
        vm.ok_or_else(|| Status::new(Code::FAILED_PRECONDITION, "the VM is not running"))
    }

    fn info(&self) -> InfoResponse {
        let (driver, configured) = match self.driver() {
            Ok(driver) => (Ok(driver), true),
            Err(_) => (self.options.unconfigured(), false),
        };
        let mut info = match driver {
            Ok(driver) => Info::of(driver.info(), &self.options.name, self.extension(&*driver)),
            // Who cannot run here can still be asked for its name.
            Err(_) => Info {
                name: self.options.name.clone(),
                ..Info::default()
            },
        };
        if configured {
            info.instance_dir = self.options.dir.path().to_string_lossy().into_owned();
        } else {
            info.features.can_run_gui = false;
        }
        InfoResponse {
            // Texts, numbers and flags always have a JSON.
            info_json: serde_json::to_vec(&info).unwrap_or_default(),
        }
    }

    fn extension(&self, driver: &dyn Driver) -> Extension {
        let socket = driver.agent_socket();
        let inside = socket.filter(|path| path.parent() == Some(self.options.dir.path()));
        let name = inside.and_then(|path| Some(path.file_name()?.to_str()?.to_owned()));
        Extension {
            agent_socket: name,
            nat: driver.info().network == DefaultNetwork::Nat,
        }
    }

    fn configure(&self, request: &SetConfig) -> Result<SetConfig, Status> {
        let unusable = |why: String| Status::new(Code::UNKNOWN, why);
        let mut instance = Instance::parse(&request.instance_config_json)
            .map_err(|error| unusable(format!("the instance: {error}")))?;
        let configured = self.options.configure(&mut instance).map_err(unusable)?;
        let mut state = lock(&self.state);
        if state.vm.is_none() {
            state.configured = Some(configured);
        }
        Ok(SetConfig {
            instance_config_json: instance.to_bytes(),
        })
    }

    /// Runs the VM for as long as somebody listens to this answer.
    async fn start(&self, reply: &Reply) -> Result<(), Status> {
        let vm = match self.begin() {
            Ok(vm) => vm,
            Err(status) => {
                reply.send(&StartResponse::failure(&status.message)).await;
                return Err(Status::new(Code::INTERNAL, status.message));
            }
        };
        let mut client = Client {
            vm: Some(Arc::clone(&vm)),
            state: Arc::clone(&self.state),
            tasks: self.tasks.clone(),
        };
        let running = match vm.start().await {
            Ok(running) => running,
            Err(error) => {
                client.leave();
                let why = with_causes(&error);
                reply.send(&StartResponse::failure(&why)).await;
                return Err(Status::new(Code::INTERNAL, why));
            }
        };
        reply.send(&StartResponse::success()).await;
        let exit = vm.end_of(running).await;
        client.leave();
        if let Some(why) = last_words(&exit) {
            reply.send(&StartResponse::failure(why)).await;
        }
        reply.send(&StartResponse::success()).await;
        Ok(())
    }

    fn begin(&self) -> Result<Arc<Vm>, Status> {
        let mut state = lock(&self.state);
        if state.vm.is_some() {
            let why = "the VM runs already: stop it first";
            return Err(Status::new(Code::FAILED_PRECONDITION, why));
        }
        let configured = state.configured.clone().ok_or_else(not_configured)?;
        let vm = Arc::new(Vm::new(configured, &self.options.name, &self.options.dir));
        state.vm = Some(Arc::clone(&vm));
        state.agent = false;
        Ok(vm)
    }

    async fn stop(&self) -> Result<(), Status> {
        let Ok(vm) = self.vm() else {
            // It has ended by itself, and was cleared up after.
            return Ok(());
        };
        vm.stop(vm.ladder(POWER_DOWN, QUIT)).await.map_err(failed)
    }

    /// Hands over a path, and no connection: a connection that is opened here and used by nobody would keep others out.
    fn open_agent_socket(&self) -> Result<(), Status> {
        let vm = self.vm()?;
        let dir = &self.options.dir;
        let is_there = vm
            .driver
            .agent_socket()
            .is_some_and(|path| path == dir.ga_sock());
        // Forwarded over SSH, the socket is the client's own.
        if is_there || vm.driver.forward_guest_agent() {
            return Ok(());
        }
        let mut state = lock(&self.state);
        if !state.agent {
            agent_socket::open(&vm, dir, &self.tasks).map_err(failed)?;
            state.agent = true;
        }
        Ok(())
    }

    async fn ssh_address(&self) -> Result<Text, Status> {
        let vm = self.vm()?;
        let address = vm.driver.ssh_address(SshPort::Any).await.map_err(failed)?;
        let text = address.ip().to_string();
        Ok(Text { text })
    }

    async fn boot_scripts(&self) -> Result<BootScriptsResponse, Status> {
        let scripts = self.driver()?.boot_scripts().await.map_err(failed)?;
        let bytes = scripts
            .into_iter()
            .map(|(key, text)| (key, text.into_bytes()));
        Ok(BootScriptsResponse {
            scripts: bytes.collect(),
        })
    }

    async fn act(
        &self,
        action: fn(String) -> SnapshotAction,
        request: Bytes,
    ) -> Result<(), Status> {
        let tag: Text = read(request)?;
        self.snapshot(action(tag.text)).await.map(drop)
    }

    async fn snapshot(&self, action: SnapshotAction) -> Result<String, Status> {
        self.driver()?.snapshot(action).await.map_err(failed)
    }
}

fn not_configured() -> Status {
    let why = "the driver is not configured: call Configure first";
    Status::new(Code::FAILED_PRECONDITION, why)
}

/// Why the VM ended, when that is a failure.
fn last_words(exit: &VmExit) -> Option<String> {
    let why = exit.failure.as_deref()?;
    Some(if exit.stderr_tail.is_empty() {
        format!("the VM ended: {why}")
    } else {
        format!("the VM ended: {why}; its last words:\n{}", exit.stderr_tail)
    })
}

/// The client of a `Start`. When it goes without [`Client::leave`], the call was dropped, and the VM is stopped.
struct Client {
    vm: Option<Arc<Vm>>,
    state: Arc<Mutex<State>>,
    tasks: TaskTracker,
}

impl Client {
    /// The VM is gone.
    fn leave(&mut self) {
        self.vm = None;
        lock(&self.state).vm = None;
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let Some(vm) = self.vm.take() else {
            return;
        };
        tracing::warn!("The client is gone: stopping the VM.");
        let state = Arc::clone(&self.state);
        self.tasks.spawn(async move {
            vm.stop_alone().await;
            lock(&state).vm = None;
        });
    }
}
