//! Whole lives behind an external driver: the agent is a client of Lima's contract, and the driver is this program once more, by
//! another name.

use std::fs;
use std::os::unix::fs::symlink;

use rustix::process::Signal;

use crate::checks::assert_lets_us_in;
use crate::instance::{Home, Instance};
use crate::outcome::assert_says;
use crate::processes::Process;
use crate::setting;

const DRIVER: &str = "berth-qemu";

/// A home with one external driver.
fn home() -> Home {
    let home = Home::native();
    let drivers = home.path("drivers");
    fs::create_dir(&drivers).expect("a directory");
    symlink(
        setting::berth(),
        drivers.join(format!("lima-driver-{DRIVER}")),
    )
    .expect("a link");
    home.set("LIMA_DRIVERS_PATH", drivers);
    home
}

fn instance<'home>(home: &'home Home, lines: &str) -> Instance<'home> {
    home.instance("x", &format!("vmType: {DRIVER}\n{lines}"))
}

fn server(instance: &Instance<'_>) -> Process {
    Process::of_file(&instance.path(&format!("{DRIVER}.drv.pid")))
}

#[test]
fn a_whole_life() {
    let home = home();
    let shared = home.path("shared");
    fs::create_dir(&shared).expect("a directory");
    fs::write(shared.join("file"), "from the host\n").expect("a file");
    let mounts = format!(
        "mountType: reverse-sshfs\nmounts: [{{location: {}, mountPoint: /mnt/shared}}]\n",
        shared.display()
    );
    let instance = instance(&home, &mounts);
    let _ = instance.start(&[]).success();
    assert_eq!(instance.status(), "Running");
    assert_lets_us_in(&instance);
    let (server, vm) = (server(&instance), instance.vm());
    assert!(
        server.command().contains("--inst-dir"),
        "{}",
        server.command()
    );
    let pid = instance.read(&format!("{DRIVER}.pid"));
    assert_eq!(pid.trim(), vm.pid.to_string());
    let said = instance.shell("cat /mnt/shared/file; systemctl is-active lima-guestagent");
    assert_eq!(said.success(), "from the host\nactive\n");
    let info = crate::monitor::http_get(&instance.path("ha.sock"), "/v1/info").1;
    assert_eq!(info["berthState"]["state"], "running", "{info}");
    let said = home.run(&["start", "x"]);
    assert!(said.stderr.contains("is already running"), "{said:#?}");

    instance.stop();
    server.await_end();
    vm.await_end();
    assert_eq!(instance.status(), "Stopped");
    home.assert_nothing_left();
    assert_eq!(instance.events().exit_errors(), [""; 0]);

    let port = instance.events().ssh_port();
    let _ = instance.start(&[]).success();
    assert_eq!(instance.events().ssh_port(), port, "it stays");
    instance.stop();
    home.assert_nothing_left();
}

#[test]
fn a_crash_of_the_driver_ends_the_instance() {
    let home = home();
    let instance = instance(&home, "");
    let _ = instance.start(&[]).success();
    let (agent, server, vm) = (instance.agent(), server(&instance), instance.vm());
    server.signal(Signal::KILL);
    agent.await_end();
    let errors = instance.events().exit_errors().join("\n");
    assert_says(&errors, &["the external driver ended", "SIGKILL"]);
    assert!(!vm.is_alive());
    assert_eq!(instance.status(), "Stopped");
    // What only the driver knew of lies there until the next one comes.
    let _ = instance.start(&[]).success();
    instance.stop();
    home.assert_nothing_left();
}

#[test]
fn the_vm_ends_with_the_agent() {
    let home = home();
    let instance = instance(&home, "");
    let _ = instance.start(&[]).success();
    let (agent, server, vm) = (instance.agent(), server(&instance), instance.vm());
    agent.signal(Signal::KILL);
    agent.await_end();
    vm.await_end();
    assert!(server.is_alive(), "a server waits for its next client");
    instance.stop();
    assert!(!server.is_alive());
    home.assert_nothing_left();
    let _ = instance.start(&[]).success();
    instance.agent().signal(Signal::KILL);
    let _ = home.run(&["stop", "--force", "x"]).success();
    home.assert_nothing_left();
}

#[test]
fn a_driver_that_is_not_there_is_named_with_the_places() {
    let home = Home::native();
    home.set("LIMA_DRIVERS_PATH", home.path("nowhere"));
    let fatal = instance(&home, "").try_create().fatal();
    assert_says(
        &fatal,
        &[
            "vmType",
            "lima-driver-berth-qemu",
            "nowhere",
            "libexec/lima",
        ],
    );
}
