//! An external driver as a driver of berth.
//!
//! Its server is a process of ours for as long as the driver lives; the VM belongs to the stream of `Start`. Calls that answer at
//! once have a deadline, calls that block by design (disks, the start, the stop, the window) have none: they end with the answer,
//! with the server, or when nobody waits for them any more, which resets them.
//!
//! The instance is configured once, when the driver is opened, and by nobody else: no other call changes the server's view of it.

mod life;
mod orphan;
mod process;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use berth_config::model::{Config, MountType};
use berth_grpc::error::CallError;
use berth_image::disk::{self, Wanted};
use berth_instance::record::Record;
use berth_process::escape::{escape_untrusted, escape_untrusted_lines};
use berth_process::exit::{Signal, gone};
use berth_process::ladder::Rung;
use prost::Message;

pub(crate) use orphan::stop_orphan;

use crate::driver::{
    Carrier, Driver, DriverContext, DriverInfo, RunningVm, SnapshotAction, SshPort, StopLadder,
};
use crate::error::DriverError;
use crate::external::discovery::Found;
use crate::external::info::Info;
use crate::external::instance::{self, BadInstance, Instance};
use crate::external::message::{
    BootScriptsResponse, Empty, ForwardGuestAgentResponse, InfoResponse, SetConfig, Text, method,
};
use crate::files::disk_files;
use crate::process::{KILL_LIMIT, Target, connect_within};
use crate::programs;
use life::Life;
use process::{Server, TERMINATE_LIMIT};

/// How long things may take that have no reason to block.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// From the start of the program until its socket is there (Lima: 10 s).
    pub socket: Duration,
    /// An answer (Lima: 10 s).
    pub answer: Duration,
    /// `Validate`, which may run other programs and ask them.
    pub validate: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            socket: Duration::from_secs(10),
            answer: Duration::from_secs(10),
            validate: Duration::from_secs(120),
        }
    }
}

/// Longest text of a driver's that is shown, in bytes.
const MAX_TEXT: usize = 4096;
/// Longest list of snapshots that is shown, in bytes.
const MAX_SNAPSHOTS: usize = 256 * 1024;

/// One VM of an external driver.
#[derive(Debug)]
pub struct ExternalDriver {
    driver: Found,
    context: DriverContext,
    config: Arc<Config>,
    info: DriverInfo,
    /// berth's own guest agent is behind this socket of the instance.
    agent_socket: Option<String>,
    forward_agent: bool,
    ssh_port: u16,
    ssh: OnceLock<SocketAddr>,
    /// What `Validate` said.
    verdict: Result<(), String>,
    server: Server,
    life: Mutex<Option<Arc<Life>>>,
    limits: Limits,
}

impl ExternalDriver {
    /// Starts the driver's program and has it configured. On error nothing of it runs.
    pub async fn open(
        context: DriverContext,
        driver: Found,
        limits: Limits,
    ) -> Result<Self, DriverError> {
        let server = Server::start(&driver, &context.dir, limits.socket).await?;
        let ask = Ask {
            server: &server,
            driver: &driver,
            limits,
        };
        match ask.all(&context).await {
            Ok(told) => Ok(Self {
                info: told.info.driver_info(&driver.name),
                agent_socket: told.info.agent_socket().map(ToOwned::to_owned),
                forward_agent: told.forward_agent,
                ssh_port: told.ssh_port,
                ssh: OnceLock::new(),
                config: Arc::new(told.config),
                verdict: told.verdict,
                server,
                life: Mutex::default(),
                driver,
                context,
                limits,
            }),
            Err(error) => {
                server.give_up(&driver, &context.dir).await;
                Err(error)
            }
        }
    }

    fn ask(&self) -> Ask<'_> {
        Ask {
            server: &self.server,
            driver: &self.driver,
            limits: self.limits,
        }
    }

    fn life(&self) -> Option<Arc<Life>> {
        self.life
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn fault(&self, why: impl Into<String>) -> DriverError {
        self.ask().fault(why)
    }

    /// Waits for a call that may block for as long as the VM runs, but not longer.
    async fn while_running<T>(
        &self,
        what: &str,
        work: impl Future<Output = Result<T, DriverError>>,
    ) -> Result<T, DriverError> {
        let Some(life) = self.life() else {
            return Err(self.fault(format!("{what}: the VM is not running")));
        };
        let mut exit = life.exit();
        tokio::select! {
            biased;
            done = work => done,
            _ = exit.wait_for(Option::is_some) => {
                Err(self.fault(format!("{what}: the VM has ended")))
            }
        }
    }

    fn formats_know(&self, format: &str) -> bool {
        let formats = &self.info.features.supported_image_formats;
        formats.iter().any(|known| known == format)
    }
}

/// Where SSH will be: it is part of the configuration, so it is chosen before anything runs. Somebody may take the port until
/// the VM does; the driver's error says so then.
fn ssh_port(context: &DriverContext) -> Result<u16, DriverError> {
    if let Some(port) = context.config.ssh.local_port {
        return Ok(port);
    }
    let last = Record::load(&context.dir).ok();
    let last = last.and_then(|record| record.ssh_local_port).unwrap_or(0);
    let address = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let free = std::net::TcpListener::bind(address(last))
        .or_else(|_| std::net::TcpListener::bind(address(0)));
    let port = free.and_then(|listener| listener.local_addr());
    port.map(|address| address.port())
        .map_err(|error| DriverError::Port {
            address: address(last).to_string(),
            why: error.to_string(),
        })
}

/// What a driver tells of itself and of its instance.
struct Told {
    info: Info,
    config: Config,
    ssh_port: u16,
    forward_agent: bool,
    verdict: Result<(), String>,
}

/// Calls to one server.
struct Ask<'a> {
    server: &'a Server,
    driver: &'a Found,
    limits: Limits,
}

impl Ask<'_> {
    /// Configures the driver, and asks everything that does not change any more.
    async fn all(&self, context: &DriverContext) -> Result<Told, DriverError> {
        let described = instance::describe(context, ssh_port(context)?);
        let answer = self.configure(&described).await?;
        let mut config = answer
            .config_over(&context.config)
            .map_err(|error| self.unusable("Configure", &error))?;
        config.mount_type.get_or_insert(MountType::ReverseSshfs);
        let info = self.info().await?;
        let forward = self.soon::<ForwardGuestAgentResponse>("ForwardGuestAgent", &Empty {});
        let forward = forward.await;
        Ok(Told {
            info,
            config,
            ssh_port: answer.ssh_port(),
            // Lima's rule for drivers that do not say.
            forward_agent: forward.is_ok_and(|answer| answer.should_forward),
            verdict: self.validate().await?,
        })
    }

    /// Calls a method that answers at once.
    async fn soon<A: Message + Default>(
        &self,
        name: &'static str,
        request: &impl Message,
    ) -> Result<A, DriverError> {
        self.within(name, request, Some(self.limits.answer)).await
    }

    /// Calls a method that takes its time.
    async fn patiently(
        &self,
        name: &'static str,
        request: &impl Message,
    ) -> Result<(), DriverError> {
        let done = self.within::<Empty>(name, request, None).await;
        done.map(drop)
    }

    async fn within<A: Message + Default>(
        &self,
        name: &'static str,
        request: &impl Message,
        deadline: Option<Duration>,
    ) -> Result<A, DriverError> {
        let client = &self.server.client;
        match client.unary(method(name), request, deadline).await {
            Ok(answer) => Ok(answer),
            Err(why) => Err(self.explain(why).await),
        }
    }

    async fn configure(&self, described: &serde_json::Value) -> Result<Instance, DriverError> {
        let request = SetConfig {
            instance_config_json: described.to_string().into_bytes(),
        };
        let answer: SetConfig = self.soon("Configure", &request).await?;
        Instance::parse(&answer.instance_config_json)
            .map_err(|error| self.unusable("Configure", &error))
    }

    async fn info(&self) -> Result<Info, DriverError> {
        let answer: InfoResponse = self.soon("Info", &Empty {}).await?;
        serde_json::from_slice(&answer.info_json).map_err(|error| {
            let error = escape_untrusted(error.to_string().as_bytes());
            self.fault(format!("cannot use its answer to Info: {error}"))
        })
    }

    /// What the driver itself says is kept for [`Driver::validate`].
    async fn validate(&self) -> Result<Result<(), String>, DriverError> {
        let deadline = Some(self.limits.validate);
        let client = &self.server.client;
        match client
            .unary::<Empty>(method("Validate"), &Empty {}, deadline)
            .await
        {
            Ok(_) => Ok(Ok(())),
            Err(CallError::Failed { message, .. }) => Ok(Err(message)),
            Err(why) => Err(self.explain(why).await),
        }
    }

    fn unusable(&self, call: &str, error: &BadInstance) -> DriverError {
        self.fault(format!("cannot use its answer to {call}: {error}"))
    }

    fn fault(&self, why: impl Into<String>) -> DriverError {
        DriverError::Program {
            program: self.driver.path.display().to_string(),
            why: why.into(),
        }
    }

    /// A broken connection is explained best by how the process ended, if it did.
    async fn explain(&self, why: CallError) -> DriverError {
        const MOMENT: Duration = Duration::from_secs(1);
        if matches!(why, CallError::Lost { .. }) {
            let mut exit = self.server.child.exit();
            if let Ok(exit) = tokio::time::timeout(MOMENT, gone(&mut exit)).await {
                return DriverError::Died {
                    program: self.driver.path.display().to_string(),
                    how: exit.describe(),
                    stderr_tail: self.server.stderr_tail(),
                };
            }
        }
        self.fault(why.to_string())
    }
}

/// A driver's text of several lines, safe to show.
fn shown(text: &str, most: usize) -> String {
    let mut end = most.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    escape_untrusted_lines(&text.as_bytes()[..end])
}

#[async_trait]
impl Driver for ExternalDriver {
    fn info(&self) -> &DriverInfo {
        &self.info
    }

    fn config(&self) -> &Arc<Config> {
        &self.config
    }

    fn validate(&self) -> Result<Vec<String>, DriverError> {
        match &self.verdict {
            Ok(()) => Ok(Vec::new()),
            Err(why) => Err(self.fault(format!("refuses the configuration: {why}"))),
        }
    }

    /// Lima's own host makes disks larger itself, so drivers do not.
    async fn prepare_disk(&self) -> Result<(), DriverError> {
        let ask = self.ask();
        ask.patiently("Create", &Empty {}).await?;
        ask.patiently("CreateDisk", &Empty {}).await?;
        let files = disk_files(&self.context.dir);
        if self.info.features.supported_image_formats.is_empty() || !files.disk.exists() {
            return Ok(());
        }
        let wanted = if self.formats_know("qcow2") {
            Wanted::Any
        } else {
            Wanted::Raw
        };
        let qemu_img = programs::qemu_img(&self.context.env);
        disk::ensure(&files, self.config.disk.bytes(), wanted, &qemu_img).await?;
        Ok(())
    }

    async fn boot_scripts(&self) -> Result<BTreeMap<String, String>, DriverError> {
        let answer: BootScriptsResponse = self.ask().soon("BootScripts", &Empty {}).await?;
        let mut scripts = BTreeMap::new();
        for (key, script) in answer.scripts {
            if !is_script_key(&key) {
                let key = escape_untrusted(key.as_bytes());
                return Err(self.fault(format!(
                    "BootScripts: {key:?} is no name of a boot script: it is `boot.OS/NAME` or `NAME`"
                )));
            }
            let script = String::from_utf8(script)
                .map_err(|_| self.fault(format!("BootScripts: {key:?} is not in UTF-8")))?;
            scripts.insert(key, script);
        }
        Ok(scripts)
    }

    async fn start(&self) -> Result<RunningVm, DriverError> {
        if self.life().is_some() {
            return Err(self.fault("runs already, or has run: a driver starts one VM"));
        }
        let life = Arc::new(Life::new());
        *self.life.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&life));
        life.start(&self.ask(), &self.context.dir).await?;
        if self.info.features.can_run_gui {
            life.show_window(&self.server);
        }
        Ok(RunningVm {
            identity: self.server.child.identity().clone(),
            exit: life.exit(),
            events: life.events(),
        })
    }

    async fn ssh_address(&self, _port: SshPort) -> Result<SocketAddr, DriverError> {
        if let Some(address) = self.ssh.get() {
            return Ok(*address);
        }
        let ask = self.ask();
        let set_up = ask.patiently("AdditionalSetupForSSH", &Empty {});
        self.while_running("AdditionalSetupForSSH", set_up).await?;
        let mut ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
        if self.info.features.dynamic_ssh_address {
            let asked = ask.soon::<Text>("SSHAddress", &Empty {});
            let text = self.while_running("SSHAddress", asked).await?.text;
            ip = text.parse().map_err(|_| {
                let text = escape_untrusted(&text.as_bytes()[..text.len().min(64)]);
                self.fault(format!("SSHAddress: {text:?} is no IP address"))
            })?;
        }
        if self.ssh_port == 0 {
            return Err(self.fault("Configure: it took the SSH port out of the instance"));
        }
        let address = SocketAddr::new(ip, self.ssh_port);
        Ok(*self.ssh.get_or_init(|| address))
    }

    /// The socket's path is handed over, and no connection: each caller makes its own, and nothing is left open in between.
    async fn guest_agent_conn(&self) -> Result<Option<Box<dyn Carrier>>, DriverError> {
        let dir = &self.context.dir;
        let socket = match &self.agent_socket {
            Some(name) => dir.path().join(name),
            None if self.forward_agent => return Ok(None),
            None => {
                let asked = self.ask();
                asked.soon::<Empty>("GuestAgentConn", &Empty {}).await?;
                dir.ga_sock()
            }
        };
        let stream = connect_within(&socket, self.limits.answer).await?;
        Ok(Some(Box::new(stream)))
    }

    fn forward_guest_agent(&self) -> bool {
        self.forward_agent
    }

    fn has_agent_carrier(&self) -> bool {
        self.agent_socket.is_some() || !self.forward_agent
    }

    async fn change_display_password(&self, password: &str) -> Result<(), DriverError> {
        let request = Text {
            text: password.to_owned(),
        };
        let ask = self.ask();
        let done = ask.soon::<Empty>("ChangeDisplayPassword", &request);
        done.await.map(drop)
    }

    async fn display_port(&self) -> Result<u16, DriverError> {
        let answer: Text = self.ask().soon("GetDisplayConnection", &Empty {}).await?;
        answer.text.parse().map_err(|_| {
            let text = escape_untrusted(&answer.text.as_bytes()[..answer.text.len().min(64)]);
            self.fault(format!("GetDisplayConnection: {text:?} is no TCP port"))
        })
    }

    async fn screenshot(&self) -> Result<Vec<u8>, DriverError> {
        if self.config.video.display == "none" {
            return Err(DriverError::NoDisplay);
        }
        Err(DriverError::refuse(
            "screenshot",
            "Lima's contract with external drivers has none",
        ))
    }

    async fn stop(&self, ladder: StopLadder) -> Result<(), DriverError> {
        let (server, life) = (&self.server, self.life());
        let (dir, name) = (&self.context.dir, &self.driver.name);
        let vm = life.as_ref().and_then(|life| life.vm(server, dir, name));
        let in_order = async {
            let stopping = server
                .client
                .unary::<Empty>(method("Stop"), &Empty {}, None);
            stopping.await.map_err(|why| why.to_string())?;
            if let Some(life) = &life {
                life.last_word().await;
            }
            server.signal(Signal::Terminate)
        };
        let patience = match &life {
            Some(life) if life.is_running() => ladder.power_down + ladder.quit,
            _ => Duration::ZERO,
        };
        let rungs = vec![
            Rung::new("Stop", patience, in_order),
            Rung::new("SIGTERM", TERMINATE_LIMIT, async {
                server.signal(Signal::Terminate)
            }),
            Rung::new("SIGKILL", KILL_LIMIT, async { server.signal(Signal::Kill) }),
        ];
        let program = &self.driver.path;
        process::descend(program, Target::Child(&server.child), &ladder, rungs).await?;
        server.disconnect().await;
        if let Some(life) = &life {
            life.end().await;
        }
        process::end_vm(vm, program).await?;
        process::clear(dir, name)
    }

    async fn snapshot(&self, action: SnapshotAction) -> Result<String, DriverError> {
        let ask = self.ask();
        let (name, tag) = match action {
            SnapshotAction::Create(tag) => ("CreateSnapshot", tag),
            SnapshotAction::Apply(tag) => ("ApplySnapshot", tag),
            SnapshotAction::Delete(tag) => ("DeleteSnapshot", tag),
            SnapshotAction::List => {
                let answer: Text = ask.within("ListSnapshots", &Empty {}, None).await?;
                return Ok(shown(&answer.text, MAX_SNAPSHOTS));
            }
        };
        ask.patiently(name, &Text { text: tag }).await?;
        Ok(String::new())
    }
}

/// Lima's two shapes: `boot.OS/NAME`, and `NAME`, which is for Linux.
fn is_script_key(key: &str) -> bool {
    let word = |word: &str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        !word.is_empty() && word.len() <= 128 && !word.starts_with('.') && word.chars().all(plain)
    };
    match key.split_once('/') {
        None => word(key),
        Some((directory, name)) => directory.strip_prefix("boot.").is_some_and(word) && word(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_boot_script_has_one_of_two_names() {
        for key in ["boot.Linux/05-x.sh", "05-x.sh", "boot.FreeBSD/a"] {
            assert!(is_script_key(key), "{key}");
        }
        for key in [
            "",
            "boot.Linux/",
            "boot./x",
            "a/b",
            "boot.Linux/../x",
            "../x",
            "/x",
            "boot.Linux/a/b",
            "a b",
            ".x",
        ] {
            assert!(!is_script_key(key), "{key}");
        }
    }

    #[test]
    fn a_text_is_cut_between_characters_and_escaped() {
        assert_eq!(shown("aü\u{1b}\nb", 2), "a");
        assert_eq!(shown("a\u{1b}\nb", 100), "a\\u{1b}\nb");
    }
}
