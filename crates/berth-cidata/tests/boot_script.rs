//! The boot script for guests without our agent, run by a real shell in a mount namespace of its own.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use berth_cidata::files::Source;
use berth_cidata::input::DnsPorts;
use berth_cidata::{AgentKind, Cidata, build};
use berth_config::model::Config;

mod support;
use support::{config, input};

/// Runs the script with private `/run` and `/etc`, which lie in `dir` so that the test can look at them.
fn boot(dir: &Path, volume: &Cidata) -> Output {
    let mnt = dir.join("cidata");
    for (name, entry) in &volume.entries {
        let path = mnt.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let Source::Text(text) = &entry.source else {
            panic!("{name} is no text")
        };
        fs::write(&path, text).unwrap();
        berth_mode(&path);
    }
    for private in ["run", "etc", "home"] {
        fs::create_dir_all(dir.join(private)).unwrap();
    }
    fs::write(
        dir.join("etc/passwd"),
        "root:x:0:0::/root:/bin/sh\nme:x:0:0::/home/me:/bin/sh\n",
    )
    .unwrap();
    fs::write(dir.join("etc/group"), "root:x:0:\n").unwrap();
    fs::write(
        dir.join("etc/hosts"),
        "127.0.0.1 localhost\n10.0.0.1 host.lima.internal\n",
    )
    .unwrap();
    fs::write(
        dir.join("etc/environment"),
        "A=1\n#LIMA-START\nOLD=1\n#LIMA-END\nB=2\n",
    )
    .unwrap();
    let script = "mount --bind \"$DIR/run\" /run && mount --bind \"$DIR/etc\" /etc && \
                  exec \"$DIR/cidata/boot.sh\"";
    Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", script])
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("DIR", dir)
        .env("LIMA_CIDATA_MNT", &mnt)
        .output()
        .expect("unshare is needed for this test")
}

fn berth_mode(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn volume(config: &Config) -> Cidata {
    let mut input = input(config, AgentKind::None, &[], &[]);
    input.dns_ports = Some(DnsPorts { udp: 0, tcp: 0 });
    build(&input).unwrap()
}

/// A configuration whose steps need nothing but files.
fn files_only(dir: &Path) -> Config {
    let mut config = config();
    config.additional_disks.clear();
    config.mounts.clear();
    config
        .provision
        .retain(|entry| entry.script.contains("system") || entry.script.contains("bytes"));
    config.provision[0].script =
        String::from("#!/bin/sh\nprintf '%s|%s' \"$PARAM_COLOUR\" \"$EDITOR\" >\"$DIR/system\"\n");
    config.provision[1].path = format!("{}/new dir/a b", dir.display());
    config
}

fn read(dir: &Path, name: &str) -> String {
    fs::read_to_string(dir.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn a_boot_applies_everything_and_marks_each_stage() {
    let dir = tempfile::tempdir().unwrap();
    let output = boot(dir.path(), &volume(&files_only(dir.path())));
    assert!(output.status.success(), "{output:?}");
    assert_eq!(read(dir.path(), "run/lima-ssh-ready"), "iid-0123\n");
    assert_eq!(read(dir.path(), "run/lima-boot-done"), "iid-0123\n");
    assert_eq!(
        read(dir.path(), "etc/hosts"),
        "127.0.0.1 localhost\n192.168.5.2 host.lima.internal\n"
    );
    let environment = read(dir.path(), "etc/environment");
    assert!(
        environment.starts_with("A=1\nB=2\n#LIMA-START\nEDITOR=vi # not emacs\n"),
        "{environment}"
    );
    assert!(!environment.contains("OLD"), "{environment}");
    assert_eq!(read(dir.path(), "system"), "dark 'blue'|vi # not emacs");
    assert_eq!(read(dir.path(), "new dir/a b"), "bytes: ü\n");

    // Data that must not be replaced stays as it is at the next boot.
    fs::write(dir.path().join("new dir/a b"), "mine").unwrap();
    assert!(
        boot(dir.path(), &volume(&files_only(dir.path())))
            .status
            .success()
    );
    assert_eq!(read(dir.path(), "new dir/a b"), "mine");
}

#[test]
fn a_failing_step_is_named_and_the_others_still_run() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = files_only(dir.path());
    let mut failing = config.provision[0].clone();
    failing.script = "#!/bin/sh\nexit 7\n".to_owned();
    config.provision.insert(0, failing);
    let output = boot(dir.path(), &volume(&config));
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let failed = read(dir.path(), "run/lima-boot-failed");
    assert_eq!(
        failed.lines().collect::<Vec<_>>(),
        [format!(
            "system {}/cidata/provision.system/00000000",
            dir.path().display()
        )]
    );
    let log = String::from_utf8_lossy(&output.stdout);
    assert!(log.contains("failed with status 7: system"), "{log}");
    assert_eq!(read(dir.path(), "system"), "dark 'blue'|vi # not emacs");
    assert_eq!(read(dir.path(), "run/lima-boot-done"), "iid-0123\n");
}

#[test]
fn plain_mode_leaves_the_system_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = files_only(dir.path());
    config.plain = true;
    let output = boot(dir.path(), &volume(&config));
    assert!(output.status.success(), "{output:?}");
    assert!(read(dir.path(), "etc/environment").contains("OLD"));
    assert!(!dir.path().join("run/lima-ssh-ready").exists());
    assert_eq!(read(dir.path(), "system"), "dark 'blue'|vi # not emacs");
    assert_eq!(read(dir.path(), "run/lima-boot-done"), "iid-0123\n");
}
