//! Nothing goes wrong.

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use rustix::process::Signal;
use serde_json::Value;

use crate::checks::{assert_has_stopped, assert_lets_us_in, assert_runs};
use crate::events::{begins, running};
use crate::instance::Home;
use crate::monitor::{Monitor, http_get};

#[test]
fn from_a_template_to_a_shell_and_back() {
    let home = Home::native();
    let instance = home.instance("x", "");
    let said = instance.start(&[]);
    assert!(
        said.stderr
            .contains("READY. Run `berth shell x` to open the shell."),
        "{said:#?}"
    );
    let _ = said.success();
    assert_runs(&instance);
    assert_lets_us_in(&instance);
    instance.stop();
    assert_has_stopped(&instance);
}

#[test]
fn the_second_start_changes_nothing() {
    let home = Home::native();
    let instance = home.instance("x", "");
    let _ = instance.start(&[]).success();
    let ids =
        "sudo cut -d ' ' -f 2 /var/lib/cloud/data/instance-id /etc/ssh/ssh_host_ed25519_key.pub";
    let (port, ids_before) = (instance.events().ssh_port(), instance.shell(ids).success());
    let cidata = fs::read(instance.path("cidata.iso")).expect("a volume");
    let written = modified(&instance.path("cidata.iso"));
    instance.stop();

    let _ = instance.start(&[]).success();
    assert_eq!(instance.events().ssh_port(), port);
    assert_eq!(instance.shell(ids).success(), ids_before);
    assert_eq!(
        fs::read(instance.path("cidata.iso")).expect("a volume"),
        cidata,
        "the same bytes"
    );
    assert_eq!(
        modified(&instance.path("cidata.iso")),
        written,
        "not even written again"
    );

    let log = fs::read_to_string(instance.path("ha.stderr.log")).expect("a log");
    assert!(
        log.contains("the login began before the guest let people in"),
        "{log}"
    );
    assert!(!instance.path("ssh-agent.sock").exists());

    let said = instance.start(&[]);
    assert!(said.stderr.contains("is already running"), "{said:#?}");
    let _ = said.success();
    instance.stop();
    assert_has_stopped(&instance);
}

#[test]
fn the_agent_answers_from_its_start_to_its_end() {
    let home = Home::native();
    let instance = home.instance("x", "").create();
    let socket = instance.path("ha.sock");
    let state = || http_get(&socket, "/v1/info").1["berthState"]["state"].clone();

    let mut starting = instance.begin_start(&[]);
    starting.until("the agent to be up", begins("prepare"));
    assert!(["starting", "running"].contains(&state().as_str().expect("a state")));
    starting.until("the phase essential", begins("essential"));
    let (status, info) = http_get(&socket, "/v1/info");
    assert_eq!(
        (status, &info["berthState"]["state"]),
        (200, &Value::from("starting")),
        "{info}"
    );
    assert_eq!(info["sshLocalPort"], instance.events().ssh_port());
    assert_eq!(
        instance.status(),
        "Running",
        "Lima has no other word for it"
    );
    starting.until("the guest to be ready", running);
    let _ = starting.finish().success();
    assert_eq!(state(), "running");
    assert_eq!(http_get(&socket, "/v1/nothing").0, 404);

    // A guest that does not react keeps the agent in its last state but one.
    let (agent, vm) = (instance.agent(), instance.vm());
    let mut monitor = Monitor::connect(&instance.path("qmp.sock"));
    monitor.execute("stop");
    agent.signal(Signal::INT);
    monitor.await_event("POWERDOWN");
    assert_eq!(state(), "stopping");
    assert_eq!(http_get(&socket, "/v1/info").0, 200);
    monitor.execute("cont");
    agent.await_end();
    assert!(!vm.is_alive());
    assert_has_stopped(&instance);
}

#[test]
fn two_instances_live_side_by_side() {
    let home = Home::native();
    let instances = ["x", "y"].map(|name| home.instance(name, "").create());
    let starting: Vec<_> = instances
        .iter()
        .map(|instance| instance.begin_start(&[]))
        .collect();
    for starting in starting {
        let _ = starting.finish().success();
    }
    let names = instances
        .each_ref()
        .map(|instance| instance.shell("hostname").success());
    assert_eq!(names, ["lima-x\n", "lima-y\n"]);
    let ports = instances
        .each_ref()
        .map(|instance| instance.events().ssh_port());
    assert_ne!(ports[0], ports[1]);
    let _ = home.run(&["stop", "x", "y"]).success();
    home.assert_nothing_left();
}

fn modified(path: &Path) -> SystemTime {
    fs::metadata(path)
        .and_then(|file| file.modified())
        .expect("a time")
}
