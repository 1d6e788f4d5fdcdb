//! The agent is killed, and its VM lives on.

use rustix::process::Signal;

use crate::instance::Home;
use crate::outcome::assert_says;

#[test]
fn the_vm_lives_until_somebody_stops_it() {
    let home = Home::native();
    let instance = home.instance("x", "");
    let _ = instance.start(&[]).success();
    let port = instance.events().ssh_port();
    let (agent, vm) = (instance.agent(), instance.vm());
    agent.signal(Signal::KILL);
    agent.await_end();

    assert_eq!(instance.status(), "Broken");
    let listed = home.run(&["list", "--json"]).success();
    let listed: serde_json::Value = serde_json::from_str(&listed).expect("one object");
    assert_eq!(listed["berthState"]["state"], "orphaned", "{listed}");
    assert_eq!(listed["driverPID"], vm.pid);
    let fatal = instance.start(&[]).fatal();
    assert_says(
        &fatal,
        &["is alive", &format!("pid {}", vm.pid), "`berth stop x`"],
    );
    assert!(vm.is_alive(), "a start that is refused touches nothing");
    assert_eq!(instance.vm().pid, vm.pid);

    instance.stop();
    vm.await_end();
    home.assert_nothing_left();
    assert_eq!(instance.status(), "Stopped");
    let _ = instance.start(&[]).success();
    assert_eq!(instance.events().ssh_port(), port);
    instance.stop();
    home.assert_nothing_left();
}

#[test]
fn before_the_guest_was_ready() {
    let home = Home::native();
    let instance = home.instance("x", "").create();
    let mut starting = instance.begin_start(&[]);
    starting.until("the phase essential", crate::events::begins("essential"));
    let vm = instance.vm();
    instance.agent().signal(Signal::KILL);
    let fatal = starting.finish().fatal();
    assert_says(
        &fatal,
        &["the instance did not start: ", "the host agent ended"],
    );
    assert!(vm.is_alive());
    let _ = home.run(&["stop", "--force", "x"]).success();
    vm.await_end();
    home.assert_nothing_left();
}
