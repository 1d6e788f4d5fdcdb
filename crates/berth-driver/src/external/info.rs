//! What a driver is, as JSON: the payload of `Info`.

use serde::{Deserialize, Serialize};

use crate::driver::{DefaultNetwork, DriverFeatures, DriverInfo};

/// Lima's `driver.Info`. Unknown keys are passed over, and missing ones are empty.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Info {
    pub(super) name: String,
    pub(super) vsock_port: u32,
    pub(super) virtio_port: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) instance_dir: String,
    pub(super) features: Features,
    /// What only berth tells, and only berth reads.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) berth: Option<Extension>,
}

/// `features`. All but the first and the last are always written, as Lima does.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "a set of independent flags on Lima's wire"
)]
pub(super) struct Features {
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) can_run_gui: bool,
    #[serde(rename = "dynamicSSHAddress")]
    pub(super) dynamic_ssh_address: bool,
    #[serde(rename = "staticSSHPort")]
    pub(super) static_ssh_port: bool,
    pub(super) skip_socket_forwarding: bool,
    pub(super) no_cloud_init: bool,
    pub(super) rosetta_enabled: bool,
    pub(super) rosetta_bin_fmt: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) supported_image_formats: Option<Vec<String>>,
}

/// What Lima's contract has no words for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Extension {
    /// Socket in the instance's directory that leads to berth's guest agent, once the VM runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) agent_socket: Option<String>,
    /// The guest's first interface is in a network of somebody else's.
    pub(super) nat: bool,
}

/// Longest list and longest word that are taken from a driver.
const MAX_FORMATS: usize = 32;
const MAX_WORD: usize = 64;

impl Info {
    /// What a client makes of it. `name` is the driver's name as it was found: what it calls itself decides nothing.
    pub(super) fn driver_info(&self, name: &str) -> DriverInfo {
        let features = &self.features;
        let formats = features.supported_image_formats.iter().flatten();
        let word = |word: &&String| word.len() <= MAX_WORD;
        DriverInfo {
            name: name.to_owned(),
            vsock_port: self.vsock_port,
            virtio_port: self.virtio_port.chars().take(MAX_WORD).collect(),
            network: if self.berth.as_ref().is_some_and(|berth| berth.nat) {
                DefaultNetwork::Nat
            } else {
                DefaultNetwork::User
            },
            features: DriverFeatures {
                can_run_gui: features.can_run_gui,
                dynamic_ssh_address: features.dynamic_ssh_address,
                static_ssh_port: features.static_ssh_port,
                skip_socket_forwarding: features.skip_socket_forwarding,
                no_cloud_init: features.no_cloud_init,
                rosetta_enabled: features.rosetta_enabled,
                rosetta_bin_fmt: features.rosetta_bin_fmt,
                supported_image_formats: formats.filter(word).take(MAX_FORMATS).cloned().collect(),
            },
        }
    }

    /// The socket to berth's guest agent, if it names one in the instance's own directory.
    pub(super) fn agent_socket(&self) -> Option<&str> {
        let name = self.berth.as_ref()?.agent_socket.as_deref()?;
        let stem = name.strip_suffix(".sock")?;
        (!stem.contains(['/', '\\', '\0'])).then_some(name)
    }

    /// What a server tells of a driver of ours, under the name that it is served by.
    ///
    /// Lima takes a virtio port for one where its own guest agent is to listen, so ours is not told.
    pub(super) fn of(driver: &DriverInfo, name: &str, extension: Extension) -> Self {
        let features = &driver.features;
        let formats = &features.supported_image_formats;
        Self {
            name: name.to_owned(),
            vsock_port: driver.vsock_port,
            virtio_port: String::new(),
            instance_dir: String::new(),
            features: Features {
                can_run_gui: features.can_run_gui,
                dynamic_ssh_address: features.dynamic_ssh_address,
                static_ssh_port: features.static_ssh_port,
                skip_socket_forwarding: features.skip_socket_forwarding,
                no_cloud_init: features.no_cloud_init,
                rosetta_enabled: features.rosetta_enabled,
                rosetta_bin_fmt: features.rosetta_bin_fmt,
                supported_image_formats: (!formats.is_empty()).then(|| formats.clone()),
            },
            berth: Some(extension),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn limas_keys_are_all_there() {
        let driver = DriverInfo {
            name: "qemu".to_owned(),
            virtio_port: "port".to_owned(),
            features: DriverFeatures {
                supported_image_formats: vec!["raw".to_owned()],
                ..DriverFeatures::default()
            },
            ..DriverInfo::default()
        };
        let told = Info::of(&driver, "mine", Extension::default());
        let wanted = json!({
            "name": "mine", "vsockPort": 0, "virtioPort": "",
            "features": {
                "dynamicSSHAddress": false, "staticSSHPort": false, "skipSocketForwarding": false, "noCloudInit": false,
                "rosettaEnabled": false, "rosettaBinFmt": false, "supportedImageFormats": ["raw"]
            },
            "berth": {"nat": false}
        });
        assert_eq!(serde_json::to_value(told).unwrap(), wanted);
    }

    #[test]
    fn what_a_driver_tells_is_read_leniently() {
        let text = r#"{"name": "x", "vsockPort": 7, "new": 1, "features":
            {"canRunGui": true, "staticSSHPort": true, "supportedImageFormats": null, "newToo": []}}"#;
        let info: Info = serde_json::from_str(text).unwrap();
        let info = info.driver_info("mine");
        assert_eq!((info.name.as_str(), info.vsock_port), ("mine", 7));
        assert!(info.features.can_run_gui && info.features.static_ssh_port);
        assert_eq!(info.features.supported_image_formats, [""; 0]);
        assert_eq!(serde_json::from_str::<Info>("{}").unwrap(), Info::default());
        assert!(serde_json::from_str::<Info>(r#"{"vsockPort": -1}"#).is_err());
    }

    #[test]
    fn the_agents_socket_is_in_the_instance() {
        for (name, plain) in [
            ("ga.sock", true),
            ("../ga.sock", false),
            ("/run/docker.sock", false),
            ("ga", false),
        ] {
            let info = Info {
                berth: Some(Extension {
                    agent_socket: Some(name.to_owned()),
                    nat: false,
                }),
                ..Info::default()
            };
            assert_eq!(info.agent_socket().is_some(), plain, "{name}");
        }
    }
}
