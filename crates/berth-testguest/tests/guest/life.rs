//! A machine from its start to its end, in order and otherwise.

use std::io::{BufRead as _, Read as _, Write as _};
use std::time::Duration;

use serde_json::json;

use crate::machine::{Parts, await_exit, processes_with, read_json};

#[test]
fn a_machine_boots_works_and_powers_off() {
    let mut machine = Parts::new().boot();
    let pid = std::fs::read_to_string(machine.parts.path("pid")).unwrap();
    assert_eq!(pid, format!("{}\n", machine.child.id()));
    let status = machine.qmp("query-status", &json!({}));
    assert_eq!(status["return"]["status"], "running");
    let opened = machine.await_event("VSERPORT_CHANGE");
    assert_eq!(opened, json!({ "open": true, "id": "test-port" }));
    assert_eq!(machine.output("id -u; hostname"), "0\ntester");
    assert_eq!(
        machine.output("systemctl is-system-running --wait"),
        "running"
    );
    assert_eq!(
        machine.output("stat -c %a%F /dev/virtio-ports/test.port"),
        "600socket"
    );
    assert_eq!(machine.output("ls /sys/class/net"), "eth0\nlo");
    assert_eq!(
        machine.output("cat /sys/class/net/eth0/address"),
        "52:55:55:12:34:56"
    );
    let console = std::fs::read_to_string(machine.parts.path("serial.log")).unwrap();
    assert!(console.contains("Reached target"), "{console}");
    machine.power_off();
}

#[test]
fn the_guest_cannot_touch_the_hosts_clock_or_kernel() {
    let mut machine = Parts::new().boot();
    let bounding = machine.output("sed -n 's/^CapBnd:\\t//p' /proc/1/status");
    let bounding = u64::from_str_radix(&bounding, 16).unwrap();
    for (name, bit) in [("SYS_MODULE", 16), ("SYS_RAWIO", 17), ("SYS_TIME", 25)] {
        assert_eq!(bounding >> bit & 1, 0, "the guest has CAP_{name}");
    }
    assert_ne!(machine.run("date --set=2001-01-01").0, 0);
    let _ = machine.qmp("quit", &json!({}));
}

#[test]
fn changes_survive_a_reboot_and_a_restart() {
    let mut machine = Parts::new().boot();
    let first = machine.output("cat /proc/sys/kernel/random/boot_id");
    machine.output("echo kept >/root/mark");
    machine.await_event("VSERPORT_CHANGE");
    machine.ask("systemctl reboot");
    let why = machine.await_event("RESET");
    assert_eq!(why, json!({ "guest": true, "reason": "guest-reset" }));
    machine.reconnect_port();
    assert_eq!(machine.output("cat /root/mark"), "kept");
    assert_ne!(machine.output("cat /proc/sys/kernel/random/boot_id"), first);
    machine.qmp("system_reset", &json!({}));
    let why = machine.await_event("RESET");
    assert_eq!(why["reason"], "host-qmp-system-reset");
    machine.reconnect_port();
    assert_eq!(machine.output("cat /root/mark"), "kept");
    machine.power_off();
}

#[test]
fn a_killed_machine_takes_its_guest_with_it_and_leaves_its_disk() {
    let mut machine = Parts::new().boot();
    let mark = format!("271828{}", machine.child.id());
    machine.output(&format!("systemd-run --unit mark sleep {mark}"));
    machine.output("echo kept >/root/mark; sync");
    let [sleeper] = processes_with(&mark)[..] else {
        panic!("one process sleeps");
    };
    machine.child.kill().unwrap();
    await_exit(sleeper);
    machine.await_end();
    // As after QEMU's sudden death, its files stay, and do not hinder the next.
    assert!(machine.parts.path("qmp.sock").exists());
    let parts = std::mem::replace(&mut machine.parts, Parts::new());
    let mut again = parts.boot();
    assert_eq!(again.output("cat /root/mark"), "kept");
    again.power_off();
}

#[test]
fn quit_and_signals_end_it_at_once() {
    let mut machine = Parts::new().boot();
    machine.output("true");
    assert_eq!(machine.qmp("quit", &json!({})), json!({ "return": {} }));
    let why = machine.await_event("SHUTDOWN");
    assert_eq!(why, json!({ "guest": false, "reason": "host-qmp-quit" }));
    assert_eq!(machine.await_end().code(), Some(0));
    machine.assert_nothing_is_left();

    let mut machine = Parts::new().boot();
    let pid = i32::try_from(machine.child.id()).unwrap();
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let why = machine.await_event("SHUTDOWN");
    assert_eq!(why, json!({ "guest": false, "reason": "host-signal" }));
    assert_eq!(machine.await_end().code(), Some(0));
    machine.assert_nothing_is_left();
}

#[test]
fn a_paused_guest_does_nothing_until_it_goes_on() {
    let mut machine = Parts::new().boot();
    machine.output("true");
    machine.qmp("stop", &json!({}));
    machine.await_event("STOP");
    assert_eq!(
        machine.qmp("query-status", &json!({}))["return"]["status"],
        "paused"
    );
    machine.ask("echo awake");
    machine
        .port()
        .set_read_timeout(Some(Duration::from_millis(500)))
        .unwrap();
    assert!(
        machine.port().read(&mut [0]).is_err(),
        "a paused guest answered"
    );
    machine
        .port()
        .set_read_timeout(Some(crate::machine::PATIENCE))
        .unwrap();
    machine.qmp("cont", &json!({}));
    machine.await_event("RESUME");
    assert_eq!(machine.answer(), (0, "awake\n".to_owned()));
    machine.qmp("stop", &json!({}));
    let _ = machine.qmp("quit", &json!({}));
    assert_eq!(machine.await_end().code(), Some(0));
    machine.assert_nothing_is_left();
}

#[test]
fn two_monitors_hear_the_same_events() {
    let mut machine = Parts::new().boot();
    let mut second = machine.monitor("qmp2.sock");
    writeln!(
        second.get_mut(),
        r#"{{"execute":"qmp_capabilities","id":"x"}}"#
    )
    .unwrap();
    assert_eq!(read_json(&mut second), json!({ "return": {}, "id": "x" }));
    let mut waiting = machine.connect("qmp2.sock");
    waiting
        .set_read_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    assert!(waiting.read(&mut [0]).is_err(), "one client at a time");
    machine.qmp("stop", &json!({}));
    while read_json(&mut second)["event"] != "STOP" {}
    drop(second);
    waiting
        .set_read_timeout(Some(crate::machine::PATIENCE))
        .unwrap();
    let mut greeting = String::new();
    std::io::BufReader::new(waiting)
        .read_line(&mut greeting)
        .unwrap();
    assert!(greeting.contains("\"QMP\""));
    let refused = machine.qmp("screendump", &json!({ "filename": "/x", "format": "png" }));
    assert_eq!(
        refused["error"]["desc"],
        "There is no console to take a screendump from"
    );
    let unknown = machine.qmp("x-nonsense", &json!({}));
    assert_eq!(unknown["error"]["class"], "CommandNotFound");
}
