//! cloud-init does not do its work, so that nobody tells the guest who may log in.

use crate::instance::Home;
use crate::outcome::assert_says;
use crate::variant::Variant;

#[test]
fn that_dies_leaves_a_guest_that_lets_nobody_in() {
    let home = Home::native();
    let script = "#!/bin/sh\necho 'cloud-init: out of order' > /dev/console\nexit 1\n";
    let variant = Variant::with_files(&home, &[("usr/bin/cloud-init", script)]);
    home.set("BERTH_TESTGUEST_ROOTFS", variant.root());
    let instance = home.instance("x", "");

    // Whoever waits is told where it stands; the agent goes on.
    let fatal = instance.start(&["--timeout", "3s"]).fatal();
    assert_says(
        &fatal,
        &[
            "instance \"x\" goes on starting",
            "not ready within 3 s",
            "\"essential\"",
            "ha.stderr.log",
        ],
    );
    assert_eq!(instance.status(), "Running");

    assert!(!instance.events().any("running"));
    let console = instance.read("serial.log");
    assert!(console.contains("out of order"), "{console}");
    instance.stop();
    assert_eq!(instance.events().exit_errors(), Vec::<String>::new());
    home.assert_nothing_left();
}
