//! Which guest address is found where on the host.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};

use super::expectations::{Open, Place};
use super::guest_end::{Answer, GuestEnd};
use super::host_ports::{self, HostPort};
use super::port_events::{PortEvent, PortEvents};
use super::{table, talk};
use crate::instance::Home;
use crate::network::{IPV4, OwnNetwork};

/// The whole table, with TCP and with UDP. After each, exactly what it says is listened on, and nothing else.
#[test]
fn every_row_of_the_table_holds() {
    let _network = OwnNetwork::enter();
    let home = Home::native();
    let instance = home.instance("x", &table::rules(IPV4));
    let _ = instance.start(&[]).success();
    let rows = table::rows(IPV4, instance.events().ssh_port());
    let mut guest = GuestEnd::start(&instance);
    let before = host_ports::listening();

    for protocol in ["tcp", "udp"] {
        let mut rows = rows.clone();
        // A unix socket carries no datagrams.
        rows.retain(|row| protocol == "tcp" || !row.host.starts_with('/'));
        let open = Open::new(&instance, &mut guest, protocol, rows);
        let mut wanted = before.clone();
        for (row, place) in open.places() {
            match place {
                Place::Nowhere => {}
                Place::Port(port) => {
                    wanted.insert((protocol, as_the_kernel_has_it(port)));
                }
                Place::Socket(path) => {
                    let metadata = path.symlink_metadata().expect("a socket");
                    assert!(metadata.file_type().is_socket(), "{row:?}");
                }
            }
        }
        host_ports::await_exactly(protocol, &wanted);
        open.carry();
        open.assert_shown();
        open.close(&mut guest);
        host_ports::await_exactly("closed in the guest", &before);
    }
    let sockets = instance.path("sock");
    let mode = sockets
        .metadata()
        .expect("a directory")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o700, "{}", sockets.display());
    assert_eq!(sockets.read_dir().expect("a directory").count(), 0);

    drop(guest);
    instance.stop();
    home.assert_nothing_left();
}

/// A wildcard of IPv4 is one of both, where the host has both.
fn as_the_kernel_has_it(port: SocketAddr) -> SocketAddr {
    if port.ip().is_unspecified() {
        SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port.port())
    } else {
        port
    }
}

/// Several guest addresses share one of the host's; `localhost` is two of the host's.
#[test]
fn a_host_address_lives_as_long_as_anybody_in_the_guest_wants_it() {
    let _network = OwnNetwork::enter();
    let home = Home::native();
    let lines = "portForwards:\n- {guestPort: 6000, hostIP: localhost}\n";
    let instance = home.instance("x", lines);
    let _ = instance.start(&[]).success();
    let mut guest = GuestEnd::start(&instance);
    let mut events = PortEvents::follow(&instance);
    let before = host_ports::listening();
    let with = |ports: &[&str]| {
        let mut all = before.clone();
        all.extend(
            ports
                .iter()
                .map(|port| -> HostPort { ("tcp", port.parse().expect("an address")) }),
        );
        all
    };
    let host = "127.0.0.1:7000".parse().expect("an address");

    let first = guest.listen("tcp", "127.0.0.1:7000", Answer::Label);
    let second = guest.listen("tcp", "[::1]:7000", Answer::Label);
    events.until_all(
        "two guest addresses",
        ["127.0.0.1:7000", "[::1]:7000"]
            .map(|address| PortEvent::new("forwarding", "tcp", address, Some("127.0.0.1:7000"))),
    );
    host_ports::await_exactly("two guest addresses", &with(&["127.0.0.1:7000"]));
    guest.close(first);
    events.until_all(
        "one left",
        [PortEvent::new(
            "stopping",
            "tcp",
            "127.0.0.1:7000",
            Some("127.0.0.1:7000"),
        )],
    );
    assert_eq!(talk::tcp(host, "x").expect("an answer"), "[::1]:7000 got x");
    guest.close(second);
    host_ports::await_exactly("none left", &before);

    // The last word counts, however fast it follows on others.
    for _ in 0..100 {
        let flapping = guest.listen("tcp", "127.0.0.1:7000", Answer::Label);
        guest.close(flapping);
    }
    let _ = guest.listen("tcp", "0.0.0.0:7000", Answer::Label);
    let _ = guest.listen("tcp", "127.0.0.1:6000", Answer::Label);
    let both = ["127.0.0.1:6000", "[::1]:6000", "127.0.0.1:7000"];
    host_ports::await_exactly("in the end", &with(&both));
    assert_eq!(
        talk::tcp(host, "x").expect("an answer"),
        "0.0.0.0:7000 got x"
    );
    for localhost in &both[..2] {
        let localhost = localhost.parse().expect("an address");
        let answer = talk::tcp(localhost, "x").expect("an answer");
        assert_eq!(answer, "127.0.0.1:6000 got x");
    }

    // The guest may go before its end does.
    instance.stop();
    host_ports::await_exactly("stopped", &BTreeSet::new());
    home.assert_nothing_left();
}
