//! Forwards that go over ssh: because the user wants it, or because there is no guest agent.

use std::net::{Ipv4Addr, SocketAddr};

use rustix::process::Signal;

use super::guest_end::{Answer, GuestEnd};
use super::host_ports;
use super::port_events::{PortEvent, PortEvents};
use super::talk;
use crate::instance::{Home, Instance};
use crate::network::OwnNetwork;

/// Lima's own test of static forwards: the first is one, the others are not.
const RULES: &str = "portForwards:
- {guestPort: 80, hostPort: 9090, static: true}
- {guestPort: 9080, hostPort: 29080}
- {guestPort: 9070, hostPort: 29070}
";

fn loopback(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

#[test]
fn dynamic_ones_when_the_user_asks_for_it() {
    let _network = OwnNetwork::enter();
    let home = Home::native();
    home.set("LIMA_SSH_PORT_FORWARDER", "true");
    let instance = home.instance("x", "");
    let _ = instance.start(&[]).success();
    let before = host_ports::listening();
    let mut guest = GuestEnd::start(&instance);
    let mut events = PortEvents::follow(&instance);
    let address = "127.0.0.1:7001";
    // ssh has no datagrams.
    guest.listen("udp", address, Answer::Label);
    let tcp = guest.listen("tcp", address, Answer::Label);
    events.until_all(
        "a port of the guest",
        [PortEvent::new("forwarding", "tcp", address, Some(address))],
    );
    let mut with_port = before.clone();
    with_port.insert(("tcp", loopback(7001)));
    let check = |what: &str| {
        host_ports::await_exactly(what, &with_port);
        let answer = talk::tcp(loopback(7001), "x").expect("an answer");
        assert_eq!(answer, "127.0.0.1:7001 got x", "{what}");
    };
    check("at first");
    // The guest agent tells which ports there are, and carries nothing.
    let agent = instance.guest_agent();
    agent.signal(Signal::STOP);
    check("with a frozen guest agent");
    agent.signal(Signal::CONT);
    kill_the_ssh_master(&instance);
    check("with another master");

    guest.close(tcp);
    host_ports::await_exactly("closed in the guest", &before);
    drop(guest);
    instance.stop();
    home.assert_nothing_left();
}

/// Kills it, and waits for its successor.
#[track_caller]
fn kill_the_ssh_master(instance: &Instance<'_>) {
    let mut log = instance.follow("ha.stderr.log");
    let master = instance.ssh_master();
    master.signal(Signal::KILL);
    master.await_end();
    log.until("another master", |line| line["msg"] == "logged in over ssh");
}

#[test]
fn static_ones_in_plain_mode() {
    let _network = OwnNetwork::enter();
    let home = Home::native();
    let instance = home.instance("x", RULES);
    let _ = instance.start(&[]).success();
    let mut guest = GuestEnd::start(&instance);
    // Nobody listens in the guest yet, and the client learns it.
    let answer = talk::tcp(loopback(9090), "x");
    assert!(
        matches!(&answer, Err(why) if talk::is_broken(why)),
        "{answer:?}"
    );
    serve(&mut guest);
    await_ports(&[9090, 29080, 29070]);
    for port in [9090, 29080, 29070] {
        let answer = talk::tcp(loopback(port), "x").expect("an answer");
        assert!(answer.ends_with(" got x"), "{port}: {answer}");
    }
    drop(guest);
    instance.stop();
    host_ports::await_exactly("stopped", &[].into());

    let config = instance.read("lima.yaml");
    std::fs::write(instance.path("lima.yaml"), format!("{config}plain: true\n"))
        .expect("a configuration");
    let _ = instance.start(&[]).success();
    let before = host_ports::listening();
    assert!(before.contains(&("tcp", loopback(9090))), "{before:?}");
    let mut guest = GuestEnd::start(&instance);
    serve(&mut guest);
    let check = |what: &str| {
        host_ports::await_exactly(what, &before);
        let answer = talk::tcp(loopback(9090), "x").expect("an answer");
        assert_eq!(answer, "0.0.0.0:80 got x", "{what}");
        for port in [29080, 29070] {
            assert!(talk::is_refused("tcp", loopback(port)), "{what}: {port}");
        }
    };
    check("at first");
    kill_the_ssh_master(&instance);
    check("with another master");
    drop(guest);
    instance.stop();
    home.assert_nothing_left();
}

/// What the rules are about listens in the guest.
#[track_caller]
fn serve(guest: &mut GuestEnd<'_>) {
    for address in ["0.0.0.0:80", "127.0.0.1:9080", "127.0.0.1:9070"] {
        guest.listen("tcp", address, Answer::Label);
    }
}

#[track_caller]
fn await_ports(ports: &[u16]) {
    let all_there = super::patience::comes_true(|| {
        let listening = host_ports::listening();
        ports
            .iter()
            .all(|port| listening.contains(&("tcp", loopback(*port))))
    });
    assert!(all_there, "{ports:?}: {:?}", host_ports::listening());
}
