//! An instance to start, with a QEMU of the test's choice.

#![allow(dead_code, reason = "each test file uses a part")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use berth_config::model::Arch;
use berth_config::platform::{HostOs, HostPlatform};
use berth_config::size::Size;
use berth_driver::driver::{DriverContext, RunningVm, StopLadder, VmExit};
use berth_driver::qemu::QemuDriver;
use berth_instance::dir::InstanceDir;
use serde_json::{Value, json};
use tokio::sync::watch;

pub(crate) struct Instance {
    pub(crate) home: tempfile::TempDir,
    pub(crate) dir: InstanceDir,
    env: Vec<(String, String)>,
}

impl Instance {
    /// In a directory whose name asks for trouble; `env` is added to `PATH`.
    pub(crate) fn new(env: &[(&str, &str)]) -> Self {
        let home = tempfile::Builder::new().prefix("a,b c").tempdir();
        Self::in_directory(home.unwrap(), env)
    }

    pub(crate) fn in_directory(home: tempfile::TempDir, env: &[(&str, &str)]) -> Self {
        let dir = home.path().join("vm");
        std::fs::create_dir(&dir).unwrap();
        let path = std::env::var("PATH").unwrap();
        let path = [("PATH", path.as_str())];
        // The first of a name counts.
        let env = env.iter().chain(&path);
        let instance = Self {
            env: env
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
            dir: InstanceDir::new(dir),
            home,
        };
        make_empty(&instance.dir.disk());
        make_empty(&instance.dir.cidata_iso());
        instance
    }

    pub(crate) fn context(&self, changes: &Value) -> DriverContext {
        DriverContext {
            name: "vm".to_owned(),
            dir: self.dir.clone(),
            config: Arc::new(config(changes)),
            platform: Arc::new(platform(self.home.path())),
            env: Arc::new(self.env.clone()),
        }
    }

    pub(crate) fn driver(&self, changes: &Value) -> QemuDriver {
        QemuDriver::new(self.context(changes), &self.cache()).unwrap()
    }

    pub(crate) fn cache(&self) -> PathBuf {
        self.home.path().join("cache")
    }

    /// Names in the instance's directory.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.dir.path()).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// What a VM leaves when it is gone: its disk, its logs, nothing else.
    pub(crate) fn assert_only_logs_are_left(&self) {
        let allowed = [
            "cidata.iso",
            "disk",
            "vm.stderr.log",
            "serial.log",
            "serialv.log",
            "qemu-efi-vars.fd",
            "swtpm",
        ];
        let extra: Vec<_> = self
            .names()
            .into_iter()
            .filter(|name| !allowed.contains(&name.as_str()))
            .collect();
        assert!(extra.is_empty(), "left behind: {extra:?}");
    }
}

fn make_empty(path: &Path) {
    std::fs::File::create(path)
        .unwrap()
        .set_len(1 << 20)
        .unwrap();
}

fn platform(home: &Path) -> HostPlatform {
    HostPlatform {
        os: HostOs::Linux,
        arch: Arch::X8664,
        os_version: String::new(),
        cpus: 2,
        memory: Size::from_bytes(4 << 30),
        home: home.to_owned(),
        user: "jane".to_owned(),
        user_comment: String::new(),
        uid: 1000,
        machine_id: "0123456789abcdef".to_owned(),
        timezone: String::new(),
        temp_dir: PathBuf::from("/tmp"),
    }
}

fn config(changes: &Value) -> berth_config::model::Config {
    let mut value = json!({
        "vmType": "qemu", "os": "Linux", "arch": "x86_64", "images": [],
        "cpus": 1, "memory": "128MiB", "disk": "1MiB", "mountInotify": false,
        "vmOpts": {"qemu": {"accel": "tcg"}},
        "ssh": {}, "firmware": {"legacyBIOS": true}, "audio": {},
        "video": {"display": "none", "vnc": {}},
        "upgradePackages": false, "containerd": {"system": false, "user": false},
        "guestInstallPrefix": "/usr/local", "hostResolver": {"enabled": true, "ipv6": false},
        "propagateProxyEnv": true, "caCerts": {}, "plain": false, "nestedVirtualization": false,
        "user": {"name": "jane", "home": "/home/jane.linux", "shell": "/bin/bash", "uid": 1000, "passwordlessSudo": true},
        "tpm": false
    });
    for (key, change) in changes.as_object().unwrap() {
        value[key] = change.clone();
    }
    serde_json::from_value(value).unwrap()
}

/// A ladder with rungs of these lengths; the sender is for those in a hurry.
pub(crate) fn ladder(power_down: Duration, quit: Duration) -> (StopLadder, watch::Sender<bool>) {
    let (sender, hurry) = watch::channel(false);
    (
        StopLadder {
            power_down,
            quit,
            hurry,
        },
        sender,
    )
}

/// A ladder whose waits are only hang detectors.
pub(crate) fn patient() -> StopLadder {
    ladder(Duration::from_secs(60), Duration::from_secs(60)).0
}

/// The system's Python starts faster than one that a version switcher finds.
pub(crate) fn python() -> &'static str {
    let system = "/usr/bin/python3";
    if Path::new(system).exists() {
        system
    } else {
        "python3"
    }
}

/// Waits for the end of a VM; only a hang takes longer than that.
pub(crate) async fn exit_of(vm: &mut RunningVm) -> VmExit {
    const HANG: Duration = Duration::from_secs(120);
    let exit = tokio::time::timeout(HANG, vm.exit.wait_for(Option::is_some)).await;
    exit.unwrap().unwrap().clone().unwrap()
}
