//! Values for unit tests.

use std::path::PathBuf;

use berth_config::model::{Arch, Config};
use berth_config::platform::{HostOs, HostPlatform};
use berth_config::size::Size;

/// A host of a kind.
pub(crate) fn platform(os: HostOs, arch: Arch) -> HostPlatform {
    HostPlatform {
        os,
        arch,
        os_version: String::new(),
        cpus: 4,
        memory: Size::from_bytes(8 << 30),
        home: PathBuf::from("/home/jane"),
        user: "jane".to_owned(),
        user_comment: String::new(),
        uid: 501,
        machine_id: "0123456789abcdef".to_owned(),
        timezone: String::new(),
        temp_dir: PathBuf::from("/tmp"),
    }
}

/// A configuration as it comes from resolution, with `changes` merged over it.
pub(crate) fn config(changes: serde_json::Value) -> Config {
    let mut value = serde_json::json!({
        "vmType": "qemu", "os": "Linux", "arch": "x86_64", "images": [],
        "cpus": 2, "memory": "1GiB", "disk": "10GiB", "mountInotify": false,
        "ssh": {}, "firmware": {"legacyBIOS": true}, "audio": {},
        "video": {"display": "none", "vnc": {}},
        "upgradePackages": false, "containerd": {"system": false, "user": false},
        "guestInstallPrefix": "/usr/local", "hostResolver": {"enabled": true, "ipv6": false},
        "propagateProxyEnv": true, "caCerts": {}, "plain": false, "nestedVirtualization": false,
        "user": {"name": "jane", "home": "/home/jane.linux", "shell": "/bin/bash", "uid": 501, "passwordlessSudo": true},
        "tpm": false
    });
    merge(&mut value, changes);
    serde_json::from_value(value).expect("a configuration")
}

pub(crate) fn merge(into: &mut serde_json::Value, from: serde_json::Value) {
    match (into, from) {
        (serde_json::Value::Object(into), serde_json::Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(serde_json::Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

/// One entry of `mounts`.
pub(crate) fn mount(location: &str, writable: bool) -> serde_json::Value {
    serde_json::json!({
        "location": location, "mountPoint": "/mnt/x", "writable": writable,
        "sshfs": {"cache": true, "followSymlinks": false},
        "9p": {"securityModel": "none", "protocolVersion": "9p2000.L", "msize": "128KiB", "cache": "mmap"},
        "virtiofs": {}
    })
}
