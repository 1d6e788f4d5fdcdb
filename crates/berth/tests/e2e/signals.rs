//! Somebody asks the agent to stop, at any time, by any signal.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use rustix::process::Signal;

use crate::events::begins;
use crate::instance::{Home, Instance};
use crate::monitor::Monitor;
use crate::setting;

const SIGNALS: [Signal; 3] = [Signal::INT, Signal::TERM, Signal::HUP];

/// A program that waits in place of `what` until it is killed, and otherwise is it.
fn program_that_waits(home: &Home, when: &str, what: &str) -> PathBuf {
    let path = home.path("waits");
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in\n{when}) exec sleep infinity ;;\nesac\nexec {what} \"$@\"\n"
    );
    fs::write(&path, script).expect("a program");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
    path
}

/// Lets the agent come to `phase`, asks it to stop, and checks that it does.
#[track_caller]
fn ask_in(instance: &Instance<'_>, phase: &str, signal: Signal) {
    let mut starting = instance.begin_start(&[]);
    starting.until(phase, begins(phase));
    let agent = instance.agent();
    agent.signal(signal);
    let fatal = starting.finish().fatal();
    assert!(
        fatal.starts_with("the instance did not start: "),
        "{signal:?}: {fatal}"
    );
    check_stopped(instance, signal);
    assert!(!agent.is_alive());
    assert!(!instance.events().any("running"), "{signal:?}");
}

#[track_caller]
fn check_stopped(instance: &Instance<'_>, signal: Signal) {
    let errors = instance.events().exit_errors();
    assert_eq!(
        errors,
        Vec::<String>::new(),
        "to stop when asked is no failure: {signal:?}"
    );
    instance.home.assert_nothing_left();
}

#[test]
fn while_the_agent_is_constructed() {
    let home = Home::native();
    let instance = home.instance("x", "").create();
    home.set("SSH", program_that_waits(&home, "*-V*", "ssh"));
    for signal in SIGNALS {
        ask_in(&instance, "prepare", signal);
    }
}

#[test]
fn while_qemu_starts() {
    let home = Home::native();
    let instance = home.instance("x", "").create();
    let testguest = setting::testguest();
    let qemu = program_that_waits(&home, "*-pidfile*", testguest.to_str().expect("a text"));
    home.set("QEMU_SYSTEM_X86_64", qemu);
    for signal in SIGNALS {
        ask_in(&instance, "start the VM", signal);
    }
}

#[test]
fn while_the_guest_boots() {
    let home = Home::native();
    let instance = home.instance("x", "").create();
    for signal in SIGNALS {
        ask_in(&instance, "essential", signal);
    }
}

#[test]
fn after_the_guest_was_ready() {
    let home = Home::native();
    let instance = home.instance("x", "");
    for signal in SIGNALS {
        let _ = instance.start(&[]).success();
        let agent = instance.agent();
        agent.signal(signal);
        agent.await_end();
        check_stopped(&instance, signal);
    }
}

#[test]
fn the_second_one_does_not_wait_for_the_guest() {
    let home = Home::native();
    let instance = home.instance("x", "");
    let _ = instance.start(&[]).success();
    let (agent, vm) = (instance.agent(), instance.vm());
    let mut monitor = Monitor::connect(&instance.path("qmp.sock"));
    monitor.execute("stop");
    agent.signal(Signal::INT);
    monitor.await_event("POWERDOWN");
    assert!(
        vm.is_alive(),
        "nobody in the guest has noticed the power button"
    );
    agent.signal(Signal::TERM);
    agent.await_end();
    assert!(!vm.is_alive());
    check_stopped(&instance, Signal::TERM);
    let log = instance.read("ha.stderr.log");
    assert!(!log.contains("\"step\":\"ACPI power button\""), "{log}");
}
