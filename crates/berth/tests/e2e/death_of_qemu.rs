//! QEMU is killed.

use rustix::process::Signal;

use crate::events::begins;
use crate::instance::{Home, Instance};
use crate::leftovers::assert_free;
use crate::outcome::assert_says;

#[test]
fn while_the_guest_boots() {
    let home = Home::native();
    let instance = home.instance("x", "").create();
    let mut starting = instance.begin_start(&[]);
    starting.until("the phase essential", begins("essential"));
    let agent = instance.agent();
    instance.vm().signal(Signal::KILL);
    let fatal = starting.finish().fatal();
    assert_says(
        &fatal,
        &[
            "the instance did not start: ",
            "the VM ended by itself: ",
            "killed by signal 9",
            "ha.stderr.log",
        ],
    );
    assert_eq!(
        fatal.matches("the VM ended by itself").count(),
        1,
        "said once: {fatal}"
    );
    assert!(!agent.is_alive());
    assert!(!instance.events().any("running"));
    check_told(&instance);
}

#[test]
fn after_the_guest_was_ready() {
    let home = Home::native();
    let instance = home.instance("x", "");
    let _ = instance.start(&[]).success();
    let agent = instance.agent();
    instance.vm().signal(Signal::KILL);
    agent.await_end();
    check_told(&instance);
    let _ = instance.start(&[]).success();
    instance.stop();
    home.assert_nothing_left();
}

#[track_caller]
fn check_told(instance: &Instance<'_>) {
    let events = instance.events();
    let errors = events.exit_errors();
    assert_eq!(errors.len(), 1, "one reason: {errors:?}");
    assert_says(
        &errors[0],
        &["the VM ended by itself", "killed by signal 9 (SIGKILL)"],
    );
    instance.home.assert_nothing_left();
    assert_free(events.ssh_port());
    assert_eq!(instance.status(), "Stopped");
}
