//! `start`, up to where a real QEMU would be needed.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use serde_json::Value;

use crate::sandbox::{Sandbox, dying_qemu, lima_yaml};

fn with_dying_qemu(words: &str) -> Sandbox {
    let mut sandbox = Sandbox::new();
    let qemu = sandbox.program("qemu-system-x86_64", &dying_qemu(words));
    sandbox.set("QEMU_SYSTEM_X86_64", qemu);
    sandbox
}

fn events(sandbox: &Sandbox, name: &str) -> Vec<Value> {
    let text = fs::read_to_string(sandbox.instance(name).join("ha.stdout.log")).expect("events");
    text.lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect()
}

#[test]
fn a_qemu_that_dies_at_once_is_quoted() {
    let sandbox = with_dying_qemu("qemu: no memory left");
    sandbox.write("t.yaml", &lima_yaml(&sandbox.image("disk.raw", 1)));
    let message = sandbox.run(&["start", "t.yaml"]).fatal();
    assert!(
        message.starts_with("the instance did not start: "),
        "{message}"
    );
    assert!(
        message.contains("ended at once (exit status 3)"),
        "{message}"
    );
    assert_eq!(
        message.matches("qemu: no memory left").count(),
        1,
        "{message}"
    );
    assert!(message.ends_with("/lima/t/ha.stderr.log"), "{message}");

    let events = events(&sandbox, "t");
    assert_eq!(events.last().unwrap()["status"]["exiting"], true);
    let dir = sandbox.instance("t");
    for left in ["ha.pid", "ha.sock", "qemu.pid", "berth.lock", "ssh.sock"] {
        assert!(!dir.join(left).exists(), "{left}");
    }
    for line in fs::read_to_string(dir.join("ha.stderr.log"))
        .unwrap()
        .lines()
    {
        let line: Value = serde_json::from_str(line).unwrap();
        assert!(line["level"].is_string() && line["msg"].is_string() && line["time"].is_string());
    }
    assert_eq!(
        sandbox.run(&["ls", "-f", "{{.Status}}", "t"]).success(),
        "Stopped\n"
    );
    assert_eq!(
        sandbox.run(&["start", "t"]).fatal(),
        message,
        "the second try says the same"
    );
}

#[test]
fn a_new_instance_that_cannot_be_prepared_leaves_nothing() {
    let sandbox = with_dying_qemu("no");
    let message = sandbox.run(&["start", "--name=x", "/no/such.yaml"]).fatal();
    assert!(message.contains("/no/such.yaml"), "{message}");
    sandbox.write("t.yaml", &lima_yaml(&sandbox.image("disk.raw", 70)));
    let message = sandbox.run(&["start", "t.yaml"]).fatal();
    assert!(message.contains("`disk` is 64MiB"), "{message}");
    assert_eq!(sandbox.instances(), Vec::<String>::new());
}

#[test]
fn an_existing_instance_that_cannot_be_prepared_stays_as_it_was() {
    let sandbox = with_dying_qemu("no");
    let dir = sandbox.existing("x", &lima_yaml(&sandbox.image("disk.raw", 70)));
    let message = sandbox.run(&["start", "x"]).fatal();
    assert!(
        message.starts_with("cannot start instance \"x\": ") && message.contains("`disk` is 64MiB"),
        "{message}"
    );
    assert!(dir.join("lima.yaml").exists());
    assert!(!dir.join("disk").exists());
    assert!(!dir.join("ha.stdout.log").exists(), "no agent was started");
}

#[test]
fn a_stored_configuration_that_has_become_invalid_is_named_with_its_place() {
    let sandbox = with_dying_qemu("no");
    let dir = sandbox.existing("x", "images: [{location: /i}]\ncpus: 0.5\n");
    let message = sandbox.run(&["start", "x"]).fatal();
    assert!(
        message.contains(&format!("{}/lima.yaml:2:7: field `cpus`", dir.display())),
        "{message}"
    );
}

#[test]
fn naming_an_instance_twice_is_refused() {
    let sandbox = with_dying_qemu("no");
    sandbox.existing("x", "images: []\n");
    let message = sandbox.run(&["start", "--name=y", "x"]).fatal();
    assert!(message.contains("named twice"), "{message}");
}

#[test]
fn a_log_that_cannot_be_made_anew_is_named() {
    let sandbox = with_dying_qemu("no");
    let dir = sandbox.existing("x", &lima_yaml(&sandbox.image("disk.raw", 1)));
    fs::create_dir(dir.join("ha.stdout.log")).expect("events");
    let message = sandbox.run(&["start", "x"]).fatal();
    assert!(message.contains("x/ha.stdout.log"), "{message}");
}

#[test]
fn in_the_foreground_this_process_becomes_the_agent() {
    let sandbox = with_dying_qemu("qemu: no memory left");
    sandbox.existing("x", &lima_yaml(&sandbox.image("disk.raw", 1)));
    let outcome = sandbox.run(&["start", "--foreground", "x"]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(1), ""));
    assert_eq!(
        events(&sandbox, "x").last().unwrap()["status"]["exiting"],
        true
    );
    let log = fs::read_to_string(sandbox.instance("x").join("ha.stderr.log")).unwrap();
    assert!(
        log.lines().last().unwrap().contains("qemu: no memory left"),
        "{log}"
    );
}

#[test]
fn an_agent_without_an_instance_says_so_in_its_log() {
    let sandbox = with_dying_qemu("no");
    let outcome = sandbox.run(&["hostagent", "--socket", "/tmp/s", "nobody"]);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(1), ""));
    let line: Value = serde_json::from_str(outcome.stderr.lines().last().unwrap()).unwrap();
    assert_eq!(line["level"], "fatal");
    assert!(line["msg"].as_str().unwrap().contains("nobody"), "{line}");
}

#[test]
fn files_with_secrets_are_for_their_owner() {
    let sandbox = with_dying_qemu("no");
    sandbox.write("t.yaml", &lima_yaml(&sandbox.image("disk.raw", 1)));
    assert_eq!(sandbox.run(&["start", "t.yaml"]).code, Some(1));
    let iso = fs::metadata(sandbox.instance("t").join("cidata.iso")).unwrap();
    assert_eq!(iso.permissions().mode() & 0o777, 0o600);
}
