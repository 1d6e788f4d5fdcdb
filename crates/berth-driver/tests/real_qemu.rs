//! The driver against the QEMU that is installed, under TCG, with nothing to boot: what only QEMU itself can judge.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![cfg(target_os = "linux")]

mod support;

use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use berth_driver::driver::{Driver, SnapshotAction, SshPort, StopLadder};
use berth_driver::error::DriverError;
use berth_driver::qemu::argv::argv;
use berth_driver::qemu::stop_orphan;
use berth_process::identity::ProcessIdentity;
use serde_json::json;
use support::{Instance, exit_of, ladder, patient};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};

/// No guest hears the power button.
fn without_power_button() -> StopLadder {
    ladder(Duration::ZERO, Duration::from_secs(60)).0
}

fn with_qcow2(instance: &Instance) {
    let made = Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2"])
        .arg(instance.dir.disk())
        .arg("64M")
        .status()
        .expect("qemu-img is installed (`cargo xtask test` does it)");
    assert!(made.success());
}

#[tokio::test]
async fn starts_forwards_and_stops() {
    let instance = Instance::new(&[]);
    let driver = instance.driver(&json!({}));
    assert_eq!(driver.validate().unwrap(), Vec::<String>::new());
    let mut vm = driver.start().await.unwrap();
    let pid = std::fs::read_to_string(instance.dir.vm_pid("qemu")).unwrap();
    assert_eq!(pid.trim(), vm.identity.pid.to_string());

    let busy = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = busy.local_addr().unwrap().port();
    let error = driver
        .ssh_address(SshPort::Configured(port))
        .await
        .unwrap_err();
    assert!(matches!(error, DriverError::Port { .. }), "{error:?}");
    let text = error.to_string();
    assert!(
        text.contains(&format!("127.0.0.1:{port}")) && text.contains("`ssh.localPort`"),
        "{text}"
    );
    let address = driver.ssh_address(SshPort::Preferred(port)).await.unwrap();
    TcpStream::connect(address).unwrap();

    drop(driver.guest_agent_conn().await.unwrap().unwrap());
    drop(
        driver
            .guest_agent_conn()
            .await
            .unwrap()
            .expect("again, as after a crash of the agent"),
    );
    assert!(matches!(
        driver.screenshot().await.unwrap_err(),
        DriverError::NoDisplay
    ));

    driver.stop(without_power_button()).await.unwrap();
    let exit = exit_of(&mut vm).await;
    assert_eq!((exit.failure, exit.stderr_tail.as_str()), (None, ""));
    instance.assert_only_logs_are_left();
}

/// UEFI firmware, its variables, VNC, a TPM, a shared directory, an extra disk and a disc, all in one machine.
#[tokio::test]
async fn accepts_every_device() {
    let instance = Instance::new(&[]);
    with_qcow2(&instance);
    let extra = instance.home.path().join("_disks/data/datadisk");
    std::fs::create_dir_all(extra.parent().unwrap()).unwrap();
    std::fs::copy(instance.dir.disk(), &extra).unwrap();
    let share = instance.home.path().join("share, d");
    let driver = instance.driver(&json!({
        "firmware": {"legacyBIOS": false}, "memory": "256MiB",
        "video": {"display": "vnc", "vnc": {}}, "audio": {"device": "none", "interface": "hda"},
        "additionalDisks": [{"name": "data", "format": true, "fsType": "ext4"}],
        "mounts": [{
            "location": share, "mountPoint": "/mnt/x", "writable": false,
            "sshfs": {"cache": true, "followSymlinks": false}, "virtiofs": {},
            "9p": {"securityModel": "none", "protocolVersion": "9p2000.L", "msize": "128KiB", "cache": "mmap"}
        }]
    }));
    driver.start().await.unwrap();
    assert!(instance.dir.efi_vars().is_file());
    assert!(share.is_dir());
    driver.change_display_password("12345678").await.unwrap();
    let port = driver.display_port().await.unwrap();
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    let picture = driver.screenshot().await.unwrap();
    assert!(picture.starts_with(b"\x89PNG\r\n\x1a\n"));

    assert!(
        !instance
            .names()
            .iter()
            .any(|name| name.contains("screenshot"))
    );
    driver.stop(without_power_button()).await.unwrap();
    instance.assert_only_logs_are_left();
}

#[tokio::test]
async fn snapshots_of_a_running_machine_with_uefi() {
    let instance = Instance::new(&[]);
    with_qcow2(&instance);
    let driver = instance.driver(&json!({"firmware": {"legacyBIOS": false}}));
    driver.start().await.unwrap();
    let tag = || "before".to_owned();
    driver
        .snapshot(SnapshotAction::Create(tag()))
        .await
        .unwrap();
    let table = driver.snapshot(SnapshotAction::List).await.unwrap();
    assert!(table.lines().nth(1).unwrap().contains("before"), "{table}");
    driver.snapshot(SnapshotAction::Apply(tag())).await.unwrap();

    // Another process goes through the monitor that is left to people.
    let other = instance.driver(&json!({}));
    assert_eq!(other.snapshot(SnapshotAction::List).await.unwrap(), table);
    let error = other
        .snapshot(SnapshotAction::Apply("absent".to_owned()))
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("snapshot-load: ") && error.contains("absent"),
        "{error}"
    );

    driver
        .snapshot(SnapshotAction::Delete(tag()))
        .await
        .unwrap();
    assert_eq!(driver.snapshot(SnapshotAction::List).await.unwrap(), "");
    driver.stop(without_power_button()).await.unwrap();

    other.snapshot(SnapshotAction::Create(tag())).await.unwrap();
    assert!(
        other
            .snapshot(SnapshotAction::List)
            .await
            .unwrap()
            .contains("before"),
        "of the stopped disk"
    );
}

#[tokio::test]
async fn the_tpm_lives_as_long_as_the_machine() {
    let home = tempfile::tempdir().unwrap();
    let instance = Instance::in_directory(home, &[]);
    let driver = instance.driver(&json!({"tpm": true}));
    driver.start().await.unwrap();
    assert!(instance.dir.swtpm_dir().join("tpm2-00.permall").exists());
    driver.stop(without_power_button()).await.unwrap();
    instance.assert_only_logs_are_left();

    let comma = Instance::new(&[]);
    let error = comma
        .driver(&json!({"tpm": true}))
        .validate()
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("tpm: swtpm cannot use a directory with a comma"),
        "{error}"
    );
}

#[tokio::test]
async fn a_refused_device_is_in_the_error() {
    let instance = Instance::new(&[]);
    std::fs::remove_file(instance.dir.cidata_iso()).unwrap();
    let error = instance.driver(&json!({})).start().await.unwrap_err();
    let DriverError::Died {
        how, stderr_tail, ..
    } = error
    else {
        panic!("{error:?}");
    };
    assert_eq!(how, "exit status 1");
    assert!(
        stderr_tail.contains("cidata.iso': No such file or directory"),
        "{stderr_tail}"
    );
    instance.assert_only_logs_are_left();
}

/// Two monitors: ours does not keep people from theirs.
#[tokio::test]
async fn people_have_a_monitor_of_their_own() {
    let instance = Instance::new(&[]);
    let driver = instance.driver(&json!({}));
    driver.start().await.unwrap();
    let mut stream = BufReader::new(
        tokio::net::UnixStream::connect(instance.dir.qmp_sock())
            .await
            .unwrap(),
    );
    let mut line = String::new();
    stream.read_line(&mut line).await.unwrap();
    assert!(line.starts_with("{\"QMP\""), "{line}");
    stream
        .write_all(b"{\"execute\":\"qmp_capabilities\"}{\"execute\":\"quit\"}")
        .await
        .unwrap();
    stream.read_to_end(&mut Vec::new()).await.unwrap();
    driver.stop(patient()).await.unwrap();
    instance.assert_only_logs_are_left();
}

/// A second machine on the same disk is refused by QEMU's own lock, and the first one is not disturbed.
#[tokio::test]
async fn one_disk_one_machine() {
    let instance = Instance::new(&[]);
    let driver = instance.driver(&json!({}));
    let vm = driver.start().await.unwrap();
    let plan = driver.plan().await.unwrap();
    let mut second: Vec<_> = argv(&plan);
    let other = tempfile::tempdir().unwrap();
    let other = other.path().to_str().unwrap().to_owned();
    let own = instance.dir.path().to_str().unwrap().replace(',', ",,");
    for word in &mut second {
        let text = word.to_str().unwrap();
        if text.starts_with("socket,") {
            *word = text.replace(&own, &other).into();
        } else if text.ends_with("qemu.pid") {
            *word = format!("{other}/qemu.pid").into();
        }
    }
    let refused = Command::new(&plan.program.path)
        .args(second)
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(words.contains("Failed to get \"write\" lock"), "{words}");
    assert!(vm.identity.is_alive());
    driver.stop(without_power_button()).await.unwrap();
}

#[tokio::test]
async fn an_orphan_is_quit_through_its_monitor() {
    let instance = Instance::new(&[]);
    let plan = instance.driver(&json!({})).plan().await.unwrap();
    let started = Command::new("sh")
        .args(["-c", "\"$@\" >&2 </dev/null & echo $!", "sh"])
        .arg(&plan.program.path)
        .args(argv(&plan))
        .stderr(std::process::Stdio::null())
        .output()
        .unwrap();
    let pid = String::from_utf8(started.stdout).unwrap();
    let identity = ProcessIdentity::of(pid.trim().parse().unwrap()).unwrap();
    while !instance.dir.ga_link_sock().exists() {
        assert!(identity.is_alive());
        tokio::task::yield_now().await;
    }
    stop_orphan(&instance.dir, &identity, &without_power_button())
        .await
        .unwrap();
    assert!(!identity.is_alive());
    instance.assert_only_logs_are_left();
}
