//! `shell` and `show-ssh`, with an `ssh` that tells what it was called with.

use std::fs;
use std::process::{Child, Command, Stdio};

use crate::sandbox::{Outcome, Sandbox, lima_yaml};

const SSH_CONFIG: &str =
    "Host lima-x\n  IdentityFile \"/k\"\n  User lima\n  Hostname 127.0.0.1\n  Port 60022\n";

/// An instance whose agent is alive, as far as its pid file says.
struct Running {
    sandbox: Sandbox,
    agent: Child,
}

impl Running {
    fn new() -> Self {
        let sandbox = Sandbox::new();
        let home = sandbox.root().join("home");
        let mounts = format!(
            "mounts: [{{location: {}, mountPoint: /mnt/home}}]\n",
            home.display()
        );
        let yaml = lima_yaml(std::path::Path::new("/i")).replace("plain: true\n", &mounts);
        let dir = sandbox.existing("x", &yaml);
        fs::write(dir.join("ssh.config"), SSH_CONFIG).expect("a file");
        let agent = Command::new("cat")
            .stdin(Stdio::piped())
            .spawn()
            .expect("a program");
        fs::write(dir.join("ha.pid"), format!("{}\n", agent.id())).expect("a file");
        // One argument a line, in brackets.
        sandbox.program(
            "ssh",
            "for word; do printf '[%s]\\n' \"$word\"; done; exit 42",
        );
        Self { sandbox, agent }
    }

    fn shell(&self, arguments: &[&str]) -> Vec<String> {
        self.shell_with(arguments, &[])
    }

    fn shell_with(&self, arguments: &[&str], env: &[(&str, &str)]) -> Vec<String> {
        let mut command = self.sandbox.berth();
        command
            .arg("shell")
            .args(arguments)
            .envs(env.iter().copied());
        let outcome = Outcome::of(&mut command);
        assert_eq!(
            outcome.code,
            Some(42),
            "the exit code is ssh's; stderr: {}",
            outcome.stderr
        );
        outcome.stdout.lines().map(str::to_owned).collect()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.agent.kill().expect("our own child");
        self.agent.wait().expect("our own child");
    }
}

#[test]
fn ssh_is_called_with_the_instances_configuration() {
    let running = Running::new();
    let config = running.sandbox.instance("x").join("ssh.config");
    assert_eq!(
        running.shell(&["--workdir", "/tmp", "x", "uname", "-a"]),
        [
            "[-F]".to_owned(),
            format!("[{}]", config.display()),
            "[-o]".to_owned(),
            "[LogLevel=ERROR]".to_owned(),
            "[lima-x]".to_owned(),
            "[--]".to_owned(),
            "[cd /tmp || exit 1 ; exec /bin/bash -l -c 'uname -a']".to_owned(),
        ]
    );
}

#[test]
fn the_shared_home_is_where_it_runs() {
    let running = Running::new();
    let line = running.shell(&["--shell=/bin/zsh", "x"]).pop().unwrap();
    assert_eq!(line, "[cd /mnt/home ; exec /bin/zsh -l]");
    let below = running.sandbox.root().join("home/a b");
    fs::create_dir(&below).unwrap();
    let mut command = running.sandbox.berth();
    let outcome = Outcome::of(command.args(["shell", "x"]).current_dir(below));
    assert!(
        outcome
            .stdout
            .contains("[cd '/mnt/home/a b' || cd /mnt/home ; exec /bin/bash -l]"),
        "{}",
        outcome.stdout
    );
}

#[test]
fn the_environment_goes_along_on_demand() {
    let running = Running::new();
    let env = [
        ("COLORTERM", "truecolor"),
        ("A_TOKEN", "it's"),
        ("SSH_AUTH_SOCK", "/s"),
    ];
    let words = running.shell_with(&["--preserve-env", "x", "env"], &env);
    assert!(
        words.contains(&"[SendEnv=COLORTERM]".to_owned()),
        "{words:?}"
    );
    let line = words.last().unwrap();
    assert!(
        line.contains(" exec env A_TOKEN='it'\\''s' COLORTERM=truecolor "),
        "{line}"
    );
    assert!(
        !line.contains("SSH_AUTH_SOCK") && !line.contains(" HOME="),
        "{line}"
    );

    let mut command = running.sandbox.berth();
    command
        .args(["shell", "--preserve-env", "x"])
        .env("LIMA_SHELLENV_BLOCK", "A-B");
    let message = Outcome::of(&mut command).fatal();
    assert!(message.contains("LIMA_SHELLENV_BLOCK"), "{message}");
}

#[test]
fn another_ssh_can_be_named() {
    let running = Running::new();
    let other = running
        .sandbox
        .program("my-ssh", "echo \"$@\" | head -n 1; exit 42");
    let words = running.shell_with(
        &["x", "true"],
        &[("SSH", &format!("'{}' -v", other.display()))],
    );
    assert!(words[0].starts_with("-v -F /"), "{words:?}");
}

#[test]
fn reconnecting_ends_the_shared_login_first() {
    let running = Running::new();
    let log = running.sandbox.root().join("calls");
    running
        .sandbox
        .program("ssh", &format!("echo \"$@\" >> {}; exit 42", log.display()));
    let mut command = running.sandbox.berth();
    assert_eq!(
        Outcome::of(command.args(["shell", "--reconnect", "x", "true"])).code,
        Some(42)
    );
    let calls = fs::read_to_string(log).unwrap();
    let calls: Vec<_> = calls.lines().collect();
    assert_eq!(calls.len(), 2);
    assert!(calls[0].ends_with("-O exit lima-x"), "{calls:?}");
}

#[test]
fn what_does_not_run_is_not_entered() {
    let sandbox = Sandbox::new();
    sandbox.program("ssh", "echo called");
    let message = sandbox.run(&["shell", "x"]).fatal();
    assert_eq!(
        message,
        "instance \"x\" does not exist, run `berth start x` to create it"
    );
    sandbox.existing("x", "images: []\n");
    let message = sandbox.run(&["shell", "x", "ls"]).fatal();
    assert_eq!(
        message,
        "instance \"x\" is stopped, run `berth start x` to start the instance"
    );
    let message = sandbox.run(&["shell"]).fatal();
    assert_eq!(message, "name the instance to run in");
}

#[test]
fn a_missing_ssh_is_named() {
    let running = Running::new();
    let mut command = running.sandbox.berth();
    command.args(["shell", "x"]).env("PATH", "/no/such/dir");
    let message = Outcome::of(&mut command).fatal();
    assert!(message.contains("ssh was not found in PATH"), "{message}");
}

#[test]
fn show_ssh_has_four_forms() {
    let running = Running::new();
    let show = |format: &str| {
        running
            .sandbox
            .run(&["show-ssh", "--format", format, "x"])
            .success()
    };
    let cmd = show("cmd");
    assert!(
        cmd.starts_with("ssh -o ") && cmd.ends_with(" lima-x\n"),
        "{cmd}"
    );
    assert!(show("args").contains("-o Port=60022"));
    assert!(show("options").lines().any(|line| line == "Port=60022"));
    assert!(show("config").starts_with("Host lima-x\n"));
    running.sandbox.existing("never", "images: []\n");
    let message = running.sandbox.run(&["show-ssh", "never"]).fatal();
    assert!(message.contains("start it once"), "{message}");
}
