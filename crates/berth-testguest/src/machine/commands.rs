//! QMP commands.

use serde_json::{Map, Value, json};

use super::monitor::{Refusal, unknown, version};
use super::{End, Machine};

type Answer = Result<Value, Refusal>;

impl Machine {
    /// Carries out a command of a monitor.
    pub(super) fn execute(&mut self, name: &str, arguments: &Map<String, Value>) -> Answer {
        let done = Ok(json!({}));
        let text = |key: &str| {
            let value = arguments.get(key).and_then(Value::as_str);
            value.ok_or_else(|| Refusal::generic(format!("Parameter '{key}' is missing")))
        };
        match name {
            "stop" => self.pause(true).and(done),
            "cont" => self.pause(false).and(done),
            "system_powerdown" => {
                self.tell("POWERDOWN", None);
                self.press_power_button();
                done
            }
            "system_reset" => self.reset().and(done),
            "quit" => {
                self.end(End::Quit);
                done
            }
            "human-monitor-command" => Ok(json!(self.human(text("command-line")?))),
            "change-vnc-password" => text("password").and_then(|_| self.set_vnc_password()),
            "set_password" => match text("protocol")? {
                "vnc" => text("password").and_then(|_| self.set_vnc_password()),
                other => Err(Refusal::generic(format!("'{other}' is not supported here"))),
            },
            "screendump" => Err(Refusal::generic(
                "There is no console to take a screendump from",
            )),
            _ => self.query(name),
        }
    }

    fn set_vnc_password(&self) -> Answer {
        match &self.vnc {
            Some(vnc) if vnc.password => Ok(json!({})),
            _ => Err(Refusal::generic("Could not set password")),
        }
    }

    fn query(&self, name: &str) -> Answer {
        let status = self.run_state.name();
        Ok(match name {
            "query-version" => version(),
            "query-status" => {
                json!({ "status": status, "singlestep": false, "running": status == "running" })
            }
            "query-name" => json!({ "name": self.hardware.name }),
            "query-uuid" => json!({ "UUID": "00000000-0000-0000-0000-000000000000" }),
            "query-kvm" => json!({ "enabled": false, "present": true }),
            "query-target" => json!({ "arch": std::env::consts::ARCH }),
            "query-block" => json!([]),
            "query-memory-size-summary" => {
                json!({ "base-memory": self.hardware.memory, "plugged-memory": 0 })
            }
            "query-cpus-fast" => json!([{
                "cpu-index": 0, "qom-path": "/machine/unattached/device[0]",
                "thread-id": std::process::id(), "target": std::env::consts::ARCH,
            }]),
            "query-chardev" => self.query_chardev(),
            "query-vnc" => match &self.vnc {
                Some(vnc) => json!({
                    "enabled": true, "host": vnc.host, "service": vnc.port.to_string(),
                    "family": "ipv4", "auth": if vnc.password { "vnc" } else { "none" }, "clients": [],
                }),
                None => json!({ "enabled": false }),
            },
            _ => return Err(unknown(name)),
        })
    }

    fn query_chardev(&self) -> Value {
        let describe = |chardev: &crate::arguments::Chardev| {
            let filename = match &chardev.socket {
                Some(path) => format!("unix:{},server=on", path.display()),
                None => "null".to_owned(),
            };
            json!({ "label": chardev.id, "filename": filename, "frontend-open": true })
        };
        self.hardware.chardevs.iter().map(describe).collect()
    }
}
