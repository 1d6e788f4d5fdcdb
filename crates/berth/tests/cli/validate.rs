//! `validate`: every problem with its file, line and column.

use crate::sandbox::{Outcome, Sandbox};

#[test]
fn a_good_file_is_said_to_be_so_on_stderr() {
    let sandbox = Sandbox::new();
    sandbox.write("good.yaml", "images: [{location: /i, arch: x86_64}]\n");
    let outcome = sandbox.run(&["validate", "good.yaml"]);
    assert!(
        outcome
            .stderr
            .contains("level=info msg=\"\\\"good.yaml\\\": OK\""),
        "{}",
        outcome.stderr
    );
    assert_eq!(outcome.success(), "");
    assert_eq!(sandbox.instances(), Vec::<String>::new(), "nothing is made");
}

#[test]
fn problems_have_places() {
    let sandbox = Sandbox::new();
    for (text, place, part) in [
        ("images:\n  - location: [\n", "bad.yaml:", ""),
        ("images: []\ncpus: many\n", "bad.yaml:2:7: ", "cpus"),
        (
            "images: [{location: /i, arch: z80}]\n",
            "bad.yaml:1:31: ",
            "unknown value `z80`",
        ),
        ("cpus: 2\n", "", "images"),
        (
            "images: [{location: /i}]\nportForwards:\n- {guestPort: 22}\n",
            "bad.yaml:3:15: ",
            "22",
        ),
    ] {
        let path = sandbox.write("bad.yaml", text);
        let message = sandbox.run(&["validate", "bad.yaml"]).fatal();
        let place = place.replace("bad.yaml", &path.display().to_string());
        assert!(
            message.starts_with(&place) && message.contains(part),
            "{text:?}: {message}"
        );
    }
}

#[test]
fn an_unknown_key_is_only_a_warning() {
    let sandbox = Sandbox::new();
    sandbox.write("odd.yaml", "images: [{location: /i}]\ncpu: 2\n");
    let outcome = sandbox.run(&["validate", "odd.yaml"]);
    assert!(
        outcome.stderr.contains("odd.yaml:2:1: field `cpu`"),
        "{}",
        outcome.stderr
    );
    let _ = outcome.success();
}

#[test]
fn every_file_is_checked_and_the_wrong_ones_are_counted() {
    let sandbox = Sandbox::new();
    sandbox.write("good.yaml", "images: [{location: /i}]\n");
    sandbox.write("bad.yaml", "cpus: []\n");
    let outcome = sandbox.run(&["validate", "bad.yaml", "good.yaml"]);
    assert!(
        outcome.stderr.contains("good.yaml\\\": OK"),
        "{}",
        outcome.stderr
    );
    assert_eq!(outcome.fatal(), "1 of 2 files cannot be used: bad.yaml");
}

#[test]
fn filled_in_it_is_a_configuration_again() {
    let sandbox = Sandbox::new();
    sandbox.write(
        "a.yaml",
        "images: [{location: /i, arch: x86_64}]\narch: x86_64\n",
    );
    let filled = sandbox.run(&["validate", "--fill", "a.yaml"]).success();
    assert!(
        filled.contains("cpus: ") && filled.contains("vmType: qemu"),
        "{filled}"
    );
    sandbox.write("filled.yaml", &filled);
    let again = sandbox
        .run(&["validate", "--fill", "filled.yaml"])
        .success();
    assert_eq!(again, filled);
}

#[test]
fn standard_input_and_built_in_templates_can_be_checked() {
    let sandbox = Sandbox::new();
    let path = sandbox.write("in", "images: [{location: /i}]\n");
    let mut command = sandbox.berth();
    command
        .args(["validate", "-"])
        .stdin(std::fs::File::open(path).unwrap());
    let _ = Outcome::of(&mut command).success();
    let _ = sandbox.run(&["validate", "template:default"]).success();
    let message = sandbox.run(&["validate", "template:nope"]).fatal();
    assert!(
        message.contains("template \"nope\" does not exist"),
        "{message}"
    );
}
