//! `stop` and `delete`, of agents and VMs that are shell scripts.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::sandbox::{Sandbox, lima_yaml};

const EXITING: &str =
    r#"{"time":"2026-11-23T18:00:00Z","status":{"exiting":true,"errors":["the disk is full"]}}"#;

/// A script that stands for an agent or a VM. Killed at the end if it is still there.
struct Actor(Child);

impl Actor {
    /// Starts it, and waits until it says that its traps are set. It lives until its standard input is closed.
    fn new(script: &str, dir: &Path) -> Self {
        let mut child = Command::new("/bin/sh")
            .args([
                "-c",
                &format!("{script}\necho ready; while :; do sleep 1000 & wait; done"),
            ])
            .current_dir(dir)
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("its output");
        BufReader::new(stdout)
            .read_line(&mut line)
            .expect("its first line");
        assert_eq!(line, "ready\n");
        Self(child)
    }

    fn is_alive(&mut self) -> bool {
        self.0.try_wait().expect("our own child").is_none()
    }
}

impl Drop for Actor {
    fn drop(&mut self) {
        if self.is_alive() {
            self.0.kill().expect("our own child");
            self.0.wait().expect("our own child");
        }
    }
}

/// An instance, and an agent of it that does `on_interrupt` when it is asked to stop.
fn running(sandbox: &Sandbox, on_interrupt: &str) -> (PathBuf, Actor) {
    let dir = sandbox.existing("x", &lima_yaml(Path::new("/i")));
    fs::write(dir.join("ha.stdout.log"), "").expect("a file");
    let agent = Actor::new(&format!("trap '{on_interrupt}' INT"), &dir);
    fs::write(dir.join("ha.pid"), format!("{}\n", agent.0.id())).expect("a file");
    (dir, agent)
}

#[test]
fn an_agent_is_asked_and_waited_for() {
    let sandbox = Sandbox::new();
    let goodbye = sandbox.write("goodbye", &format!("{EXITING}\n"));
    let script = format!(
        "cat {} >> ha.stdout.log; rm ha.pid; exit 0",
        goodbye.display()
    );
    let (dir, mut agent) = running(&sandbox, &script);
    let outcome = sandbox.run(&["stop", "x"]);
    assert!(
        outcome.stderr.contains("[hostagent] the disk is full"),
        "{}",
        outcome.stderr
    );
    let _ = outcome.success();
    assert!(!agent.is_alive());
    assert!(!dir.join("ha.pid").exists());
    let message = sandbox.run(&["stop", "x"]).fatal();
    assert_eq!(message, "instance \"x\" is not running");
}

#[test]
fn a_vm_that_survives_its_agent_is_told() {
    let sandbox = Sandbox::new();
    let (dir, _agent) = running(&sandbox, "rm ha.pid; exit 0");
    let vm = Actor::new("", &dir);
    fs::write(dir.join("qemu.pid"), vm.0.id().to_string()).unwrap();
    let message = sandbox.run(&["stop", "x"]).fatal();
    assert!(
        message.contains(&format!("is alive (pid {})", vm.0.id())),
        "{message}"
    );
    assert!(message.contains("`berth stop -f x`"), "{message}");
}

#[test]
fn force_ends_both_and_sweeps() {
    let sandbox = Sandbox::new();
    let (dir, mut agent) = running(&sandbox, "");
    let mut vm = Actor::new("trap '' INT TERM", &dir);
    fs::write(dir.join("qemu.pid"), vm.0.id().to_string()).unwrap();
    for left in ["ha.sock", "ssh.sock", "x.tmp"] {
        fs::write(dir.join(left), "").unwrap();
    }
    let disk = sandbox.lima_home().join("_disks/data");
    fs::create_dir_all(&disk).unwrap();
    std::os::unix::fs::symlink(&dir, disk.join("in_use_by")).unwrap();

    let _ = sandbox.run(&["stop", "--force", "x"]).success();
    assert!(!agent.is_alive() && !vm.is_alive());
    let mut left: Vec<_> = fs::read_dir(&dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    left.sort();
    assert_eq!(left, ["ha.stdout.log", "lima-version", "lima.yaml"]);
    assert!(
        disk.join("in_use_by").symlink_metadata().is_err(),
        "the disk is unlocked"
    );
    let _ = sandbox.run(&["stop", "-f", "x"]).success();
}

#[test]
fn a_pid_that_belongs_to_nobody_is_no_agent() {
    let sandbox = Sandbox::new();
    let dir = sandbox.existing("x", &lima_yaml(Path::new("/i")));
    let mut gone = Command::new("true").spawn().unwrap();
    gone.wait().unwrap();
    fs::write(dir.join("ha.pid"), format!("{}\n", gone.id())).unwrap();
    let message = sandbox.run(&["stop", "x"]).fatal();
    assert_eq!(message, "instance \"x\" is not running");
}

#[test]
fn deleting_needs_a_stopped_and_unprotected_instance() {
    let sandbox = Sandbox::new();
    let (dir, mut agent) = running(&sandbox, "");
    let message = sandbox.run(&["delete", "x"]).fatal();
    assert!(
        message.contains("is not stopped") && message.contains("`berth stop x`"),
        "{message}"
    );
    fs::write(dir.join("protected"), "").unwrap();
    let message = sandbox.run(&["rm", "-f", "x"]).fatal();
    assert!(message.contains("is protected"), "{message}");
    assert!(agent.is_alive(), "a protected instance is not touched");
    fs::remove_file(dir.join("protected")).unwrap();
    let _ = sandbox.run(&["rm", "-f", "x"]).success();
    assert!(!agent.is_alive() && !dir.exists());
}

#[test]
fn deleting_what_is_not_there_is_fine() {
    let sandbox = Sandbox::new();
    let outcome = sandbox.run(&["delete", "nobody"]);
    assert!(
        outcome
            .stderr
            .contains("level=warning msg=\"Ignoring non-existent instance \\\"nobody\\\"\"")
    );
    let _ = outcome.success();
}

#[test]
fn a_directory_without_configuration_goes_only_by_force() {
    let sandbox = Sandbox::new();
    let dir = sandbox.instance("x");
    fs::create_dir_all(&dir).unwrap();
    let message = sandbox.run(&["delete", "x"]).fatal();
    assert!(message.contains("no lima.yaml"), "{message}");
    assert!(dir.exists());
    let _ = sandbox.run(&["delete", "-f", "x"]).success();
    assert!(!dir.exists());
}

#[test]
fn names_do_not_lead_out_of_lima_home() {
    let sandbox = Sandbox::new();
    for name in ["..", "../home", "/etc", "_config", "a/b"] {
        for command in ["stop", "delete", "shell"] {
            assert_eq!(
                sandbox.run(&[command, name]).code,
                Some(1),
                "{command} {name}"
            );
        }
    }
    assert!(sandbox.root().join("home").exists());
}
