//! An instance as JSON: what `Configure` and `--inspect-status` carry. Keys that this side does not know travel through it.

use berth_config::model::Config;
use serde_json::{Map, Value, json};

use crate::driver::DriverContext;

/// The instance as a driver is told of it, in Lima's keys.
pub(super) fn describe(context: &DriverContext, ssh_port: u16) -> Value {
    let (dir, config) = (&context.dir, &context.config);
    let version = std::fs::read_to_string(dir.lima_version()).unwrap_or_default();
    json!({
        "name": context.name,
        "hostname": berth_config::name::hostname(&context.name),
        "status": "Stopped",
        "dir": dir.path(),
        "vmType": config.vm_type.as_str(),
        "arch": config.arch,
        "cpus": config.cpus,
        "memory": config.memory.bytes(),
        "disk": config.disk.bytes(),
        "additionalDisks": config.additional_disks,
        "network": config.networks,
        "sshLocalPort": ssh_port,
        "sshConfigFile": dir.ssh_config(),
        "config": **config,
        "sshAddress": "127.0.0.1",
        "protected": dir.protected().exists(),
        "limaVersion": version.trim(),
        "param": config.param,
    })
}

/// Why an answer to `Configure` cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadInstance {
    #[error("it is no JSON object: {0}")]
    NoObject(String),
    #[error("its configuration is none: {0}")]
    Config(String),
}

/// An instance that somebody else wrote.
#[derive(Debug, Clone)]
pub(super) struct Instance(Map<String, Value>);

impl Instance {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, BadInstance> {
        let no_object = |why: &dyn std::fmt::Display| {
            BadInstance::NoObject(berth_process::escape::escape_untrusted(
                why.to_string().as_bytes(),
            ))
        };
        match serde_json::from_slice(bytes) {
            Ok(Value::Object(object)) => Ok(Self(object)),
            Ok(_) => Err(no_object(&"it is another value")),
            Err(error) => Err(no_object(&error)),
        }
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        // A map with text for keys always has a JSON.
        serde_json::to_vec(&self.0).unwrap_or_default()
    }

    /// Its name; empty: none.
    pub(super) fn name(&self) -> &str {
        self.0
            .get("name")
            .and_then(Value::as_str)
            .unwrap_or_default()
    }

    /// Port of the guest's sshd on the host; 0: none.
    pub(super) fn ssh_port(&self) -> u16 {
        let port = self.0.get("sshLocalPort").and_then(Value::as_u64);
        port.and_then(|port| port.try_into().ok()).unwrap_or(0)
    }

    /// Its configuration, as it was written.
    pub(super) fn config(&self) -> Value {
        self.0.get("config").cloned().unwrap_or_else(|| json!({}))
    }

    pub(super) fn set(&mut self, key: &str, value: Value) {
        self.0.insert(key.to_owned(), value);
    }

    /// `sent` with everything over it that the driver filled in.
    ///
    /// Go leaves out what is empty, so what does not come back stays as it was.
    pub(super) fn config_over(&self, sent: &Config) -> Result<Config, BadInstance> {
        let bad = |error: serde_json::Error| {
            let text = error.to_string();
            BadInstance::Config(berth_process::escape::escape_untrusted(text.as_bytes()))
        };
        let mut config = serde_json::to_value(sent).map_err(bad)?;
        lay_over(&mut config, self.config());
        let mut config: Config = serde_json::from_value(config).map_err(bad)?;
        // By this name the driver was found; whatever it calls itself.
        config.vm_type.clone_from(&sent.vm_type);
        Ok(config)
    }

    /// Notes in the configuration what a driver has changed between `before` and `after`; everything else stays as it was written.
    pub(super) fn note_changes(&mut self, before: &Config, after: &Config) {
        let value = |config: &Config| serde_json::to_value(config).unwrap_or_default();
        let mut config = self.config();
        if let Some(changes) = difference(&value(before), &value(after)) {
            lay_over(&mut config, changes);
        }
        self.set("config", config);
    }
}

/// Lays objects over each other, key by key, and lists of the same length, entry by entry. Null changes nothing.
fn lay_over(below: &mut Value, over: Value) {
    match (below, over) {
        (_, Value::Null) => {}
        (Value::Object(below), Value::Object(over)) => {
            for (key, value) in over {
                if !value.is_null() {
                    lay_over(below.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        (Value::Array(below), Value::Array(over)) if below.len() == over.len() => {
            for (below, over) in below.iter_mut().zip(over) {
                lay_over(below, over);
            }
        }
        (below, over) => *below = over,
    }
}

/// What must be laid over `before` to get `after`; `None`: nothing. A key that is gone stays.
fn difference(before: &Value, after: &Value) -> Option<Value> {
    match (before, after) {
        _ if before == after => None,
        (Value::Object(before), Value::Object(after)) => {
            let changed = after.iter().filter_map(|(key, value)| {
                let old = before.get(key).unwrap_or(&Value::Null);
                Some((key.clone(), difference(old, value)?))
            });
            Some(Value::Object(changed.collect()))
        }
        _ => Some(after.clone()),
    }
}

#[cfg(test)]
mod tests {
    use berth_config::model::MountType;

    use super::*;
    use crate::testing::{config, mount};

    #[test]
    fn what_a_driver_fills_in_comes_over_what_was_sent() {
        let sent =
            config(json!({"vmType": "mine", "mounts": [mount("/a", true), mount("/b", false)]}));
        let answer = json!({"config": {
            "vmType": "other", "mountType": "9p", "cpus": null, "unknown": {"a": 1},
            "mounts": [{"virtiofs": {"queueSize": 512}}, {}], "video": {"vnc": {"display": "127.0.0.1:0"}}
        }});
        let answer = Instance::parse(answer.to_string().as_bytes()).unwrap();
        let config = answer.config_over(&sent).unwrap();
        assert_eq!(config.mount_type, Some(MountType::NineP));
        assert_eq!(config.vm_type, sent.vm_type);
        assert_eq!(config.cpus, sent.cpus);
        assert_eq!(config.mounts[0].virtiofs.queue_size, Some(512));
        assert_eq!(config.mounts[1], sent.mounts[1]);
        assert_eq!(config.video.vnc.display, "127.0.0.1:0");
    }

    #[test]
    fn a_configuration_that_is_none_is_refused() {
        let sent = config(json!({}));
        for answer in [
            r#"{"config": 7}"#,
            r#"{"config": {"mountType": "mine"}}"#,
            r#"{"config": {"cpus": "\u001b"}}"#,
        ] {
            let answer = Instance::parse(answer.as_bytes()).unwrap();
            let error = answer.config_over(&sent).unwrap_err().to_string();
            assert!(error.starts_with("its configuration is none"), "{error}");
            assert!(!error.contains('\x1b'));
        }
        for bytes in [&b""[..], b"[]", b"{", b"\xff\x1b"] {
            let error = Instance::parse(bytes).unwrap_err().to_string();
            assert!(error.starts_with("it is no JSON object"), "{error}");
        }
    }

    #[test]
    fn only_what_the_driver_changed_is_written() {
        let before = config(json!({}));
        let after =
            config(json!({"mountType": "9p", "video": {"vnc": {"display": "127.0.0.1:0,to=9"}}}));
        let text = r#"{"name":"vm","later":[{"x":1}],"config":{"cpus":7,"video":{"display":"none","more":true}}}"#;
        let mut instance = Instance::parse(text.as_bytes()).unwrap();
        instance.note_changes(&before, &after);
        let wanted = json!({"name": "vm", "later": [{"x": 1}], "config": {
            "cpus": 7, "video": {"display": "none", "more": true, "vnc": {"display": "127.0.0.1:0,to=9"}}, "mountType": "9p"
        }});
        let bytes = instance.to_bytes();
        assert_eq!(serde_json::from_slice::<Value>(&bytes).unwrap(), wanted);
    }

    #[test]
    fn a_port_that_is_none_is_zero() {
        for (text, port) in [
            ("{}", 0),
            (r#"{"sshLocalPort": 60022}"#, 60022),
            (r#"{"sshLocalPort": 65536}"#, 0),
            (r#"{"sshLocalPort": "x"}"#, 0),
        ] {
            assert_eq!(Instance::parse(text.as_bytes()).unwrap().ssh_port(), port);
        }
    }
}
