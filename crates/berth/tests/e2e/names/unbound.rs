//! The host resolver has no port to listen on.

use std::fs;
use std::net::{Ipv4Addr, UdpSocket};
use std::ops::RangeInclusive;

use super::{ask, until};
use crate::instance::Home;
use crate::network::OwnNetwork;
use crate::outcome::assert_says;

/// What the kernel chooses from in the test's own network.
const PORTS: RangeInclusive<u16> = 40_000..=40_127;

/// Takes every port over UDP that the kernel could choose.
fn take_all_ports() -> Vec<UdpSocket> {
    let range = format!("{} {}", PORTS.start(), PORTS.end());
    // Of this thread's network, which is the test's own.
    fs::write("/proc/sys/net/ipv4/ip_local_port_range", range).expect("root may");
    let bind = |port| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).expect("a free port");
    PORTS.map(bind).collect()
}

#[test]
fn without_ports_the_instance_runs_and_says_so() {
    let _network = OwnNetwork::enter();
    let home = Home::native();
    let instance = home.instance("x", "hostResolver: {hosts: {db.corp.example: 10.0.0.5}}\n");
    let taken = take_all_ports();
    let trouble = ["the host resolver does not work", "127.0.0.1"];
    assert_says(&instance.start(&[]).fatal(), &trouble);
    assert_says(&instance.events().degraded_errors().join("\n"), &trouble);
    assert_says(&home.run(&["status", "x"]).success(), &trouble);
    let asked = home.run(&["dns", "query", "db.corp.example", "--instance=x"]);
    assert_says(&asked.fatal(), &["does not work"]);
    let said = instance.shell("echo lives").success();
    assert_eq!(said.trim(), "lives");
    instance.stop();

    // The next start finds ports.
    drop(taken);
    let _ = instance.start(&[]).success();
    until(&instance, &ask("db.corp.example"), "10.0.0.5");
    assert!(!instance.events().any("degraded"));
    instance.stop();
    home.assert_nothing_left();
}
