//! The rules against the table that Lima's own port-forward test works through, and against the recipes people use.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use berth_config::model::{HostIp, PortForward, Proto};
use berth_forward::address::{HostAddr, Transport};
use berth_forward::rules::{Decision, Ignored, Reserved, Route, RuleList, StaticForward};

const SSH_PORT: u16 = 60022;
const AGENT_PORT: u16 = 45454;
/// Stands for an address of the host's own network.
const HOST_NET: &str = "198.51.100.7";

/// A rule as it is after the defaults of lima.yaml are filled in.
#[derive(Clone)]
struct RuleOf(PortForward);

fn rule(first: u16, last: u16) -> RuleOf {
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    RuleOf(PortForward {
        guest_ip_must_be_zero: false,
        guest_ip: loopback,
        guest_port: 0,
        guest_port_range: [first, last],
        guest_socket: String::new(),
        host_ip: HostIp::Address(loopback),
        host_port: 0,
        host_port_range: [first, last],
        host_socket: None,
        proto: Proto::Any,
        reverse: false,
        ignore: false,
        is_static: false,
    })
}

fn every_port() -> RuleOf {
    rule(1, 65535)
}

impl RuleOf {
    fn guest(mut self, ip: &str) -> Self {
        self.0.guest_ip = ip.parse().expect("an address");
        self
    }
    fn must_be_zero(mut self) -> Self {
        self.0.guest_ip = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        self.0.guest_ip_must_be_zero = true;
        self
    }
    fn host(mut self, ip: &str) -> Self {
        self.0.host_ip = ip.parse().expect("an address");
        self
    }
    fn to(mut self, first: u16, last: u16) -> Self {
        self.0.host_port_range = [first, last];
        self
    }
    fn socket(mut self, name: &str) -> Self {
        self.0.host_socket = Some(PathBuf::from("/instance/sock").join(name));
        self.0.host_port_range = [0, 0];
        self
    }
    fn proto(mut self, proto: Proto) -> Self {
        self.0.proto = proto;
        self
    }
    fn ignore(mut self) -> Self {
        self.0.ignore = true;
        self
    }
    fn fixed(mut self) -> Self {
        self.0.is_static = true;
        self
    }
}

fn reserved() -> Reserved {
    Reserved {
        ssh_port: SSH_PORT,
        agent_ports: vec![AGENT_PORT],
    }
}

fn list(rules: impl IntoIterator<Item = RuleOf>) -> RuleList {
    let rules: Vec<PortForward> = rules.into_iter().map(|rule| rule.0).collect();
    RuleList::new(&rules, &reserved())
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address and a port")
}

/// The host address in text, or nothing.
fn tcp(rules: &RuleList, guest: &str) -> Option<String> {
    forwarded(rules.decide(Transport::Tcp, address(guest)))
}

fn udp(rules: &RuleList, guest: &str) -> Option<String> {
    forwarded(rules.decide(Transport::Udp, address(guest)))
}

fn forwarded(decision: Decision) -> Option<String> {
    match decision {
        Decision::Forward(route) => Some(route.host.to_string()),
        Decision::Static(_) | Decision::Ignore(_) => None,
    }
}

fn lima_test_rules() -> RuleList {
    list([
        rule(3000, 3009).guest("127.0.0.2").to(2000, 2009).ignore(),
        rule(3010, 3019).guest("0.0.0.0").ignore(),
        rule(3000, 3029).guest("0.0.0.0").to(2000, 2029),
        rule(3020, 3029).guest("0.0.0.0").ignore(),
        rule(3030, 3039).to(2030, 2039).host(HOST_NET),
        rule(300, 304),
        rule(305, 309),
        rule(310, 314).host("0.0.0.0"),
        rule(315, 319).host("0.0.0.0"),
        rule(4000, 4009).guest("192.168.5.15").host(HOST_NET),
        rule(4010, 4019).guest("::1").host("::"),
        rule(4020, 4029).guest("::").host(HOST_NET),
        rule(4030, 4039).guest("0.0.0.0").host(HOST_NET),
        rule(4040, 4049).must_be_zero(),
        rule(4040, 4049).guest("0.0.0.0").ignore(),
        rule(8888, 8888).must_be_zero().host("0.0.0.0"),
        rule(5000, 5000).socket("port5000.sock"),
        rule(5001, 5001).socket("port5001.sock"),
        rule(5002, 5002).socket("port5002.sock"),
        rule(5003, 5003).socket("port5003.sock"),
    ])
}

#[test]
fn the_table_of_limas_port_forward_test() {
    let rules = lima_test_rules();
    let table: &[(&str, &str)] = &[
        ("127.0.0.1:60022", ""),
        ("127.0.0.2:3000", ""),
        ("127.0.0.3:3001", "127.0.0.1:2001"),
        ("0.0.0.0:3002", "127.0.0.1:2002"),
        ("0.0.0.0:3010", ""),
        ("127.0.0.1:3011", ""),
        ("127.0.0.2:3020", "127.0.0.1:2020"),
        ("127.0.0.1:3021", "127.0.0.1:2021"),
        ("0.0.0.0:3022", "127.0.0.1:2022"),
        ("[::]:3023", "127.0.0.1:2023"),
        ("[::1]:3024", "127.0.0.1:2024"),
        ("127.0.0.1:3030", "198.51.100.7:2030"),
        ("0.0.0.0:3031", "198.51.100.7:2031"),
        ("[::]:3032", "198.51.100.7:2032"),
        ("[::1]:3033", "198.51.100.7:2033"),
        ("127.0.0.1:300", "127.0.0.1:300"),
        ("0.0.0.0:301", "127.0.0.1:301"),
        ("[::]:302", "127.0.0.1:302"),
        ("[::1]:303", "127.0.0.1:303"),
        ("192.168.5.15:304", ""),
        ("127.0.0.1:325", "127.0.0.1:325"),
        ("0.0.0.0:326", "127.0.0.1:326"),
        ("[::]:327", "127.0.0.1:327"),
        ("[::1]:328", "127.0.0.1:328"),
        ("192.168.5.15:329", ""),
        ("127.0.0.1:310", "0.0.0.0:310"),
        ("0.0.0.0:311", "0.0.0.0:311"),
        ("[::]:312", "0.0.0.0:312"),
        ("[::1]:313", "0.0.0.0:313"),
        ("192.168.5.15:314", ""),
        ("127.0.0.1:315", "0.0.0.0:315"),
        ("0.0.0.0:316", "0.0.0.0:316"),
        ("[::]:317", "0.0.0.0:317"),
        ("[::1]:318", "0.0.0.0:318"),
        ("192.168.5.15:319", ""),
        ("192.168.5.15:4000", "198.51.100.7:4000"),
        ("[::1]:4010", "[::]:4010"),
        ("127.0.0.1:4020", "198.51.100.7:4020"),
        ("127.0.0.2:4021", "198.51.100.7:4021"),
        ("192.168.5.15:4022", "198.51.100.7:4022"),
        ("0.0.0.0:4023", "198.51.100.7:4023"),
        ("[::]:4024", "198.51.100.7:4024"),
        ("[::1]:4025", "198.51.100.7:4025"),
        ("127.0.0.1:4030", "198.51.100.7:4030"),
        ("127.0.0.2:4031", "198.51.100.7:4031"),
        ("192.168.5.15:4032", "198.51.100.7:4032"),
        ("0.0.0.0:4033", "198.51.100.7:4033"),
        ("[::]:4034", "198.51.100.7:4034"),
        ("[::1]:4035", "198.51.100.7:4035"),
        ("0.0.0.0:4040", "127.0.0.1:4040"),
        ("[::]:4041", "127.0.0.1:4041"),
        ("127.0.0.1:4043", ""),
        ("192.168.5.15:4044", ""),
        ("0.0.0.0:8888", "0.0.0.0:8888"),
        ("127.0.0.1:8888", "127.0.0.1:8888"),
        ("127.0.0.1:5000", "/instance/sock/port5000.sock"),
        ("192.168.5.15:5001", ""),
        ("127.0.0.1:5002", "/instance/sock/port5002.sock"),
        ("192.168.5.15:5003", ""),
    ];
    for (guest, host) in table {
        let expected = (!host.is_empty()).then(|| (*host).to_owned());
        assert_eq!(tcp(&rules, guest), expected, "guest {guest}");
    }
}

#[test]
fn reserved_ports_are_never_forwarded_on_any_address() {
    let rules = list([every_port().guest("0.0.0.0")]);
    for ip in ["0.0.0.0", "127.0.0.1", "[::]", "[::1]", "192.168.5.15"] {
        let decide = |port: u16| rules.decide(Transport::Tcp, address(&format!("{ip}:{port}")));
        assert_eq!(decide(22), Decision::Ignore(Ignored::GuestSsh), "{ip}");
        assert_eq!(
            decide(SSH_PORT),
            Decision::Ignore(Ignored::HostSshPort),
            "{ip}"
        );
        assert_eq!(
            decide(AGENT_PORT),
            Decision::Ignore(Ignored::GuestAgent),
            "{ip}"
        );
    }
}

#[test]
fn without_rules_loopback_and_wildcard_go_to_the_same_loopback_port() {
    let rules = list([]);
    for ip in ["0.0.0.0", "127.0.0.1", "[::]", "[::1]"] {
        let guest = format!("{ip}:8080");
        assert_eq!(
            tcp(&rules, &guest).as_deref(),
            Some("127.0.0.1:8080"),
            "{ip}"
        );
        assert_eq!(
            udp(&rules, &guest).as_deref(),
            Some("127.0.0.1:8080"),
            "{ip}"
        );
    }
    for ip in ["127.0.0.2", "192.168.5.15", "[fe80::1]"] {
        assert_eq!(
            rules.decide(Transport::Tcp, address(&format!("{ip}:8080"))),
            Decision::Ignore(Ignored::NoRule),
            "{ip}"
        );
    }
}

#[test]
fn the_systems_own_name_service_stays_inside_unless_a_rule_speaks_of_it() {
    let rules = list([]);
    for guest in ["0.0.0.0:5355", "[::]:5355", "127.0.0.1:5355"] {
        let system = Decision::Ignore(Ignored::System);
        assert_eq!(rules.decide(Transport::Tcp, address(guest)), system);
    }
    let rules = list([rule(5355, 5355)]);
    assert_eq!(
        tcp(&rules, "0.0.0.0:5355").as_deref(),
        Some("127.0.0.1:5355")
    );
}

#[test]
fn an_ipv4_address_written_as_ipv6_is_the_same_address() {
    let rules = list([rule(7000, 7000).guest("192.168.5.15")]);
    assert_eq!(
        tcp(&rules, "[::ffff:192.168.5.15]:7000").as_deref(),
        Some("127.0.0.1:7000")
    );
    assert_eq!(
        tcp(&rules, "[::ffff:0.0.0.0]:9").as_deref(),
        Some("127.0.0.1:9")
    );
}

#[test]
fn loopback_equality_goes_one_way() {
    let rules = list([rule(7000, 7000).guest("::1").to(7100, 7100)]);
    assert_eq!(tcp(&rules, "[::1]:7000").as_deref(), Some("127.0.0.1:7100"));
    assert_eq!(
        tcp(&rules, "127.0.0.1:7000").as_deref(),
        Some("127.0.0.1:7000")
    );
}

#[test]
fn protocols_are_told_apart() {
    let rules = list([
        rule(53, 53).proto(Proto::Udp).to(10053, 10053),
        rule(80, 80).proto(Proto::Tcp).to(8080, 8080),
    ]);
    assert_eq!(
        udp(&rules, "127.0.0.1:53").as_deref(),
        Some("127.0.0.1:10053")
    );
    assert_eq!(tcp(&rules, "127.0.0.1:53").as_deref(), Some("127.0.0.1:53"));
    assert_eq!(
        tcp(&rules, "127.0.0.1:80").as_deref(),
        Some("127.0.0.1:8080")
    );
    assert_eq!(udp(&rules, "127.0.0.1:80").as_deref(), Some("127.0.0.1:80"));
}

#[test]
fn a_rule_to_a_unix_socket_says_nothing_about_udp() {
    let rules = list([rule(5000, 5000).socket("s")]);
    assert_eq!(
        tcp(&rules, "127.0.0.1:5000").as_deref(),
        Some("/instance/sock/s")
    );
    assert_eq!(
        udp(&rules, "127.0.0.1:5000").as_deref(),
        Some("127.0.0.1:5000")
    );
}

#[test]
fn a_rule_to_localhost_names_both_loopback_addresses() {
    let mut both = rule(7000, 7001).to(8000, 8001);
    both.0.host_ip = HostIp::Localhost;
    let rules = list([both]);
    assert_eq!(
        tcp(&rules, "127.0.0.1:7001").as_deref(),
        Some("localhost:8001")
    );
    assert_eq!(
        rules.decide(Transport::Udp, address("[::1]:7000")),
        Decision::Forward(Route {
            host: HostAddr::Localhost(8000),
            rank: 0
        })
    );
}

#[test]
fn ignoring_zero_leaves_loopback_forwarded_and_does_not_call_itself_disabled() {
    let recipe = list([every_port().must_be_zero().ignore()]);
    assert_eq!(tcp(&recipe, "0.0.0.0:8080"), None);
    assert_eq!(
        tcp(&recipe, "127.0.0.1:8080").as_deref(),
        Some("127.0.0.1:8080")
    );
    assert!(!recipe.is_disabled(Transport::Tcp));

    let loopback_only = list([every_port().ignore()]);
    assert_eq!(tcp(&loopback_only, "127.0.0.1:8080"), None);
    assert_eq!(
        tcp(&loopback_only, "0.0.0.0:8080").as_deref(),
        Some("127.0.0.1:8080")
    );
    assert!(!loopback_only.is_disabled(Transport::Tcp));
}

#[test]
fn ignoring_every_address_disables_its_protocol() {
    let rules = list([every_port().guest("0.0.0.0").proto(Proto::Tcp).ignore()]);
    assert!(rules.is_disabled(Transport::Tcp));
    assert!(!rules.is_disabled(Transport::Udp));
    assert_eq!(
        rules.decide(Transport::Tcp, address("[::1]:1")),
        Decision::Ignore(Ignored::Rule(0))
    );
    assert_eq!(udp(&rules, "127.0.0.1:1").as_deref(), Some("127.0.0.1:1"));

    let with_exception = list([rule(80, 80), every_port().guest("0.0.0.0").ignore()]);
    assert!(!with_exception.is_disabled(Transport::Tcp));
}

#[test]
fn a_reported_rule_number_is_its_place_in_the_file() {
    let mut socket = every_port();
    socket.0.guest_socket = "/run/docker.sock".to_owned();
    let rules = list([socket.socket("docker.sock"), rule(81, 81).ignore()]);
    assert_eq!(
        rules.decide(Transport::Tcp, address("127.0.0.1:81")),
        Decision::Ignore(Ignored::Rule(1))
    );
}

#[test]
fn a_static_range_is_expanded_port_by_port() {
    let rules = list([
        rule(8001, 8001).ignore(),
        rule(8000, 8003).to(9000, 9003).fixed(),
    ]);
    let expected = |guest: u16| StaticForward {
        transport: Transport::Tcp,
        guest: SocketAddr::from(([127, 0, 0, 1], guest)),
        route: Route {
            host: HostAddr::Port(SocketAddr::from(([127, 0, 0, 1], guest + 1000))),
            rank: 1,
        },
    };
    let forwards: Vec<_> = rules.static_forwards().collect();
    assert_eq!(forwards, [expected(8000), expected(8002), expected(8003)]);
}

#[test]
fn a_static_range_never_reaches_ssh() {
    let rules = list([rule(21, 23).fixed()]);
    let ports: Vec<_> = rules.static_forwards().map(|f| f.guest.port()).collect();
    assert_eq!(ports, [21, 23]);
}

#[test]
fn an_earlier_rule_decides_where_a_static_port_goes() {
    let rules = list([
        rule(80, 80).to(8080, 8080),
        rule(80, 80).to(9090, 9090).fixed(),
    ]);
    let hosts: Vec<_> = rules
        .static_forwards()
        .map(|f| f.route.host.to_string())
        .collect();
    assert_eq!(hosts, ["127.0.0.1:8080"]);
}

#[test]
fn a_static_udp_rule_is_a_udp_forward() {
    let rules = list([rule(53, 53).proto(Proto::Udp).to(1053, 1053).fixed()]);
    let forwards: Vec<_> = rules.static_forwards().collect();
    assert_eq!(forwards.len(), 1);
    assert_eq!(forwards[0].transport, Transport::Udp);
    assert_eq!(forwards[0].route.host.to_string(), "127.0.0.1:1053");
}

#[test]
fn a_static_rule_holds_back_only_its_own_protocol_and_address() {
    let rules = list([rule(80, 80).to(9090, 9090).fixed()]);
    assert_eq!(
        rules.decide(Transport::Tcp, address("0.0.0.0:80")),
        Decision::Static(Route {
            host: HostAddr::Port(address("127.0.0.1:9090")),
            rank: 0
        })
    );
    assert_eq!(
        udp(&rules, "127.0.0.1:80").as_deref(),
        Some("127.0.0.1:9090")
    );
    assert_eq!(tcp(&rules, "127.0.0.1:81").as_deref(), Some("127.0.0.1:81"));
}

#[test]
fn socket_rules_hold_no_ports_back_and_are_listed_whether_static_or_not() {
    let docker = |name: &str| {
        let mut rule = every_port();
        rule.0.guest_socket = format!("/run/{name}");
        rule
    };
    let rules = list([
        docker("docker.sock").socket("docker.sock").fixed(),
        docker("api.sock").to(7000, 7000),
        docker("off.sock").socket("off.sock").ignore(),
        docker("datagrams.sock").socket("d.sock").proto(Proto::Udp),
    ]);
    assert_eq!(tcp(&rules, "127.0.0.1:80").as_deref(), Some("127.0.0.1:80"));
    assert_eq!(rules.static_forwards().count(), 0);
    let listed: Vec<_> = rules
        .socket_forwards()
        .iter()
        .map(|forward| format!("{} {}", forward.guest, forward.route.host))
        .collect();
    assert_eq!(
        listed,
        [
            "/run/docker.sock /instance/sock/docker.sock",
            "/run/api.sock 127.0.0.1:7000"
        ]
    );
}

#[test]
fn a_host_range_that_ends_too_early_forwards_nothing() {
    let rules = list([rule(1000, 2000).to(65000, 65535)]);
    assert_eq!(
        tcp(&rules, "127.0.0.1:1000").as_deref(),
        Some("127.0.0.1:65000")
    );
    assert_eq!(
        rules.decide(Transport::Tcp, address("127.0.0.1:2000")),
        Decision::Ignore(Ignored::Rule(0))
    );
}
