//! Ports of the host that somebody else has.

use std::net::{Ipv4Addr, TcpListener, UdpSocket};

use super::guest_end::{Answer, GuestEnd};
use super::port_events::{PortEvent, PortEvents};
use super::talk;
use crate::instance::Home;
use crate::network::OwnNetwork;
use crate::outcome::assert_says;

#[test]
fn a_busy_port_is_forwarded_when_it_is_free() {
    let _network = OwnNetwork::enter();
    let home = Home::native();
    let [first, second] = ["x", "y"].map(|name| home.instance(name, "").create());
    let starting = [first.begin_start(&[]), second.begin_start(&[])];
    for starting in starting {
        let _ = starting.finish().success();
    }
    let mut guests = [GuestEnd::start(&first), GuestEnd::start(&second)];
    let mut events = [PortEvents::follow(&first), PortEvents::follow(&second)];

    // Somebody else has it: the event names them.
    let (address, port) = ("127.0.0.1:7001", (Ipv4Addr::LOCALHOST, 7001));
    let tcp = TcpListener::bind(port).expect("a free port");
    let udp = UdpSocket::bind(port).expect("a free port");
    let forwarding = |protocol| PortEvent::new("forwarding", protocol, address, Some(address));
    let stopping = |protocol| PortEvent::new("stopping", protocol, address, Some(address));
    for protocol in ["tcp", "udp"] {
        guests[0].listen(protocol, address, Answer::Label);
        let error = events[0].until_failed(protocol, address);
        assert_says(
            &error,
            &["is taken by", &format!("pid {}", std::process::id())],
        );
        assert!(!events[0].seen().contains(&forwarding(protocol)));
    }
    drop(tcp);
    events[0].until_all("the port was freed", [forwarding("tcp")]);
    drop(udp);
    events[0].until_all("the port was freed", [forwarding("udp")]);
    let answer = talk::tcp(port.into(), "x").expect("an answer");
    assert_eq!(answer, "127.0.0.1:7001 got x");
    let answer = talk::udp(port.into(), "x").expect("an answer");
    assert_eq!(answer, "127.0.0.1:7001 got x");

    // Another instance has it: the second in the queue gets it when the first stops.
    let other = guests[1].listen("tcp", address, Answer::Greet);
    let error = events[1].until_failed("tcp", address);
    assert_says(
        &error,
        &["is taken by", &format!("pid {}", first.agent().pid)],
    );
    let answer = talk::tcp(port.into(), "x").expect("an answer");
    assert_eq!(answer, "127.0.0.1:7001 got x", "still the first");
    let [gone, guest] = &mut guests;
    let _ = gone;
    first.stop();
    events[1].until_all("the first instance stopped", [forwarding("tcp")]);
    let answer = talk::tcp(port.into(), "x").expect("an answer");
    assert_eq!(answer, "127.0.0.1:7001");
    assert_eq!(guest.ended(other).received, "x");
    guest.close(other);
    events[1].until_all("closed in the guest", [stopping("tcp")]);

    drop(guests);
    second.stop();
    home.assert_nothing_left();
}
