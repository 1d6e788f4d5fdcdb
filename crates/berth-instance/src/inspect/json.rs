//! The JSON of `list --json`: Lima's keys in Lima's order, then ours.

use berth_config::platform::{HostOs, HostPlatform};
use serde::Serialize;
use serde_json::{Map, Value};

use super::Inspection;
use crate::home::LimaHome;

/// Keys that are written even when they are empty.
const ALWAYS: [&str; 12] = [
    "name",
    "hostname",
    "status",
    "dir",
    "vmType",
    "arch",
    "protected",
    "limaVersion",
    "HostOS",
    "HostArch",
    "LimaHome",
    "IdentityFile",
];

impl Inspection {
    /// The instance as one JSON object. Empty values and empty objects are left out, at every depth; what is ours comes last.
    #[must_use]
    pub fn to_json(&self, home: &LimaHome, platform: &HostPlatform) -> Map<String, Value> {
        let config = self.config.as_ref();
        let is_wsl2 = config.is_some_and(|c| c.vm_type.as_str() == "wsl2");
        let size = |bytes: Option<u64>| value(if is_wsl2 { 0 } else { bytes.unwrap_or(0) });
        let fields = [
            ("name", value(&self.name)),
            ("hostname", value(&self.hostname)),
            ("status", value(self.status)),
            ("dir", value(self.dir.path())),
            ("vmType", value(config.map_or("", |c| c.vm_type.as_str()))),
            ("arch", config.map_or_else(|| value(""), |c| value(c.arch))),
            ("cpus", value(config.map_or(0, |c| c.cpus))),
            ("memory", size(config.map(|c| c.memory.bytes()))),
            ("disk", size(config.map(|c| c.disk.bytes()))),
            (
                "message",
                value(self.message.strip_suffix('\n').unwrap_or(&self.message)),
            ),
            (
                "additionalDisks",
                value(config.map(|c| &c.additional_disks)),
            ),
            ("network", value(config.map(|c| &c.networks))),
            ("sshLocalPort", value(self.ssh_local_port)),
            ("sshConfigFile", value(self.dir.ssh_config())),
            ("hostAgentPID", value(self.host_agent_pid)),
            ("driverPID", value(self.driver_pid)),
            ("errors", value(&self.errors)),
            ("config", value(config)),
            ("sshAddress", value(Self::SSH_ADDRESS)),
            ("protected", value(self.protected)),
            ("limaVersion", value(&self.lima_version)),
            ("param", value(config.map(|c| &c.param))),
            (
                "autoStartedIdentifier",
                value(&self.auto_started_identifier),
            ),
            ("HostOS", value(go_os(platform.os))),
            ("HostArch", value(platform.arch)),
            ("LimaHome", value(home.path())),
            ("IdentityFile", value(home.user_key())),
            ("berthState", value(&self.berth_state)),
            ("berthForwards", value(&self.forwards)),
            ("berthNames", value(&self.names)),
        ];
        fields
            .into_iter()
            .filter_map(|(key, value)| {
                let value = without_empty_objects(value);
                let kept = ALWAYS.contains(&key) || !is_empty(&value);
                kept.then(|| (key.to_owned(), value))
            })
            .collect()
    }
}

/// What has no JSON (a path that is no text) is null, and left out.
fn value(of: impl Serialize) -> Value {
    serde_json::to_value(of).unwrap_or(Value::Null)
}

/// Go's word for a system.
fn go_os(os: HostOs) -> &'static str {
    match os {
        HostOs::Linux => "linux",
        HostOs::Darwin => "darwin",
        HostOs::Windows => "windows",
        HostOs::Other => "unix",
    }
}

/// Empty by Go's rule for `omitempty`.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

fn without_empty_objects(value: Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .into_iter()
            .map(|(key, value)| (key, without_empty_objects(value)))
            .filter(|(_, value)| value.as_object().is_none_or(|fields| !fields.is_empty()))
            .collect(),
        Value::Array(items) => items.into_iter().map(without_empty_objects).collect(),
        other => other,
    }
}
