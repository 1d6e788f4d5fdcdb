//! The driver `wsl2`, against a `wsl.exe` that keeps or breaks its contract on demand (`fake_wsl.py`), on a host that counts as
//! Windows.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![cfg(unix)]

mod importing;
mod stopping;
#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use berth_config::platform::{HostOs, HostPlatform};
use berth_driver::driver::{Driver, DriverContext, SnapshotAction, SshPort, VmEvent};
use berth_driver::error::DriverError;
use berth_driver::wsl2::Wsl2Driver;
use berth_driver::{end_killed, forget, stop_orphan};
use serde_json::{Value, json};
use support::{Instance, exit_of, ladder, patient};
use tokio::io::AsyncReadExt as _;

/// What a test waits for before it calls it a hang.
const HANG: Duration = Duration::from_secs(60);
const DISTRIBUTION: &str = "lima-vm";

/// An instance whose `wsl.exe` behaves in one way.
struct Fake {
    instance: Instance,
    env: Vec<(String, String)>,
    driver: Wsl2Driver,
}

impl Fake {
    /// With an image, and no distribution yet.
    fn new(behaviour: &str) -> Self {
        let home = tempfile::Builder::new().prefix("a b").tempdir().unwrap();
        let bin = home.path().join("bin");
        let machines = home.path().join("hv");
        for directory in [&bin, &machines] {
            fs::create_dir(directory).unwrap();
        }
        install(&bin, behaviour, home.path(), &machines);
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
        let env = [
            ("PATH", path.as_str()),
            ("BERTH_HYPERV_SOCKETS", machines.to_str().unwrap()),
        ];
        let instance = Instance::in_directory(home, &env);
        let driver = Wsl2Driver::new(context(&instance, &json!({})));
        let fake = Self {
            env: env
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .to_vec(),
            instance,
            driver,
        };
        archive(&fake.instance.dir.image());
        let cidata = fake.instance.dir.cidata_dir();
        fs::create_dir(&cidata).unwrap();
        fs::write(cidata.join("berth-guestagent"), "").unwrap();
        executable(&cidata.join("berth-guestagent"));
        fake
    }

    /// With the distribution.
    async fn imported(behaviour: &str) -> Self {
        let fake = Self::new("obeys");
        fake.driver.prepare_disk().await.unwrap();
        fake.behave(behaviour);
        fake
    }

    /// From now on in another way.
    fn behave(&self, behaviour: &str) {
        let home = self.instance.home.path();
        install(&home.join("bin"), behaviour, home, &home.join("hv"));
    }

    /// With little patience.
    fn hasty(mut self) -> Self {
        let driver = Wsl2Driver::new(context(&self.instance, &json!({})));
        self.driver = driver.with_patience(Duration::from_secs(2));
        self
    }

    fn registry(&self) -> Value {
        let text = fs::read_to_string(self.instance.home.path().join("registry.json"));
        serde_json::from_str(&text.unwrap_or_default()).unwrap_or_default()
    }

    fn state(&self) -> String {
        let state = &self.registry()[DISTRIBUTION]["state"];
        state.as_str().unwrap_or_default().to_owned()
    }

    /// Commands that were run, without the questions.
    fn orders(&self) -> Vec<String> {
        let log = fs::read_to_string(self.instance.home.path().join("log")).unwrap_or_default();
        let lines = log.lines().filter_map(|line| line.strip_prefix("wsl "));
        let orders = lines.filter(|line| !line.starts_with("--list"));
        let home = self.instance.home.path().to_str().unwrap();
        orders
            .map(|line| line.replace('\t', " ").replace(home, "HOME"))
            .collect()
    }

    fn vhdx(&self) -> PathBuf {
        self.instance.dir.path().join("ext4.vhdx")
    }

    fn pid_file(&self) -> PathBuf {
        self.instance.dir.vm_pid("wsl2")
    }

    /// Runs the fake by hand, as a person would.
    fn person(&self, words: &[&str]) {
        let program = self.instance.home.path().join("bin/wsl.exe");
        let mut command = Command::new(program);
        command.args(words).env("WSL_UTF8", "1").env("WSLENV", "");
        assert!(command.stdin(Stdio::null()).status().unwrap().success());
    }

    /// Waits until the fake was asked for it.
    async fn asked_for(&self, order: &str) {
        let asked = async {
            while !self.orders().iter().any(|line| line.contains(order)) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(HANG, asked).await.unwrap();
    }

    fn assert_stopped(&self) {
        assert_eq!(self.state(), "Stopped");
        assert!(!self.pid_file().exists());
    }

    async fn refused_start(&self) -> String {
        let error = self.driver.start().await.unwrap_err();
        assert!(!self.pid_file().exists());
        error.to_string()
    }
}

fn install(bin: &Path, behaviour: &str, home: &Path, machines: &Path) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fake_wsl.py");
    for name in ["wsl.exe", "powershell.exe"] {
        let words = [
            support::python(),
            script,
            name,
            behaviour,
            home.to_str().unwrap(),
        ];
        let text = format!(
            "#!/bin/sh\nexport BERTH_HYPERV_SOCKETS={}\nexec {} \"$@\"\n",
            shell_words::quote(machines.to_str().unwrap()),
            shell_words::join(words)
        );
        // A program that runs must not be written to.
        let new = bin.join("new");
        fs::write(&new, text).unwrap();
        executable(&new);
        fs::rename(new, bin.join(name)).unwrap();
    }
}

fn executable(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A root file system with nothing in it.
fn archive(path: &Path) {
    fs::write(path, [0; 10240]).unwrap();
}

/// The instance on Windows.
fn context(instance: &Instance, changes: &Value) -> DriverContext {
    let mut wanted = json!({"vmType": "wsl2", "vmOpts": {}, "firmware": {"legacyBIOS": false}});
    for (key, change) in changes.as_object().unwrap() {
        wanted[key] = change.clone();
    }
    let context = instance.context(&wanted);
    DriverContext {
        platform: Arc::new(HostPlatform {
            os: HostOs::Windows,
            ..HostPlatform::clone(&context.platform)
        }),
        ..context
    }
}

#[tokio::test]
async fn a_whole_life_in_every_encoding() {
    for behaviour in ["obeys", "utf16", "bom", "slow", "asks"] {
        let fake = Fake::new(behaviour);
        let (driver, dir) = (&fake.driver, &fake.instance.dir);
        driver.validate().unwrap();
        assert_eq!(
            driver.holds_system().await.unwrap(),
            Some(true),
            "the image"
        );
        driver.prepare_disk().await.unwrap();
        assert!(!dir.image().exists() && fake.vhdx().exists());
        assert_eq!(
            driver.holds_system().await.unwrap(),
            Some(true),
            "the distribution"
        );
        driver.prepare_disk().await.unwrap();
        assert_eq!(fake.orders().len(), 1, "imported once: {:?}", fake.orders());

        let mut vm = driver.start().await.unwrap();
        assert!(vm.identity.is_alive());
        let pid = fs::read_to_string(fake.pid_file()).unwrap();
        assert_eq!(pid.trim(), vm.identity.pid.to_string());
        let event = vm.events.recv().await.unwrap();
        assert_eq!(event, VmEvent::AgentPort { open: true });

        let mut agent = driver.guest_agent_conn().await.unwrap().unwrap();
        let mut hello = [0; 5];
        agent.read_exact(&mut hello).await.unwrap();
        assert_eq!(&hello, b"hello");

        let address = driver.ssh_address(SshPort::Configured(4022)).await.unwrap();
        assert_eq!(address.to_string(), "127.0.0.1:4022", "mirrored");

        let error = driver.start().await.unwrap_err().to_string();
        assert!(error.contains("runs already"), "{error}");

        driver.stop(patient()).await.unwrap();
        exit_of(&mut vm).await;
        fake.assert_stopped();
        driver.stop(patient()).await.unwrap();

        let mut vm = driver.start().await.unwrap();
        let mut agent = driver.guest_agent_conn().await.unwrap().unwrap();
        agent.read_exact(&mut hello).await.unwrap();
        driver.stop(patient()).await.unwrap();
        exit_of(&mut vm).await;

        forget(dir, &fake.env).await.unwrap();
        assert_eq!(fake.state(), "");
        assert!(!fake.vhdx().exists());
        forget(dir, &fake.env).await.unwrap();
    }
}

#[tokio::test]
async fn the_command_lines_word_for_word() {
    let fake = Fake::new("obeys");
    fake.driver.prepare_disk().await.unwrap();
    let _vm = fake.driver.start().await.unwrap();
    fake.driver.stop(patient()).await.unwrap();
    let inside = "--distribution lima-vm --user root --cd / --exec";
    let agent = fake.driver.info().vsock_port;
    let expected = [
        "--import lima-vm HOME/vm HOME/vm/image --version 2".to_owned(),
        format!("{inside} true"),
        format!("{inside} sleep 2147483647"),
        format!("{inside} wslpath -u HOME/vm/cidata"),
        format!(
            "{inside} /mnt/c/vm/cidata/berth-guestagent install --from=/mnt/c/vm/cidata --port=hvsock:{agent}"
        ),
        format!("{inside} systemctl --no-block poweroff"),
    ];
    let mut orders = fake.orders();
    // These two run side by side.
    orders[2..4].sort_by_key(|order| order.contains("wslpath"));
    assert_eq!(orders, expected);
}

#[tokio::test]
async fn instances_get_ports_and_names_of_their_own() {
    let (one, other) = (Fake::new("obeys"), Fake::new("obeys"));
    let port = |fake: &Fake| fake.driver.info().vsock_port;
    assert_ne!(port(&one), port(&other));
    let again = Wsl2Driver::new(context(&one.instance, &json!({})));
    assert_eq!(again.info().vsock_port, port(&one));
}

#[tokio::test]
async fn versions_that_fail_where_later_ones_say_nothing() {
    let fake = Fake::new("old");
    fake.driver.prepare_disk().await.unwrap();
    fake.driver.start().await.unwrap();
    let address = fake
        .driver
        .ssh_address(SshPort::Preferred(4022))
        .await
        .unwrap();
    assert_eq!(
        address.to_string(),
        "172.28.80.92:4022",
        "busybox has no -I"
    );
    fake.driver.stop(patient()).await.unwrap();
    fake.assert_stopped();
}

#[tokio::test]
async fn a_wsl_that_does_not_work_says_why() {
    let fake = Fake::new("broken");
    let error = fake.driver.prepare_disk().await.unwrap_err().to_string();
    assert!(
        error.starts_with("wsl.exe --list --all --quiet: exit status 255; it says: "),
        "{error}"
    );
    assert!(error.contains("nicht ordnungsgemäß"), "{error}");

    let fake = Fake::imported("garbage").await;
    let error = fake.refused_start().await;
    assert!(error.contains("there is no such distribution"), "{error}");
}

#[tokio::test]
async fn a_distribution_that_does_not_boot_says_why() {
    let fake = Fake::imported("no-boot").await;
    let error = fake.refused_start().await;
    assert!(error.contains("HCS"), "{error}");
    assert_eq!(fake.state(), "Stopped");
}

#[tokio::test]
async fn a_boot_without_end_and_a_guest_that_floods_are_cut_off() {
    for (behaviour, wanted) in [
        (
            "boot-hangs",
            "waited 2 s for `wsl.exe --distribution lima-vm",
        ),
        ("floods", "it prints more than 64 KiB"),
    ] {
        let fake = Fake::imported(behaviour).await.hasty();
        let error = fake.refused_start().await;
        assert!(error.contains(wanted), "{error}");
        assert_eq!(fake.state(), "Stopped");
    }
}

#[tokio::test]
async fn an_agent_that_cannot_be_installed_ends_the_distribution() {
    for (behaviour, wanted) in [
        ("no-agent", "neither systemd nor OpenRC"),
        ("path-lies", "HOME/vm/cidata is not in the guest"),
    ] {
        let fake = Fake::imported(behaviour).await;
        let error = fake.refused_start().await;
        let error = error.replace(fake.instance.home.path().to_str().unwrap(), "HOME");
        assert!(error.contains(wanted), "{error}");
        assert!(!error.contains('\u{1b}'), "{error}");
        fake.assert_stopped();
    }
}

#[tokio::test]
async fn a_keeper_that_dies_at_once_is_a_failure_with_its_words() {
    let fake = Fake::imported("dies").await;
    let error = fake.driver.start().await.unwrap_err();
    match error {
        DriverError::Died {
            how, stderr_tail, ..
        } => {
            assert_eq!(how, "exit status 1");
            assert!(
                stderr_tail.ends_with("Der Kernel ist abgestürzt."),
                "{stderr_tail}"
            );
            assert!(stderr_tail.contains("\\u{1b}[31m"), "{stderr_tail}");
        }
        other => panic!("{other:?}"),
    }
    fake.assert_stopped();
}

#[tokio::test]
async fn what_the_keeper_repeats_for_ever_is_cut() {
    let fake = Fake::imported("chatters").await;
    fake.driver.start().await.unwrap();
    let log = fake.instance.dir.vm_stderr_log();
    let grown = async {
        while fs::metadata(&log).unwrap().len() < 16 << 20 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(HANG, grown).await.unwrap();
    fake.driver.stop(patient()).await.unwrap();
    let size = std::os::unix::fs::MetadataExt::blocks(&fs::metadata(&log).unwrap()) * 512;
    assert!(size < 8 << 20, "{size} bytes");
    fake.assert_stopped();
}

#[tokio::test]
async fn a_guest_cannot_send_ssh_elsewhere() {
    let fake = Fake::imported("address-lies").await.hasty();
    fake.driver.start().await.unwrap();
    let error = fake.driver.ssh_address(SshPort::Configured(4022)).await;
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("has no address in a private network after 2 s"),
        "{error}"
    );
    assert!(!error.contains('\u{1b}'), "{error}");
    fake.driver.stop(patient()).await.unwrap();

    let fake = Fake::imported("nat").await;
    fake.driver.start().await.unwrap();
    let address = fake
        .driver
        .ssh_address(SshPort::Configured(4022))
        .await
        .unwrap();
    assert_eq!(address.to_string(), "172.28.80.91:4022");
    fake.driver.stop(patient()).await.unwrap();
}

#[tokio::test]
async fn the_machine_is_found_again_after_each_boot() {
    let fake = Fake::imported("stale").await;
    let found = || {
        let log = fs::read_to_string(fake.instance.home.path().join("log")).unwrap();
        log.lines().filter(|line| *line == "powershell").count()
    };
    fake.driver.start().await.unwrap();
    fake.driver.guest_agent_conn().await.unwrap().unwrap();
    fake.driver.guest_agent_conn().await.unwrap().unwrap();
    assert_eq!(
        found(),
        1,
        "asked once, and the machine that is gone passed over"
    );
    fake.driver.stop(patient()).await.unwrap();
    fake.driver.start().await.unwrap();
    fake.driver.guest_agent_conn().await.unwrap().unwrap();
    assert_eq!(found(), 2);
    fake.behave("no-machine");
    fake.driver.stop(patient()).await.unwrap();
    let error = fake
        .driver
        .guest_agent_conn()
        .await
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("no such process names WSL's virtual machine"),
        "{error}"
    );
    assert!(error.contains("Zugriff verweigert"), "{error}");
}

#[tokio::test]
async fn what_wsl_cannot_express_is_named_all_at_once() {
    let fake = Fake::new("obeys");
    let mount = |writable: bool| {
        json!({
            "location": "C:\\Users", "mountPoint": "/c/Users", "writable": writable,
            "sshfs": {"cache": true, "followSymlinks": false},
            "9p": {"securityModel": "none", "protocolVersion": "9p2000.L", "msize": "128KiB", "cache": "mmap"},
            "virtiofs": {}
        })
    };
    let changes = json!({
        "images": [
            {"location": "https://example.com/a.qcow2", "arch": "x86_64"},
        ],
        "tpm": true, "plain": true, "dns": ["1.1.1.1"], "mountType": "9p", "mounts": [mount(true), mount(false)],
        "ssh": {"overVsock": true}, "video": {"display": "vnc", "vnc": {}},
        "hostResolver": {"enabled": true, "ipv6": false, "hosts": {"a": "b"}},
        "networks": [{"vzNAT": true, "macAddress": "52:55:55:00:00:01", "interface": "lima0", "metric": 100}],
    });
    let driver = Wsl2Driver::new(context(&fake.instance, &changes));
    let error = driver.validate().unwrap_err().to_string();
    for key in [
        "images[0].location",
        "tpm",
        "plain",
        "dns",
        "mountType",
        "mounts[1].writable",
        "ssh.overVsock",
        "video.display",
        "hostResolver.hosts",
        "networks",
    ] {
        assert!(error.contains(&format!("{key}: ")), "{key}: {error}");
    }
    assert!(!error.contains("mounts[0].writable"), "{error}");
    let fine = json!({
        "images": [{"location": "https://example.com/root.tar.xz", "arch": "x86_64"}], "mounts": [mount(true)]
    });
    let driver = Wsl2Driver::new(context(&fake.instance, &fine));
    assert_eq!(driver.validate().unwrap(), [""; 0]);

    let error = driver.snapshot(SnapshotAction::List).await.unwrap_err();
    assert_eq!(error.to_string(), "snapshot: WSL cannot do that");
    assert!(matches!(
        driver.screenshot().await,
        Err(DriverError::NoDisplay)
    ));
    let missing = DriverContext {
        env: Arc::new(vec![("PATH".to_owned(), "/no/such/dir".to_owned())]),
        ..context(&fake.instance, &json!({}))
    };
    let error = Wsl2Driver::new(missing).validate().unwrap_err().to_string();
    assert!(
        error.starts_with("wsl.exe: not found in PATH; install WSL"),
        "{error}"
    );
}
