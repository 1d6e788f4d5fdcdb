//! The guest comes up, but not as it should.

use crate::instance::Home;
use crate::outcome::assert_says;

#[test]
fn a_provision_script_that_fails_is_shown() {
    let home = Home::native();
    let instance = home.instance(
        "x",
        "provision:\n- mode: system\n  script: |\n    #!/bin/sh\n    echo the last words >&2\n    exit 7\n",
    );
    let fatal = instance.start(&[]).fatal();
    assert_says(
        &fatal,
        &[
            "the instance runs, but not everything works:",
            "provision",
            "exit code 7",
            "the last words",
            "`berth shell x`",
        ],
    );
    let errors = instance.events().degraded_errors();
    assert_says(
        &errors.join("\n"),
        &["provision", "exit code 7", "the last words"],
    );
    assert_eq!(instance.status(), "Running");
    assert_eq!(instance.shell("hostname").success(), "lima-x\n");
    instance.stop();
    assert_eq!(instance.events().exit_errors(), Vec::<String>::new());
    home.assert_nothing_left();
}

#[test]
fn a_plain_guest_has_no_agent_and_needs_none() {
    let home = Home::native();
    let instance = home.instance("x", "plain: true\n");
    let said = instance.start(&[]);
    assert!(said.stderr.contains("READY. Run `ssh -F "), "{said:#?}");
    let _ = said.success();
    let agent = "systemctl list-units --all 'lima-guestagent*' --plain --no-legend | wc -l";
    assert_eq!(instance.shell(agent).success(), "0\n");
    instance.stop();
    home.assert_nothing_left();
}
