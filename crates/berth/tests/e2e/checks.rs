//! What must hold of an instance with which nothing went wrong, whatever its guest runs on.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::Path;

use serde_json::Value;

use crate::instance::Instance;
use crate::leftovers::assert_free;
use crate::monitor::http_get;

/// The events of a life in which everything works.
const LIFE: [&str; 17] = [
    "+prepare",
    "prepare=ok",
    "+host resolver",
    "host resolver=ok",
    "+start the VM",
    "start the VM=ok",
    "ssh",
    "+essential",
    "essential=ok",
    "+static forwards",
    "static forwards=ok",
    "+optional",
    "optional=ok",
    "+final",
    "final=ok",
    "running",
    "exiting",
];

/// Files of a running instance, with their modes.
const FILES: [(&str, u32); 17] = [
    ("berth.json", 0o600),
    ("cidata.iso", 0o600),
    ("cloud-config.yaml", 0o444),
    ("disk", 0o644),
    ("ha.pid", 0o644),
    ("ha.stderr.log", 0o644),
    ("ha.stdout.log", 0o644),
    ("known_hosts", 0o600),
    ("lima-version", 0o444),
    ("lima.yaml", 0o644),
    ("qemu.pid", 0o600),
    ("serial.log", 0o644),
    ("ssh.config", 0o600),
    ("ssh_host_ed25519_key", 0o600),
    ("ssh_host_ed25519_key.pub", 0o644),
    ("timeline.json", 0o644),
    ("vm.stderr.log", 0o644),
];

/// Its sockets.
const SOCKETS: [&str; 5] = [
    "ha.sock",
    "qmp.sock",
    "qmp-berth.sock",
    "serial.sock",
    "ssh.sock",
];

/// What Lima's `list --json` says of an instance that runs; `berthState` is ours.
const KEYS: [&str; 21] = [
    "name",
    "hostname",
    "status",
    "dir",
    "vmType",
    "arch",
    "cpus",
    "memory",
    "disk",
    "sshLocalPort",
    "sshConfigFile",
    "hostAgentPID",
    "driverPID",
    "config",
    "sshAddress",
    "protected",
    "limaVersion",
    "HostOS",
    "HostArch",
    "LimaHome",
    "IdentityFile",
];

/// Checks events, files, API and list of an instance that is ready.
#[track_caller]
pub(crate) fn assert_runs(instance: &Instance<'_>) {
    let words = instance.events().words();
    assert_eq!(words, LIFE[..LIFE.len() - 1]);
    for (file, mode) in FILES {
        assert_eq!(mode_of(&instance.path(file)), mode, "{file}");
    }
    for socket in SOCKETS {
        let metadata = fs::symlink_metadata(instance.path(socket)).expect(socket);
        assert!(metadata.file_type().is_socket(), "{socket}");
    }
    assert_eq!(mode_of(&instance.path("")), 0o700);
    assert_eq!(mode_of(&instance.path("ssh.sock")), 0o600);
    assert_eq!(
        mode_of(&instance.home.lima_home().join("_config/user")),
        0o600
    );

    let port = instance.events().ssh_port();
    let (status, info) = http_get(&instance.path("ha.sock"), "/v1/info");
    assert_eq!(
        (status, &info["sshLocalPort"]),
        (200, &Value::from(port)),
        "{info}"
    );

    let listed = instance.home.run(&["list", "--json"]).success();
    let listed: Value = serde_json::from_str(&listed).expect("one object");
    for key in KEYS {
        assert!(listed.get(key).is_some(), "{key} is missing: {listed}");
    }
    assert_eq!(listed["status"], "Running");
    assert_eq!(listed["sshLocalPort"], port);
    assert_eq!(listed["hostAgentPID"], instance.agent().pid);
    assert_eq!(listed["driverPID"], instance.vm().pid);
    assert_eq!(listed["limaVersion"], instance.read("lima-version"));
}

/// Logs in by every way there is, each of which must lead to the same guest.
#[track_caller]
pub(crate) fn assert_lets_us_in(instance: &Instance<'_>) {
    let config = instance.path("ssh.config");
    let config = config.to_str().expect("a text");
    let host = format!("lima-{}", instance.name);
    let ssh = instance
        .home
        .run_program(Path::new("ssh"), &["-F", config, &host, "hostname; id -un"]);
    assert_eq!(ssh.success(), format!("{host}\nlima\n"));
    let port = instance.events().ssh_port();
    let said = instance.read("ssh.config");
    assert!(
        said.lines()
            .any(|line| line.trim() == format!("Port {port}")),
        "{said}"
    );
    // Without the master: the pinned key must be the one that the guest has.
    let alone = ["-F", config, "-o", "ControlPath=none", &host, "true"];
    let _ = instance
        .home
        .run_program(Path::new("ssh"), &alone)
        .success();
    assert_eq!(
        instance.shell("hostname; id -un").success(),
        format!("{host}\nlima\n")
    );
    assert_eq!(instance.shell("exit 7").code, Some(7));
}

/// Checks that a life of an instance has ended well, and that nothing of it is left.
#[track_caller]
pub(crate) fn assert_has_stopped(instance: &Instance<'_>) {
    let events = instance.events();
    assert_eq!(events.words(), LIFE);
    assert_eq!(events.exit_errors(), Vec::<String>::new());
    instance.home.assert_nothing_left();
    assert_free(events.ssh_port());
    assert_eq!(instance.status(), "Stopped");
    let fatal = instance.home.run(&["stop", instance.name]).fatal();
    assert!(fatal.contains("is not running"), "{fatal}");
}

fn mode_of(path: &Path) -> u32 {
    let metadata =
        fs::symlink_metadata(path).unwrap_or_else(|why| panic!("{}: {why}", path.display()));
    metadata.permissions().mode() & 0o7777
}
