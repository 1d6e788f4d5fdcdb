//! The port of the guest's sshd on the host.

use std::net::{Ipv4Addr, TcpListener};

use crate::instance::Home;
use crate::leftovers::assert_free;
use crate::outcome::assert_says;

#[test]
fn one_that_was_asked_for_and_is_taken_is_named() {
    let home = Home::native();
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = taken.local_addr().expect("its number").port();
    let instance = home.instance("x", &format!("ssh: {{localPort: {port}}}\n"));
    let fatal = instance.start(&[]).fatal();
    let address = format!("127.0.0.1:{port}");
    assert_says(
        &fatal,
        &[
            "the instance did not start: ",
            &address,
            "ssh.localPort",
            "in use",
        ],
    );
    let errors = instance.events().exit_errors();
    assert_says(&errors.join("\n"), &[&address, "ssh.localPort", "in use"]);
    assert!(!instance.path("serial.log").exists(), "no VM was started");
    home.assert_nothing_left();

    drop(taken);
    let _ = instance.start(&[]).success();
    assert_eq!(instance.events().ssh_port(), port);
    instance.stop();
    home.assert_nothing_left();
    assert_free(port);
}

#[test]
fn one_that_was_not_asked_for_makes_way() {
    let home = Home::native();
    let instance = home.instance("x", "");
    let _ = instance.start(&[]).success();
    let port = instance.events().ssh_port();
    instance.stop();
    let _taken = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect("a free port");
    let _ = instance.start(&[]).success();
    assert_ne!(instance.events().ssh_port(), port);
    let _ = instance.shell("true").success();
    instance.stop();
    home.assert_nothing_left();
}
