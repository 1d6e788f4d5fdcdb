//! Who listens on the host, as the kernel tells it.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::patience::comes_true;

/// A listening TCP socket or a bound UDP socket: `tcp` or `udp`, and its address.
pub(crate) type HostPort = (&'static str, SocketAddr);

/// Everything that listens in this thread's network.
#[track_caller]
pub(crate) fn listening() -> BTreeSet<HostPort> {
    let tables = [
        ("tcp", "tcp", "0A"),
        ("tcp", "tcp6", "0A"),
        ("udp", "udp", "07"),
        ("udp", "udp6", "07"),
    ];
    let mut found = BTreeSet::new();
    for (protocol, table, state) in tables {
        let text = fs::read_to_string(format!("/proc/thread-self/net/{table}")).expect("a table");
        for line in text.lines().skip(1) {
            let mut fields = line.split_whitespace().skip(1);
            let local = fields.next().expect("an address");
            if fields.nth(1) == Some(state) {
                found.insert((protocol, parse(local)));
            }
        }
    }
    found
}

/// Waits until exactly these ports are listened on.
#[track_caller]
pub(crate) fn await_exactly(what: &str, wanted: &BTreeSet<HostPort>) {
    if !comes_true(|| listening() == *wanted) {
        let found = listening();
        panic!(
            "{what}: too much is listened on: {:?}, too little: {:?}",
            found.difference(wanted).collect::<Vec<_>>(),
            wanted.difference(&found).collect::<Vec<_>>()
        );
    }
}

/// `0100007F:0016` and the like: groups of four bytes in the machine's order, then the port.
fn parse(text: &str) -> SocketAddr {
    let (address, port) = text.split_once(':').expect("an address and a port");
    let port = u16::from_str_radix(port, 16).expect("a port");
    let bytes: Vec<u8> = (0..address.len())
        .step_by(8)
        .flat_map(|at| {
            let word = u32::from_str_radix(&address[at..at + 8], 16).expect("hex");
            word.to_ne_bytes()
        })
        .collect();
    let ip = match <[u8; 4]>::try_from(bytes.as_slice()) {
        Ok(four) => IpAddr::from(Ipv4Addr::from(four)),
        Err(_) => Ipv6Addr::from(<[u8; 16]>::try_from(bytes.as_slice()).expect("16 bytes")).into(),
    };
    SocketAddr::new(ip, port)
}
