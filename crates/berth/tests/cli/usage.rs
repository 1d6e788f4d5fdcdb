//! What is the same for every command.

use std::os::unix::fs::symlink;

use crate::sandbox::{Outcome, Sandbox};

#[test]
fn a_wrong_command_line_fails_as_limas_does() {
    let sandbox = Sandbox::new();
    for arguments in [
        &["nope"][..],
        &[],
        &["list", "--nope"],
        &["start", "--timeout", "soon"],
        &["hostagent", "x"],
    ] {
        let outcome = sandbox.run(arguments);
        assert_eq!(outcome.code, Some(1), "{arguments:?}");
        assert_eq!(outcome.stdout, "", "{arguments:?}");
        assert!(!outcome.stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn help_and_version_are_results() {
    let sandbox = Sandbox::new();
    assert!(sandbox.run(&["--help"]).success().contains("Usage:"));
    assert!(sandbox.run(&["--version"]).success().starts_with("berth "));
    assert!(
        !sandbox.run(&["--help"]).success().contains("hostagent"),
        "it is not for people"
    );
}

#[test]
fn called_limactl_it_behaves_the_same_and_gives_advice_by_that_name() {
    let sandbox = Sandbox::new();
    let link = sandbox.root().join("limactl");
    symlink(env!("CARGO_BIN_EXE_berth"), &link).unwrap();
    let outcome = Outcome::of(sandbox.command(&link).arg("list"));
    assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(0), ""));
    assert!(
        outcome.stderr.contains("Run `limactl start`"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn log_lines_are_json_on_demand() {
    let sandbox = Sandbox::new();
    let outcome = sandbox.run(&["--log-format=json", "stop", "nobody"]);
    assert_eq!(outcome.code, Some(1));
    let line: serde_json::Value = serde_json::from_str(outcome.stderr.trim()).unwrap();
    assert_eq!(line["level"], "fatal");
    assert_eq!(line["msg"], "instance \"nobody\" does not exist");
    assert!(line["time"].is_string());
}

#[test]
fn a_relative_lima_home_is_refused() {
    let mut sandbox = Sandbox::new();
    sandbox.set("LIMA_HOME", "lima");
    let message = sandbox.run(&["list"]).fatal();
    assert!(
        message.starts_with("cannot resolve LIMA_HOME lima: "),
        "{message}"
    );
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let sandbox = Sandbox::new();
    sandbox.existing("x", "images: []\n");
    let mut child = sandbox
        .berth()
        .args(["list", "--list-fields"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
}
