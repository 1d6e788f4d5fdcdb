//! vfkit and krunkit, against a program that keeps or breaks their contracts on demand (`fake_kit.py`), on a host that counts as
//! a Mac.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![cfg(unix)]

mod support;

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use berth_config::model::Arch;
use berth_config::platform::{HostOs, HostPlatform};
use berth_driver::driver::{Driver, DriverContext, SnapshotAction, SshPort, VmEvent};
use berth_driver::error::DriverError;
use berth_driver::kit::{Flavour, KitDriver};
use berth_driver::krunkit::Krunkit;
use berth_driver::stop_orphan;
use berth_driver::vz::Vz;
use berth_process::identity::ProcessIdentity;
use serde_json::{Value, json};
use support::{Instance, exit_of, ladder, patient};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixDatagram};

/// What a test waits for before it calls it a hang.
const HANG: Duration = Duration::from_secs(60);

/// An instance whose program behaves in one way.
struct Fake {
    instance: Instance,
    log: PathBuf,
    flavour: &'static dyn Flavour,
    driver: KitDriver,
    _network: UnixDatagram,
}

impl Fake {
    fn new(flavour: &'static dyn Flavour, behaviour: &str) -> Self {
        let home = tempfile::tempdir().unwrap();
        let (log, bin) = (home.path().join("log"), home.path().join("bin"));
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fake_kit.py");
        let words = [
            support::python(),
            script,
            flavour.program(),
            behaviour,
            log.to_str().unwrap(),
        ];
        std::fs::create_dir(&bin).unwrap();
        let program = bin.join(flavour.program());
        std::fs::write(
            &program,
            format!("#!/bin/sh\nexec {} \"$@\"\n", shell_words::join(words)),
        )
        .unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let socket = home.path().join("net.sock");
        let network = UnixDatagram::bind(&socket).unwrap();
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
        let instance = Instance::in_directory(home, &[("PATH", &path)]);
        let networks = match flavour.name() {
            "krunkit" => {
                json!([{"socket": socket, "macAddress": "52:55:55:00:00:01", "interface": "lima0", "metric": 100}])
            }
            _ => json!([]),
        };
        let changes = json!({
            "vmType": flavour.name(), "arch": "aarch64", "vmOpts": {}, "firmware": {"legacyBIOS": false},
            "networks": networks
        });
        let driver = KitDriver::new(context(&instance, &changes), flavour);
        Self {
            instance,
            log,
            flavour,
            driver,
            _network: network,
        }
    }

    fn logged(&self, kind: &str) -> Vec<String> {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines = text.lines().filter_map(|line| line.strip_prefix(kind));
        lines.map(|line| line.trim().to_owned()).collect()
    }

    fn pid_file(&self) -> PathBuf {
        self.instance.dir.vm_pid(self.flavour.name())
    }

    fn assert_gone(&self) {
        let pid: u32 = self.logged("run").last().unwrap().parse().unwrap();
        assert!(!ProcessIdentity::of(pid).is_ok_and(|identity| identity.is_alive()));
        let left = self.instance.names();
        let extra: Vec<_> = left
            .iter()
            .filter(|name| {
                [".sock", ".pid"]
                    .iter()
                    .any(|ending| name.ends_with(ending))
            })
            .collect();
        assert!(extra.is_empty(), "left behind: {extra:?}");
    }

    async fn failure(&self) -> DriverError {
        let error = self.driver.start().await.unwrap_err();
        self.assert_gone();
        error
    }
}

/// The instance on a Mac.
fn context(instance: &Instance, changes: &Value) -> DriverContext {
    let context = instance.context(changes);
    DriverContext {
        platform: Arc::new(HostPlatform {
            os: HostOs::Darwin,
            arch: Arch::Aarch64,
            os_version: "15.1".to_owned(),
            ..HostPlatform::clone(&context.platform)
        }),
        ..context
    }
}

fn both() -> [&'static dyn Flavour; 2] {
    [&Vz, &Krunkit]
}

#[tokio::test]
async fn a_whole_life() {
    for flavour in both() {
        let fake = Fake::new(flavour, "obeys");
        fake.driver.validate().unwrap();
        let mut vm = fake.driver.start().await.unwrap();
        assert!(vm.identity.is_alive());
        let pid = std::fs::read_to_string(fake.pid_file()).unwrap();
        assert_eq!(pid.trim(), vm.identity.pid.to_string());

        let mut agent = fake.driver.guest_agent_conn().await.unwrap().unwrap();
        let mut hello = [0; 5];
        agent.read_exact(&mut hello).await.unwrap();
        assert_eq!(&hello, b"hello");

        let address = fake.driver.ssh_address(SshPort::Any).await.unwrap();
        assert_eq!(
            fake.driver.ssh_address(SshPort::Any).await.unwrap(),
            address
        );
        let mut ssh = TcpStream::connect(address).await.unwrap();
        let mut banner = [0; 14];
        ssh.read_exact(&mut banner).await.unwrap();
        assert_eq!(&banner, b"SSH-2.0-fake\r\n");
        ssh.write_all(b"over").await.unwrap();
        ssh.shutdown().await.unwrap();
        let mut rest = String::new();
        ssh.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "over", "half-closed, and answered all the same");

        let mut idle = TcpStream::connect(address).await.unwrap();
        idle.read_exact(&mut banner).await.unwrap();

        let error = fake.driver.start().await.unwrap_err().to_string();
        let wanted = format!("runs already (pid {})", vm.identity.pid);
        assert!(error.contains(&wanted), "{error}");

        fake.driver.stop(patient()).await.unwrap();
        assert_eq!(exit_of(&mut vm).await.failure, None);
        fake.assert_gone();
        assert_eq!(
            idle.read(&mut banner).await.unwrap_or(0),
            0,
            "nobody answers any more"
        );
        fake.driver.stop(patient()).await.unwrap();

        fake.driver.start().await.unwrap();
        fake.driver.stop(patient()).await.unwrap();
        fake.assert_gone();
    }
}

#[tokio::test]
async fn what_an_earlier_life_left_is_in_nobodys_way() {
    for flavour in both() {
        let fake = Fake::new(flavour, "obeys");
        for name in ["ga.sock", "ssh-vsock.sock", "ga-bell.sock", "vm.sock"] {
            std::fs::write(fake.instance.dir.path().join(name), "stale").unwrap();
        }
        fake.driver.start().await.unwrap();
        fake.driver.stop(patient()).await.unwrap();
        fake.assert_gone();
    }
}

#[tokio::test]
async fn a_slow_program_is_waited_for() {
    let fake = Fake::new(&Vz, "slow");
    fake.driver.start().await.unwrap();
    fake.driver.stop(patient()).await.unwrap();
    fake.assert_gone();
}

#[tokio::test]
async fn the_last_words_of_a_program_that_dies_at_once_are_in_the_error() {
    for flavour in both() {
        let fake = Fake::new(flavour, "dies");
        let error = fake.failure().await;
        let DriverError::Died {
            how, stderr_tail, ..
        } = &error
        else {
            panic!("{error:?}");
        };
        assert_eq!(how, "exit status 1");
        assert!(
            stderr_tail.ends_with("Error: hypervisor virtualization error"),
            "{stderr_tail}"
        );
        assert!(
            stderr_tail.contains("\\u{1b}[31m"),
            "escaped: {stderr_tail}"
        );
    }
}

#[tokio::test]
async fn a_program_that_never_runs_the_vm_is_ended() {
    for behaviour in ["silent", "no-vsock"] {
        let mut fake = Fake::new(&Vz, behaviour);
        let config = json!({"vmType": "vz", "arch": "aarch64", "vmOpts": {}, "firmware": {"legacyBIOS": false}});
        let driver = KitDriver::new(context(&fake.instance, &config), &Vz);
        fake.driver = driver.with_start_limit(Duration::from_secs(2));
        let error = fake.failure().await;
        assert!(
            matches!(error, DriverError::Timeout { seconds: 2, .. }),
            "{behaviour}: {error:?}"
        );
    }
}

#[tokio::test]
async fn lies_garbage_and_silence_of_the_service_are_failures() {
    for (behaviour, words) in [
        (
            "lies",
            "GET /vm/state: the VM is not running, but \"Error\"",
        ),
        (
            "paused",
            "GET /vm/state: the VM is not running, but \"Paused\"",
        ),
        ("garbage", "GET /vm/state: no HTTP answer"),
        ("endless", "GET /vm/state: no HTTP answer"),
        ("mute", "waited 5 s for an answer to GET /vm/state"),
    ] {
        let error = Fake::new(&Vz, behaviour).failure().await.to_string();
        assert!(error.starts_with(words), "{behaviour}: {error}");
    }
}

#[tokio::test]
async fn what_a_program_repeats_for_ever_is_cut() {
    let fake = Fake::new(&Vz, "floods");
    fake.driver.start().await.unwrap();
    let log = fake.instance.dir.vm_stderr_log();
    let size = || std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(&log).unwrap()) * 512;
    let grown = async {
        while std::fs::metadata(&log).unwrap().len() < 16 << 20 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(HANG, grown).await.unwrap();
    fake.driver.stop(patient()).await.unwrap();
    assert!(size() < 8 << 20, "{} bytes", size());
    fake.assert_gone();
}

#[tokio::test]
async fn a_crash_is_seen_at_once() {
    for flavour in both() {
        let fake = Fake::new(flavour, "obeys");
        let mut vm = fake.driver.start().await.unwrap();
        // Not through `Adopted`: two who wait for one process would take its exit status from each other.
        let pid = vm.identity.pid.to_string();
        let killed = std::process::Command::new("kill")
            .args(["-KILL", &pid])
            .status();
        assert!(killed.unwrap().success());
        let failure = exit_of(&mut vm).await.failure.unwrap();
        assert!(failure.starts_with("killed by signal 9"), "{failure}");
        fake.driver.stop(patient()).await.unwrap();
        fake.assert_gone();
    }
}

#[tokio::test]
async fn the_ladder_is_climbed_down() {
    for (flavour, behaviour, orders) in [
        (
            &Vz as &'static dyn Flavour,
            "deaf",
            vec![r#"{"state":"Stop"}"#, r#"{"state":"HardStop"}"#],
        ),
        (
            &Vz,
            "stubborn",
            vec![r#"{"state":"Stop"}"#, r#"{"state":"HardStop"}"#],
        ),
        (&Krunkit, "deaf", vec![r#"{"state":"Stop"}"#]),
        (&Krunkit, "stubborn", vec![r#"{"state":"Stop"}"#]),
    ] {
        let fake = Fake::new(flavour, behaviour);
        let mut vm = fake.driver.start().await.unwrap();
        let short = Duration::from_millis(500);
        fake.driver.stop(ladder(short, short).0).await.unwrap();
        assert_eq!(fake.logged("POST"), orders, "{behaviour}");
        let failure = exit_of(&mut vm).await.failure;
        let killed = failure
            .as_deref()
            .is_some_and(|how| how.starts_with("killed by signal 9"));
        assert_eq!(killed, behaviour == "stubborn", "{failure:?}");
        fake.assert_gone();
    }
}

#[tokio::test]
async fn a_second_signal_goes_to_the_bottom_at_once() {
    let fake = Fake::new(&Vz, "stubborn");
    fake.driver.start().await.unwrap();
    let (steps, hurry) = ladder(HANG * 10, HANG * 10);
    let stop = fake.driver.stop(steps);
    let hurrying = async {
        while fake.logged("POST").is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        hurry.send_replace(true);
    };
    let (stopped, ()) = tokio::time::timeout(HANG, async { tokio::join!(stop, hurrying) })
        .await
        .unwrap();
    stopped.unwrap();
    fake.assert_gone();
}

#[tokio::test]
async fn an_orphan_is_ended_by_whoever_finds_it() {
    for flavour in both() {
        let fake = Fake::new(flavour, "obeys");
        let mut vm = fake.driver.start().await.unwrap();
        let other = KitDriver::new(
            context(
                &fake.instance,
                &json!({"vmType": flavour.name(), "vmOpts": {}}),
            ),
            flavour,
        );
        let error = other.start().await.unwrap_err().to_string();
        assert!(
            error.contains(&format!("runs already (pid {})", vm.identity.pid)),
            "{error}"
        );
        other.stop(patient()).await.unwrap();
        assert!(vm.identity.is_alive(), "its files are not the other's");
        let dir = &fake.instance.dir;
        stop_orphan(flavour.name(), dir, &vm.identity, &patient(), &[])
            .await
            .unwrap();
        exit_of(&mut vm).await;
        fake.assert_gone();
        stop_orphan(flavour.name(), dir, &vm.identity, &patient(), &[])
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn the_bell_is_an_event() {
    for flavour in both() {
        let fake = Fake::new(flavour, "rings");
        let mut vm = fake.driver.start().await.unwrap();
        let event = tokio::time::timeout(HANG, vm.events.recv())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(event, VmEvent::AgentPort { open: true });
        fake.driver.stop(patient()).await.unwrap();
    }
}

#[tokio::test]
async fn a_busy_port_for_ssh_is_an_error_only_when_it_was_asked_for() {
    let fake = Fake::new(&Vz, "obeys");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let early = fake
        .driver
        .ssh_address(SshPort::Any)
        .await
        .unwrap_err()
        .to_string();
    assert_eq!(early, "SSH over vsock: the VM is not running");
    fake.driver.start().await.unwrap();
    let error = fake
        .driver
        .ssh_address(SshPort::Configured(port))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with(&format!("cannot listen on 127.0.0.1:{port}: ")),
        "{error}"
    );
    let address = fake
        .driver
        .ssh_address(SshPort::Preferred(port))
        .await
        .unwrap();
    assert_ne!(address.port(), port);
    fake.driver.stop(patient()).await.unwrap();
}

#[tokio::test]
async fn a_start_that_is_dropped_leaves_nothing_after_a_stop() {
    let fake = Fake::new(&Vz, "silent");
    let begun = async {
        while fake.logged("machine").is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::select! {
        started = fake.driver.start() => panic!("{started:?}"),
        () = begun => {}
    }
    fake.driver
        .stop(ladder(Duration::ZERO, HANG).0)
        .await
        .unwrap();
    fake.assert_gone();
}

#[tokio::test]
async fn what_these_programs_cannot_do_is_said() {
    for flavour in both() {
        let fake = Fake::new(flavour, "obeys");
        let program = flavour.program();
        let driver = &fake.driver;
        let error = driver
            .snapshot(SnapshotAction::List)
            .await
            .unwrap_err()
            .to_string();
        assert_eq!(error, format!("snapshot: {program} cannot do that"));
        driver.change_display_password("x").await.unwrap_err();
        driver.display_port().await.unwrap_err();
        assert!(matches!(
            driver.screenshot().await,
            Err(DriverError::NoDisplay)
        ));
    }
}

#[tokio::test]
async fn a_missing_program_says_how_to_get_it() {
    for (flavour, hint) in [
        (&Vz as &'static dyn Flavour, "brew install vfkit"),
        (&Krunkit, "brew install krunkit"),
    ] {
        let instance = Instance::new(&[]);
        let context = DriverContext {
            env: Arc::new(vec![("PATH".to_owned(), "/no/such/dir".to_owned())]),
            ..context(&instance, &json!({"vmType": flavour.name(), "vmOpts": {}}))
        };
        let driver = KitDriver::new(context, flavour);
        let error = driver.start().await.unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("{}: not found in PATH", flavour.program())),
            "{error}"
        );
        assert!(error.contains(hint), "{error}");
    }
}

#[tokio::test]
async fn an_image_becomes_a_raw_disk() {
    let fake = Fake::new(&Vz, "obeys");
    let dir = &fake.instance.dir;
    std::fs::remove_file(dir.disk()).unwrap();
    let image = std::process::Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2"])
        .arg(dir.image())
        .arg("1M")
        .status();
    assert!(image.unwrap().success());
    fake.driver.prepare_disk().await.unwrap();
    assert_eq!(std::fs::metadata(dir.disk()).unwrap().len(), 1 << 20);
    assert!(!dir.image().exists());
    fake.driver.start().await.unwrap();
    fake.driver.stop(patient()).await.unwrap();
}
