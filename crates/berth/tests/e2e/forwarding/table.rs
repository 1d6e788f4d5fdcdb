//! Which guest address becomes which host address: Lima's test of its forwarders, as a table.
//!
//! The rules are those of `hack/test-port-forwarding.pl`, and so are the numbers of ports. Rows that Lima expects to work on
//! macOS only (privileged ports) work for root on Linux, too.

use std::net::Ipv4Addr;

/// What a row says of a guest address: it is not forwarded.
pub(crate) const IGNORED: &str = "ignored";

/// One expectation.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    /// Why it is expected.
    pub(crate) rule: &'static str,
    /// Where somebody in the guest listens.
    pub(crate) guest: String,
    /// The host's address or, beginning with `/`, socket in the instance's `sock`; or [`IGNORED`].
    pub(crate) host: String,
}

/// The user's rules; those about port 22 and the port of the guest's sshd stand before them, the default one after them.
const RULES: &str = "portForwards:
- {guestIP: 127.0.0.2, guestPortRange: [3000, 3009], hostPortRange: [2000, 2009], ignore: true}
- {guestIP: 0.0.0.0, guestIPMustBeZero: false, guestPortRange: [3010, 3019], hostPortRange: [2010, 2019], ignore: true}
- {guestIP: 0.0.0.0, guestIPMustBeZero: false, guestPortRange: [3000, 3029], hostPortRange: [2000, 2029]}
- {guestIP: 0.0.0.0, guestIPMustBeZero: false, guestPortRange: [3020, 3029], hostPortRange: [2020, 2029], ignore: true}
- {guestPortRange: [3030, 3039], hostPortRange: [2030, 2039], hostIP: IPV4}
- {guestPortRange: [300, 304]}
- {guestPortRange: [305, 309], guestIPMustBeZero: false}
- {guestPortRange: [310, 314], hostIP: 0.0.0.0}
- {guestPortRange: [315, 319], guestIPMustBeZero: false, hostIP: 0.0.0.0}
- {guestIP: 192.168.5.15, guestPortRange: [4000, 4009], hostIP: IPV4}
- {guestIP: '::1', guestPortRange: [4010, 4019], hostIP: '::'}
- {guestIP: '::', guestPortRange: [4020, 4029], hostIP: IPV4}
- {guestIP: 0.0.0.0, guestIPMustBeZero: false, guestPortRange: [4030, 4039], hostIP: IPV4}
- {guestIPMustBeZero: true, guestPortRange: [4040, 4049]}
- {guestIP: 0.0.0.0, guestIPMustBeZero: false, guestPortRange: [4040, 4049], ignore: true}
- {guestIPMustBeZero: true, guestPort: 8888, hostIP: 0.0.0.0}
- {guestPort: 5000, hostSocket: port5000.sock}
- {guestPort: 5001, hostSocket: port5001.sock}
- {guestPort: 5002, guestIPMustBeZero: false, hostSocket: port5002.sock}
- {guestPort: 5003, guestIPMustBeZero: false, hostSocket: port5003.sock}
";

/// Rows by the rule that decides.
const ROWS: &[(&str, &[(&str, &str)])] = &[
    (
        "the port of the guest's sshd on the host is never forwarded",
        &[("127.0.0.1:SSH", IGNORED)],
    ),
    (
        "1: an address that is ignored",
        &[("127.0.0.2:3000", IGNORED)],
    ),
    (
        "2: every address is ignored",
        &[("0.0.0.0:3010", IGNORED), ("127.0.0.1:3011", IGNORED)],
    ),
    (
        "3: any address; 1 is about one and blocks no wildcard, and 4 comes too late",
        &[
            ("127.0.0.3:3001", "127.0.0.1:2001"),
            ("0.0.0.0:3002", "127.0.0.1:2002"),
            ("127.0.0.2:3020", "127.0.0.1:2020"),
            ("127.0.0.1:3021", "127.0.0.1:2021"),
            ("0.0.0.0:3022", "127.0.0.1:2022"),
            ("[::]:3023", "127.0.0.1:2023"),
            ("[::1]:3024", "127.0.0.1:2024"),
        ],
    ),
    (
        "5: loopback means both of them, and a wildcard includes it",
        &[
            ("127.0.0.1:3030", "IPV4:2030"),
            ("0.0.0.0:3031", "IPV4:2031"),
            ("[::]:3032", "IPV4:2032"),
            ("[::1]:3033", "IPV4:2033"),
        ],
    ),
    (
        "6: privileged ports",
        &[
            ("127.0.0.1:300", "127.0.0.1:300"),
            ("0.0.0.0:301", "127.0.0.1:301"),
            ("[::]:302", "127.0.0.1:302"),
            ("[::1]:303", "127.0.0.1:303"),
            ("192.168.5.15:304", IGNORED),
        ],
    ),
    (
        "the default rule, as these ports are beyond 7",
        &[
            ("127.0.0.1:325", "127.0.0.1:325"),
            ("0.0.0.0:326", "127.0.0.1:326"),
            ("[::]:327", "127.0.0.1:327"),
            ("[::1]:328", "127.0.0.1:328"),
            ("192.168.5.15:329", IGNORED),
        ],
    ),
    (
        "7: an address that need not be zero still has to be loopback",
        &[
            ("127.0.0.1:305", "127.0.0.1:305"),
            ("192.168.5.15:309", IGNORED),
        ],
    ),
    (
        "8: all of the host's addresses",
        &[
            ("127.0.0.1:310", "0.0.0.0:310"),
            ("0.0.0.0:311", "0.0.0.0:311"),
            ("[::]:312", "0.0.0.0:312"),
            ("[::1]:313", "0.0.0.0:313"),
            ("192.168.5.15:314", IGNORED),
        ],
    ),
    (
        "9: the same; the guest's address stays loopback",
        &[
            ("127.0.0.1:315", "0.0.0.0:315"),
            ("0.0.0.0:316", "0.0.0.0:316"),
            ("[::]:317", "0.0.0.0:317"),
            ("[::1]:318", "0.0.0.0:318"),
            ("192.168.5.15:319", IGNORED),
        ],
    ),
    (
        "10: the guest's own address",
        &[("192.168.5.15:4000", "IPV4:4000")],
    ),
    (
        "11: all of the host's addresses, in IPv6's words",
        &[("[::1]:4010", "[::]:4010")],
    ),
    (
        "12: any address, in IPv6's words",
        &[
            ("127.0.0.1:4020", "IPV4:4020"),
            ("127.0.0.2:4021", "IPV4:4021"),
            ("192.168.5.15:4022", "IPV4:4022"),
            ("0.0.0.0:4023", "IPV4:4023"),
            ("[::]:4024", "IPV4:4024"),
            ("[::1]:4025", "IPV4:4025"),
        ],
    ),
    (
        "13: any address",
        &[
            ("127.0.0.1:4030", "IPV4:4030"),
            ("127.0.0.2:4031", "IPV4:4031"),
            ("192.168.5.15:4032", "IPV4:4032"),
            ("0.0.0.0:4033", "IPV4:4033"),
            ("[::]:4034", "IPV4:4034"),
            ("[::1]:4035", "IPV4:4035"),
        ],
    ),
    (
        "14: a wildcard, of either kind",
        &[
            ("0.0.0.0:4040", "127.0.0.1:4040"),
            ("[::]:4041", "127.0.0.1:4041"),
        ],
    ),
    (
        "15: what 14 leaves is ignored",
        &[("127.0.0.1:4043", IGNORED), ("192.168.5.15:4044", IGNORED)],
    ),
    (
        "16: a wildcard on both sides",
        &[("0.0.0.0:8888", "0.0.0.0:8888")],
    ),
    (
        "17 to 20: unix sockets of the host, for loopback only",
        &[
            ("127.0.0.1:5000", "/port5000.sock"),
            ("192.168.5.15:5001", IGNORED),
            ("127.0.0.1:5002", "/port5002.sock"),
            ("192.168.5.15:5003", IGNORED),
        ],
    ),
];

/// Guest addresses of the rows that a virtual machine has to pass as well: each kind of match, and of answer.
const SELECTION: [&str; 10] = [
    "127.0.0.2:3000",
    "127.0.0.1:3011",
    "127.0.0.3:3001",
    "[::]:3023",
    "[::1]:3033",
    "192.168.5.15:4000",
    "[::1]:4010",
    "0.0.0.0:4040",
    "127.0.0.1:4043",
    "127.0.0.1:5000",
];

/// The rules as lines of a `lima.yaml`, for a host with the address `ipv4` besides loopback.
pub(crate) fn rules(ipv4: Ipv4Addr) -> String {
    RULES.replace("IPV4", &ipv4.to_string())
}

/// All rows, for the same host, where `ssh` is the port of the guest's sshd.
pub(crate) fn rows(ipv4: Ipv4Addr, ssh: u16) -> Vec<Row> {
    let group = |(rule, rows): &(&'static str, &[(&str, &str)])| {
        let row = |(guest, host): &(&str, &str)| Row {
            rule,
            guest: guest.replace("SSH", &ssh.to_string()),
            host: host.replace("IPV4", &ipv4.to_string()),
        };
        rows.iter().map(row).collect::<Vec<_>>()
    };
    ROWS.iter().flat_map(group).collect()
}

/// The rows for a virtual machine.
pub(crate) fn selection(ipv4: Ipv4Addr, ssh: u16) -> Vec<Row> {
    let mut rows = rows(ipv4, ssh);
    rows.retain(|row| SELECTION.contains(&row.guest.as_str()));
    assert_eq!(rows.len(), SELECTION.len());
    rows
}
