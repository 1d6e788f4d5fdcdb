//! The guest ends or begins anew by itself.

use crate::instance::{BOOT, Home};

#[test]
fn a_guest_that_powers_itself_off_ends_its_agent() {
    let home = Home::native();
    let instance = home.instance("x", "");
    let _ = instance.start(&[]).success();
    let (agent, vm) = (instance.agent(), instance.vm());
    // How the connection ends is a matter of luck.
    let _ = instance.shell("sudo systemctl poweroff");
    agent.await_end();
    assert!(!vm.is_alive());
    assert_eq!(instance.events().exit_errors(), Vec::<String>::new());
    home.assert_nothing_left();
    assert_eq!(instance.status(), "Stopped");
}

#[test]
fn a_guest_that_reboots_is_found_again() {
    let home = Home::native();
    let instance = home.instance("x", "");
    let _ = instance.start(&[]).success();
    let (agent, vm) = (instance.agent(), instance.vm());
    let before = instance.shell(BOOT).success();
    let mut log = instance.follow("ha.stderr.log");
    let _ = instance.shell("sudo systemctl reboot");
    log.until("the link to be down", |line| {
        line["msg"] == "guest agent disconnected"
    });
    log.until("the link to be up", |line| {
        line["msg"] == "guest agent connected"
    });
    log.until("the ssh master to be up", |line| {
        line["msg"] == "logged in over ssh"
    });
    assert_ne!(instance.shell(BOOT).success(), before, "the same boot");
    assert_eq!(
        (instance.agent().pid, instance.vm().pid),
        (agent.pid, vm.pid)
    );
    assert_eq!(instance.status(), "Running");
    instance.stop();
    home.assert_nothing_left();
}
