//! The program as the guest's services and cloud-init call it.
#![cfg(target_os = "linux")]

use std::fs;
use std::process::{Command, Output};

fn agent(args: &[&str]) -> Output {
    let mut agent = Command::new(env!("CARGO_BIN_EXE_berth-guestagent"));
    agent
        .args(args)
        .output()
        .expect("the program was built and can be run")
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn it_tells_its_version() {
    let output = agent(&["--version"]);
    assert!(output.status.success());
    let expected = format!("berth-guestagent {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
}

#[test]
fn a_command_line_that_makes_no_sense_is_code_2() {
    let output = agent(&["deamon"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).starts_with("berth-guestagent: \"deamon\" is no command\n\nUsage: "));
}

#[test]
fn a_broken_boot_json_is_named_with_its_place_and_nothing_is_applied() {
    let volume = tempfile::tempdir().unwrap();
    let cidata = format!("--cidata={}", volume.path().display());
    for (text, why) in [
        ("{", "EOF while parsing an object at line 1 column 1"),
        ("\u{0}\u{1b}[31m", "expected value at line 1 column 1"),
        (
            "{\"version\": 1, \"instance\": 7}",
            "invalid type: integer `7`, expected a string",
        ),
    ] {
        fs::write(volume.path().join("boot.json"), text).unwrap();
        let output = agent(&["boot", &cidata]);
        assert_eq!(output.status.code(), Some(1));
        let expected = format!(
            "berth-guestagent: could not understand {}/boot.json: {why}",
            volume.path().display()
        );
        assert!(
            stderr(&output).starts_with(&expected),
            "{}",
            stderr(&output)
        );
    }
    fs::write(volume.path().join("boot.json"), "{\"version\": 2}").unwrap();
    let output = agent(&["boot", &cidata]);
    assert!(
        stderr(&output).contains("has version 2, and this guest agent understands 1"),
        "{}",
        stderr(&output)
    );
}
