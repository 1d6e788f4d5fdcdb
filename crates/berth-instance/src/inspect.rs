//! All that is known of an instance from outside, as `list` shows it.

use std::path::PathBuf;

use berth_config::model::Config;
use berth_config::platform::HostPlatform;
use berth_events::state::State;
use serde_json::{Map, Value};

use crate::delete::is_protected;
use crate::dir::InstanceDir;
use crate::home::LimaHome;
use crate::info::{self, AgentInfo, ForwardInfo, InfoError, NamesInfo};
use crate::pids::Processes;
use crate::problem::with_causes;

mod json;

/// Reads the configuration of an instance; the error is for people, with its causes.
pub type LoadConfig<'a> = &'a dyn Fn(&InstanceDir) -> Result<Config, String>;

/// Renders the `message` of a configuration for an instance; the error is for people.
pub type RenderMessage<'a> = &'a dyn Fn(&str, &Inspection) -> Result<String, String>;

/// Asks a driver for the status of an instance, given as JSON; empty: it does not know. `None`: that driver is not asked. The
/// error is for people.
pub type AskDriver<'a> = &'a dyn Fn(&Config, &Map<String, Value>) -> Option<Result<String, String>>;

/// What inspecting needs from its caller.
#[derive(Clone, Copy)]
pub struct InspectContext<'a> {
    /// The host.
    pub platform: &'a HostPlatform,
    /// Reads and resolves `lima.yaml`.
    pub load_config: LoadConfig<'a>,
    /// Renders `message`, which may use every field of the inspection.
    pub render_message: RenderMessage<'a>,
    /// Asks a driver that knows more of its VMs than pid files tell.
    pub ask_driver: AskDriver<'a>,
}

impl std::fmt::Debug for InspectContext<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InspectContext")
            .field("platform", &self.platform)
            .finish_non_exhaustive()
    }
}

/// There is nothing to inspect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InspectError {
    /// No directory of that name.
    #[error("instance {0:?} does not exist")]
    NoInstance(String),
    /// The directory holds no configuration.
    #[error("instance {name:?} has no lima.yaml in {}", .dir.display())]
    NoConfig {
        /// The name.
        name: String,
        /// Its directory.
        dir: PathBuf,
    },
}

/// An instance as seen from outside.
#[derive(Debug, Clone, PartialEq)]
pub struct Inspection {
    /// Its name.
    pub name: String,
    /// The guest's host name.
    pub hostname: String,
    /// Its files.
    pub dir: InstanceDir,
    /// The state in Lima's words: `Broken`, `Stopped` or `Running`; empty when the configuration cannot be read.
    pub status: &'static str,
    /// The state in ours; `None` where there is nothing to tell it by.
    pub berth_state: Option<State>,
    /// Port of the guest's sshd on 127.0.0.1; 0: not known.
    pub ssh_local_port: u16,
    /// The agent's pid.
    pub host_agent_pid: Option<u32>,
    /// The VM's pid.
    pub driver_pid: Option<u32>,
    /// What is wrong with it.
    pub errors: Vec<String>,
    /// Its configuration, if it can be read.
    pub config: Option<Config>,
    /// The configuration's message, rendered.
    pub message: String,
    /// Whether the user protected it.
    pub protected: bool,
    /// The version that made it; empty: not recorded.
    pub lima_version: String,
    /// The unit that systemd or launchd started its agent as.
    pub auto_started_identifier: String,
    /// Its forwards, as its agent (one of ours) tells them.
    pub forwards: Vec<ForwardInfo>,
    /// Its host resolver, likewise.
    pub names: Option<NamesInfo>,
}

impl Inspection {
    /// The address of the guest's sshd.
    pub const SSH_ADDRESS: &'static str = "127.0.0.1";

    /// Whether nothing of it runs.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.berth_state == Some(State::Stopped)
    }
}

/// Inspects an instance. Blocks for 3 s at most, when its agent does not answer.
///
/// Whatever is wrong with the instance is part of the result; the only errors are that there is none.
pub fn inspect(
    home: &LimaHome,
    name: &str,
    context: &InspectContext<'_>,
) -> Result<Inspection, InspectError> {
    let dir = home
        .entry(name)
        .filter(|dir| dir.path().is_dir())
        .ok_or_else(|| InspectError::NoInstance(name.to_owned()))?;
    if !dir.lima_yaml().exists() {
        return Err(InspectError::NoConfig {
            name: name.to_owned(),
            dir: dir.path().to_owned(),
        });
    }
    let mut errors = Vec::new();
    let config = (context.load_config)(&dir)
        .map_err(|why| errors.push(why))
        .ok();
    let driver = config.as_ref().map(|config| config.vm_type.as_str());
    let processes = Processes::look(&dir, driver);
    errors.extend(processes.problems.iter().cloned());
    let info = (processes.locked || processes.agent.is_some())
        .then(|| info::ask(&dir.ha_sock(), info::DEADLINE));
    let judged = judge(&processes, info);
    errors.extend(judged.error);
    let broken = !errors.is_empty();
    let ssh_local_port = ssh_port(&dir, config.as_ref(), judged.info.as_ref(), &mut errors);
    let info = judged.info.unwrap_or_default();
    let mut inspection = Inspection {
        name: name.to_owned(),
        hostname: berth_config::name::hostname(name),
        status: match (&config, broken) {
            (None, _) => "",
            (Some(_), true) => "Broken",
            (Some(_), false) => judged.state.lima_status(processes.vm.is_some()),
        },
        berth_state: Some(judged.state),
        ssh_local_port,
        host_agent_pid: processes.agent,
        driver_pid: processes.vm,
        config,
        message: String::new(),
        protected: is_protected(&dir),
        lima_version: read_version(&dir),
        auto_started_identifier: info.auto_started_identifier,
        forwards: info.berth_forwards,
        names: info.berth_names,
        errors,
        dir,
    };
    // An agent of ours knows better, and tells.
    if !processes.locked {
        ask_driver(&mut inspection, home, context);
    }
    render_message(&mut inspection, context);
    Ok(inspection)
}

/// Lets the driver say what state the instance is in, if it has something to say.
fn ask_driver(inspection: &mut Inspection, home: &LimaHome, context: &InspectContext<'_>) {
    let Some(config) = &inspection.config else {
        return;
    };
    let known = inspection.to_json(home, context.platform);
    let (status, state) = match (context.ask_driver)(config, &known) {
        None => return,
        Some(Err(why)) => {
            inspection.errors.push(why);
            ("Broken", inspection.berth_state.clone())
        }
        Some(Ok(word)) => match word.as_str() {
            "Running" => ("Running", Some(State::Running)),
            "Stopped" => ("Stopped", Some(State::Stopped)),
            "Broken" => ("Broken", None),
            "Installing" => ("Installing", None),
            "Uninitialized" => ("Uninitialized", None),
            _ => return,
        },
    };
    (inspection.status, inspection.berth_state) = (status, state);
}

/// What the processes and the agent's answer mean.
struct Judgement {
    state: State,
    info: Option<AgentInfo>,
    error: Option<String>,
}

fn judge(processes: &Processes, info: Option<Result<AgentInfo, InfoError>>) -> Judgement {
    let starting = || State::Starting {
        phase: String::new(),
    };
    let (state, info, error) = match info {
        None => match processes.vm {
            None => (State::Stopped, None, None),
            Some(pid) => (
                State::Orphaned,
                None,
                Some(format!(
                    "the VM is alive (pid {pid}), its host agent is not"
                )),
            ),
        },
        Some(Ok(info)) => match (&info.berth_state, processes.vm) {
            (Some(state), _) => (state.clone(), Some(info), None),
            (None, Some(_)) => (State::Running, Some(info), None),
            // An agent of Lima's that has not started its VM yet, or has stopped it.
            (None, None) => (
                starting(),
                Some(info),
                Some("the host agent is running, its VM is not".to_owned()),
            ),
        },
        // One of ours takes its lock just before it listens, and gives it back just after.
        Some(Err(InfoError::NotListening { .. })) if processes.locked => (starting(), None, None),
        Some(Err(why)) => {
            let state = if processes.vm.is_some() {
                State::Running
            } else {
                starting()
            };
            (state, None, Some(with_causes(&why)))
        }
    };
    Judgement { state, info, error }
}

/// The port that the agent says, else the configured one, else that of the last `ssh.config`.
fn ssh_port(
    dir: &InstanceDir,
    config: Option<&Config>,
    info: Option<&AgentInfo>,
    errors: &mut Vec<String>,
) -> u16 {
    let said = info.map(|info| info.ssh_local_port);
    let configured = config.and_then(|config| config.ssh.local_port);
    match said.or(configured) {
        Some(port) if port != 0 => return port,
        _ => {}
    }
    let path = dir.ssh_config();
    match std::fs::read_to_string(&path) {
        Ok(text) => port_line(&text).unwrap_or(0),
        Err(why) if why.kind() == std::io::ErrorKind::NotFound => 0,
        Err(why) => {
            errors.push(format!("cannot read {}: {why}", path.display()));
            0
        }
    }
}

fn port_line(ssh_config: &str) -> Option<u16> {
    ssh_config
        .lines()
        .find_map(|line| line.trim().strip_prefix("Port ")?.trim().parse().ok())
}

fn read_version(dir: &InstanceDir) -> String {
    std::fs::read_to_string(dir.lima_version())
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

fn render_message(inspection: &mut Inspection, context: &InspectContext<'_>) {
    let Some(config) = &inspection.config else {
        return;
    };
    if config.message.is_empty() {
        return;
    }
    match (context.render_message)(&config.message, inspection) {
        Ok(message) => inspection.message = message,
        Err(why) => {
            inspection.errors.push(format!("message: {why}"));
            inspection.status = "Broken";
        }
    }
}
