//! `copy`, with programs that tell what they were called with.

use std::fs;
use std::process::{Child, Command, Stdio};

use crate::sandbox::{Outcome, Sandbox, lima_yaml};

/// Two instances whose agents are alive, as far as their pid files say.
struct Running {
    sandbox: Sandbox,
    agent: Child,
}

impl Running {
    /// `in_guest` is a shell's condition: what the guest answers to a question.
    fn new(in_guest: &str) -> Self {
        let sandbox = Sandbox::new();
        let agent = Command::new("cat")
            .stdin(Stdio::piped())
            .spawn()
            .expect("a program");
        for name in ["x", "y"] {
            let dir = sandbox.existing(name, &lima_yaml(std::path::Path::new("/i")));
            fs::write(
                dir.join("ssh.config"),
                format!("Host lima-{name}\n  Port 1\n"),
            )
            .expect("a file");
            fs::write(dir.join("ha.pid"), format!("{}\n", agent.id())).expect("a file");
        }
        sandbox.existing("stopped", &lima_yaml(std::path::Path::new("/i")));
        sandbox.program("ssh", in_guest);
        sandbox.program(
            "scp",
            "echo scp; for word; do echo \"[$word]\"; done; cat \"$2\"",
        );
        sandbox.program(
            "rsync",
            "[ \"$1\" = --version ] && echo 'rsync  version 3.2.7  protocol version 31' && exit\n\
             echo rsync; for word; do echo \"[$word]\"; done",
        );
        Self { sandbox, agent }
    }

    fn copy(&self, arguments: &[&str]) -> Outcome {
        Outcome::of(self.sandbox.berth().arg("copy").args(arguments))
    }

    fn words(&self, arguments: &[&str]) -> Vec<String> {
        let outcome = self.copy(arguments);
        assert_eq!(outcome.code, Some(0), "{}", outcome.stderr);
        outcome.stdout.lines().map(str::to_owned).collect()
    }

    fn config(&self) -> String {
        let config = self.sandbox.instance("x").join("ssh.config");
        config.display().to_string()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.agent.kill().expect("our own child");
        self.agent.wait().expect("our own child");
    }
}

#[test]
fn rsync_is_taken_when_both_ends_have_it() {
    let running = Running::new("echo berth:rsync");
    let ssh = running.sandbox.root().join("bin/ssh");
    let shell = format!("['{}' -F '{}']", ssh.display(), running.config());
    let words = running.words(&["a file", "x:~/to here"]);
    let expected = [
        "rsync",
        "[--archive]",
        "[--protect-args]",
        "[--rsh]",
        &shell,
        "[--quiet]",
        "[--]",
        "[a file]",
        "[lima-x:./to here]",
    ];
    assert_eq!(words, expected);
}

#[test]
fn scp_is_taken_otherwise() {
    let running = Running::new("true");
    let config = format!("[{}]", running.config());
    let words = running.words(&["-r", "x:/srv", "here"]);
    let expected = [
        "scp",
        "[-F]",
        &config,
        "[-q]",
        "[-r]",
        "[-3]",
        "[--]",
        "[lima-x:/srv]",
        "[here]",
    ];
    assert_eq!(words[..9], expected);
}

#[test]
fn between_two_instances_one_configuration_knows_both() {
    let running = Running::new("echo berth:rsync");
    let words = running.words(&["x:a", "y:b"]);
    assert_eq!(words[0], "scp");
    assert!(words.contains(&"Host lima-x".to_owned()), "{words:?}");
    assert!(words.contains(&"Host lima-y".to_owned()), "{words:?}");
    let config = words[2].trim_matches(['[', ']']);
    assert!(!std::path::Path::new(config).exists(), "it is left behind");
}

#[test]
fn what_cannot_be_copied_is_refused_with_what_to_do() {
    let running = Running::new("true");
    for (arguments, why) in [
        (&["a", "b"][..], "neither end is in an instance"),
        (&["a", "none:b"], "instance \\\"none\\\" does not exist"),
        (&["a", "stopped:b"], "instance \\\"stopped\\\" is stopped"),
        (
            &["--backend=rsync", "a", "x:b"],
            "instance \\\"x\\\" has no rsync",
        ),
        (
            &["--backend=rsync", "x:a", "y:b"],
            "rsync does not copy between two instances",
        ),
    ] {
        let outcome = running.copy(arguments);
        assert_eq!(outcome.code, Some(1), "{arguments:?}");
        assert!(
            outcome.stderr.contains(why),
            "{arguments:?}: {}",
            outcome.stderr
        );
    }
}

#[test]
fn a_failure_of_the_program_is_ours() {
    let running = Running::new("true");
    running
        .sandbox
        .program("scp", "echo 'no such file' >&2; exit 3");
    let outcome = running.copy(&["a", "x:b"]);
    assert_eq!(outcome.code, Some(1));
    assert!(
        outcome.stderr.contains("ended with exit status: 3"),
        "{}",
        outcome.stderr
    );
}
