//! Starts, stops and failures against a QEMU that keeps or breaks the contract on demand (`fake_qemu.py`).

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![cfg(unix)]

mod orphans;
mod stopping;
#[path = "../support/mod.rs"]
mod support;

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use berth_driver::driver::{Driver, SnapshotAction, SshPort, VmEvent};
use berth_driver::error::DriverError;
use berth_driver::external::discovery::ExternalDrivers;
use berth_driver::qemu::argv::argv;
use berth_driver::qemu::{QemuDriver, stop_orphan};
use berth_process::identity::ProcessIdentity;
use serde_json::json;
use support::{Instance, exit_of, ladder, patient, python};
use tokio::io::AsyncReadExt as _;

/// An instance whose QEMU behaves in one way.
struct Fake {
    instance: Instance,
    log: PathBuf,
    driver: QemuDriver,
}

impl Fake {
    fn new(behaviour: &str) -> Self {
        Self::with(behaviour, &json!({}))
    }

    fn with(behaviour: &str, changes: &serde_json::Value) -> Self {
        let log = tempfile::NamedTempFile::new()
            .unwrap()
            .into_temp_path()
            .keep()
            .unwrap();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fake_qemu.py");
        let command = shell_words::join([python(), script, behaviour, log.to_str().unwrap()]);
        let instance = Instance::new(&[("QEMU_SYSTEM_X86_64", &command)]);
        let driver = instance.driver(changes);
        Self {
            instance,
            log,
            driver,
        }
    }

    fn logged(&self, kind: &str) -> Vec<String> {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines = text.lines().filter_map(|line| line.strip_prefix(kind));
        lines.map(|line| line.trim().to_owned()).collect()
    }

    /// The fake's process, if it still lives.
    fn lives(&self) -> bool {
        let pid: u32 = self.logged("run").last().unwrap().parse().unwrap();
        ProcessIdentity::of(pid).is_ok_and(|identity| identity.is_alive())
    }

    fn assert_gone(&self) {
        assert!(!self.lives());
        self.instance.assert_only_logs_are_left();
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.log);
    }
}

#[tokio::test]
async fn a_whole_life() {
    let fake = Fake::new("obeys");
    let mut vm = fake.driver.start().await.unwrap();
    assert!(vm.identity.is_alive());
    let pid = std::fs::read_to_string(fake.instance.dir.vm_pid("qemu")).unwrap();
    assert_eq!(pid.trim(), vm.identity.pid.to_string());

    let address = fake.driver.ssh_address(SshPort::Any).await.unwrap();
    TcpStream::connect(address).unwrap();
    assert_eq!(
        fake.driver.ssh_address(SshPort::Any).await.unwrap(),
        address,
        "asked twice, forwarded once"
    );
    assert_eq!(fake.logged("command human").len(), 1);

    let mut agent = fake.driver.guest_agent_conn().await.unwrap().unwrap();
    let mut hello = [0; 5];
    agent.read_exact(&mut hello).await.unwrap();
    assert_eq!(&hello, b"hello");

    let error = fake.driver.start().await.unwrap_err().to_string();
    assert!(
        error.contains(&format!("runs already (pid {})", vm.identity.pid)),
        "{error}"
    );

    fake.driver.stop(patient()).await.unwrap();
    let exit = exit_of(&mut vm).await;
    assert_eq!(exit.failure, None);
    fake.assert_gone();
    fake.driver.stop(patient()).await.unwrap();

    let vm = fake.driver.start().await.unwrap();
    assert!(vm.identity.is_alive(), "a second life");
    fake.driver.stop(patient()).await.unwrap();
}

#[tokio::test]
async fn nothing_is_asked_again_while_the_binary_is_the_same() {
    let fake = Fake::new("obeys");
    fake.driver.prepare_disk().await.unwrap();
    assert_eq!(fake.logged("probe").len(), 4);
    let other = fake.instance.driver(&json!({}));
    other.start().await.unwrap();
    other.stop(patient()).await.unwrap();
    assert_eq!(fake.logged("probe").len(), 4, "by another process, too");
}

#[tokio::test]
async fn a_replaced_binary_is_asked_again() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fake_qemu.py");
    let dir = tempfile::tempdir().unwrap();
    let (log, qemu) = (dir.path().join("log"), dir.path().join("qemu"));
    let content = std::fs::read_to_string(script).unwrap();
    let install = |content: &str| {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::write(&qemu, content).unwrap();
        std::fs::set_permissions(&qemu, std::fs::Permissions::from_mode(0o755)).unwrap();
    };
    install(&content);
    let command = shell_words::join([qemu.to_str().unwrap(), "obeys", log.to_str().unwrap()]);
    let instance = Instance::new(&[("QEMU_SYSTEM_X86_64", &command)]);
    let plan = instance.driver(&json!({})).plan().await.unwrap();
    assert_eq!(plan.program.path, qemu);
    install(&(content + "# a new version\n"));
    instance.driver(&json!({})).plan().await.unwrap();
    assert_eq!(std::fs::read_to_string(&log).unwrap().lines().count(), 8);
}

#[tokio::test]
async fn a_qemu_that_is_too_old_is_refused_before_anything_is_made() {
    let fake = Fake::new("ancient");
    let error = fake.driver.prepare_disk().await.unwrap_err().to_string();
    assert!(
        error.contains("is QEMU 3.1.0, but berth needs 4.0.0 or later"),
        "{error}"
    );
    let error = fake.driver.validate().unwrap_err().to_string();
    assert!(error.contains("is QEMU 3.1.0"), "remembered: {error}");
    let error = fake.driver.start().await.unwrap_err().to_string();
    assert!(error.contains("is QEMU 3.1.0"), "{error}");
    assert!(fake.logged("run").is_empty());
}

#[tokio::test]
async fn the_last_words_of_a_qemu_that_dies_at_once_are_in_the_error() {
    let fake = Fake::new("dies");
    let error = fake.driver.start().await.unwrap_err();
    let DriverError::Died {
        how, stderr_tail, ..
    } = &error
    else {
        panic!("{error:?}");
    };
    assert_eq!(how, "exit status 1");
    let words = "qemu: -drive file=x: \\u{1b}[31mCould not open 'x'\\u{1b}[0m\nqemu: giving up";
    assert_eq!(stderr_tail, words);
    assert!(error.to_string().ends_with(words));
    fake.assert_gone();
}

#[tokio::test]
async fn a_qemu_that_never_opens_its_monitor_is_ended() {
    for behaviour in ["mute", "no-greeting"] {
        let mut fake = Fake::new(behaviour);
        fake.driver.plan().await.unwrap();
        fake.driver = fake
            .instance
            .driver(&json!({}))
            .with_monitor_limit(Duration::from_secs(1));
        let error = fake.driver.start().await.unwrap_err();
        assert!(
            matches!(error, DriverError::Timeout { .. }),
            "{behaviour}: {error:?}"
        );
        assert!(error.to_string().contains("qmp-berth.sock"), "{error}");
        fake.assert_gone();
    }
}

#[tokio::test]
async fn a_monitor_that_speaks_nonsense_is_an_error() {
    for (behaviour, why) in [
        (
            "garbage-greeting",
            "not understood: \\xff\\xfe\\u{0} SSH-2.0-what",
        ),
        ("endless-greeting", "a line of more than 1048576 bytes"),
        ("hangs-up", "QEMU hung up"),
    ] {
        let fake = Fake::new(behaviour);
        let error = fake.driver.start().await.unwrap_err();
        assert!(
            matches!(error, DriverError::Monitor { .. }),
            "{behaviour}: {error:?}"
        );
        assert!(error.to_string().contains(why), "{behaviour}: {error}");
        fake.assert_gone();
    }
}

#[tokio::test]
async fn nonsense_in_between_costs_a_session_and_no_more() {
    let fake = Fake::new("garbage-later");
    fake.driver.start().await.unwrap();
    // The command that is under way may be lost with the session; the next one opens another.
    let _ = fake.driver.display_port().await;
    fake.driver.ssh_address(SshPort::Any).await.unwrap();
    assert_eq!(fake.logged("command qmp_capabilities").len(), 2);
    fake.driver.stop(patient()).await.unwrap();
    fake.assert_gone();
}

#[tokio::test]
async fn a_flood_of_events_drowns_nothing() {
    let fake = Fake::new("flood");
    let vm = fake.driver.start().await.unwrap();
    for _ in 0..10 {
        fake.driver.change_display_password("secret").await.unwrap();
    }
    drop(vm.events);
    fake.driver.stop(patient()).await.unwrap();
    fake.assert_gone();
}

#[tokio::test]
async fn events_are_told_in_order() {
    let fake = Fake::new("events");
    let mut vm = fake.driver.start().await.unwrap();
    let want = [
        VmEvent::AgentPort { open: true },
        VmEvent::Reset,
        VmEvent::Paused(true),
        VmEvent::Paused(false),
        VmEvent::AgentPort { open: false },
    ];
    for event in want {
        assert_eq!(vm.events.recv().await.unwrap(), event);
    }
    fake.driver.stop(patient()).await.unwrap();
    assert_eq!(vm.events.recv().await.unwrap(), VmEvent::Shutdown);
}

#[tokio::test]
async fn a_busy_port_is_named_with_the_key_that_asks_for_it() {
    let fake = Fake::new("obeys");
    fake.driver.start().await.unwrap();
    let busy = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = busy.local_addr().unwrap().port();
    let error = fake
        .driver
        .ssh_address(SshPort::Configured(port))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with(&format!(
            "cannot listen on 127.0.0.1:{port}: could not set up"
        )),
        "{error}"
    );
    assert!(error.contains("`ssh.localPort`"), "{error}");

    let other = fake
        .driver
        .ssh_address(SshPort::Preferred(port))
        .await
        .unwrap();
    assert_ne!(other.port(), port);
    TcpStream::connect(other).unwrap();
    fake.driver.stop(patient()).await.unwrap();

    drop(busy);
    fake.driver.start().await.unwrap();
    let address = fake
        .driver
        .ssh_address(SshPort::Preferred(port))
        .await
        .unwrap();
    assert_eq!(address.port(), port);
    fake.driver.stop(patient()).await.unwrap();
}

#[tokio::test]
async fn a_qemu_that_refuses_every_forward_is_believed() {
    let fake = Fake::new("refuses-forwards");
    fake.driver.start().await.unwrap();
    let error = fake.driver.ssh_address(SshPort::Any).await.unwrap_err();
    assert!(matches!(error, DriverError::Port { .. }), "{error:?}");
    assert!(
        error
            .to_string()
            .contains("could not set up host forwarding rule"),
        "{error}"
    );
    fake.driver.stop(patient()).await.unwrap();
}

#[tokio::test]
async fn a_monitor_that_does_not_answer_has_a_deadline() {
    let fake = Fake::new("deaf");
    let mut vm = fake.driver.start().await.unwrap();
    let error = fake.driver.display_port().await.unwrap_err().to_string();
    assert_eq!(error, "waited 3 s for QEMU's monitor to answer query-vnc");
    // Neither power button nor quit: SIGTERM does it.
    let (steps, _calm) = ladder(Duration::ZERO, Duration::from_secs(60));
    fake.driver.stop(steps).await.unwrap();
    let exit = exit_of(&mut vm).await;
    assert_eq!(exit.failure, None);
    fake.assert_gone();
}

#[tokio::test]
async fn the_screen() {
    let fake = Fake::with("obeys", &json!({"video": {"display": "vnc", "vnc": {}}}));
    let error = fake.driver.screenshot().await.unwrap_err().to_string();
    assert_eq!(error, "screendump: the VM is not running");
    fake.driver.start().await.unwrap();
    assert_eq!(fake.driver.display_port().await.unwrap(), 5907);
    assert_eq!(fake.driver.screenshot().await.unwrap(), b"\x89PNG picture");
    assert!(
        !fake
            .instance
            .names()
            .iter()
            .any(|name| name.contains("screenshot"))
    );
    fake.driver.stop(patient()).await.unwrap();

    let blind = fake.instance.driver(&json!({}));
    assert!(matches!(
        blind.screenshot().await.unwrap_err(),
        DriverError::NoDisplay
    ));
}

#[tokio::test]
async fn raw_disks_hold_no_snapshots() {
    let fake = Fake::new("obeys");
    let error = fake
        .driver
        .snapshot(SnapshotAction::List)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("is a raw disk, which cannot hold snapshots"),
        "{error}"
    );
}

#[tokio::test]
async fn what_is_missing_is_named_before_anything_is_made() {
    let instance = Instance::new(&[("QEMU_SYSTEM_X86_64", "/no/such/qemu")]);
    let driver = instance.driver(&json!({"os": "Darwin"}));
    let error = driver.validate().unwrap_err().to_string();
    assert!(error.starts_with("2 things are wrong:\n- os: "), "{error}");
    assert!(
        error.contains("- QEMU_SYSTEM_X86_64=/no/such/qemu: there is no such program"),
        "{error}"
    );
    let error = driver.start().await.unwrap_err();
    assert!(matches!(error, DriverError::Program { .. }), "{error:?}");
    assert_eq!(instance.names(), ["cidata.iso", "disk"]);
}

#[tokio::test]
async fn other_drivers_are_named_as_missing() {
    let instance = Instance::new(&[]);
    let context = instance.context(&json!({"vmType": "vz"}));
    let error =
        berth_driver::create_driver(context, &instance.cache(), &ExternalDrivers::default())
            .await
            .err()
            .unwrap()
            .to_string();
    assert_eq!(
        error,
        "vmType: \"vz\" needs macOS, and this host runs Linux: use \"qemu\""
    );
}
