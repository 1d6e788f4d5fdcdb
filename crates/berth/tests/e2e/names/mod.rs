//! Names, as the guest's own programs find them.

pub(crate) mod outage;
mod unbound;
pub(crate) mod upstream;

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::instance::{Home, Instance};
use crate::network::OwnNetwork;
use crate::outcome::assert_says;
use crate::variant::Variant;
use outage::Outage;
use upstream::Upstream;

/// Where the host's name servers are, in a network of the test's own.
const SERVERS: [SocketAddrV4; 2] = [
    SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 71), 53),
    SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 72), 53),
];
pub(crate) const FIRST: Ipv4Addr = Ipv4Addr::new(10, 71, 0, 1);
pub(crate) const SECOND: Ipv4Addr = Ipv4Addr::new(10, 72, 0, 1);

/// The guest's address for names. Asked directly where the guest's own cache must not help.
const DIG: &str = "dig +short +tries=1 +time=10 @192.168.5.3";

/// Finds tests that hang: nothing of this takes long, even where it is emulated.
const HANG: Duration = Duration::from_secs(120);

/// A command of the guest that asks its name server directly, as `dig` does where that is installed.
pub(crate) fn ask(what: &str) -> String {
    let program = shell_words::quote(include_str!("ask.py"));
    format!("python3 -c {program} {what}")
}

/// A program with musl's resolver.
pub(crate) fn musl_program(home: &Home) -> PathBuf {
    let source = home.path("musl.c");
    fs::write(&source, include_str!("musl.c")).expect("a file");
    let program = home.path("shared-musl-lookup");
    let words = ["-static", "-o", path(&program), path(&source)];
    let _ = home.run_program(Path::new("musl-gcc"), &words).success();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("a mode");
    program
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a text")
}

/// The host has this name server from now on.
pub(crate) fn name_servers(home: &Home, server: SocketAddrV4) {
    let text = match server.port() {
        53 => format!("nameserver {}\n", server.ip()),
        port => format!("nameserver [{}]:{port}\n", server.ip()),
    };
    let (new, path) = (home.path("resolv.conf.new"), home.path("resolv.conf"));
    fs::write(&new, text)
        .and_then(|()| fs::rename(new, path))
        .expect("a file");
}

/// Asks in the guest until the answer is this.
#[track_caller]
pub(crate) fn until(instance: &Instance<'_>, script: &str, answer: &str) {
    let until = Instant::now() + HANG;
    loop {
        let said = instance.shell(script).stdout;
        if said.trim() == answer {
            return;
        }
        assert!(
            Instant::now() < until,
            "{script}: {said:?} instead of {answer:?}"
        );
    }
}

#[test]
fn the_guest_finds_names_as_the_host_does() {
    let _network = OwnNetwork::enter();
    let home = Home::native();
    let system = Variant::with_programs(&home, "system");
    home.set("BERTH_TESTGUEST_ROOTFS", system.root());
    let program = musl_program(&home);
    fs::copy(program, system.root().join("usr/local/bin/musl-lookup")).expect("a program");
    name_servers(&home, SERVERS[0]);
    home.set("BERTH_RESOLV_CONF", home.path("resolv.conf"));
    let first = Upstream::start(SERVERS[0], FIRST);
    let second = Upstream::start(SERVERS[1], SECOND);
    let lines =
        "hostResolver: {hosts: {db.corp.example: 10.0.0.5, alias.example: db.corp.example}}\n";
    let instance = home.instance("x", lines);
    let _ = instance.start(&[]).success();

    static_names(&instance);
    ordinary_names(&instance);
    told_to_people(&instance);

    // The host moves to another network.
    name_servers(&home, SERVERS[1]);
    until(
        &instance,
        &format!("{DIG} moved.example.com"),
        &SECOND.to_string(),
    );

    drop((first, second));
    let outage = Outage::begin(&instance, SERVERS[1]);
    outage::nothing_else_is_hurt(&instance);
    firewall_is_flushed(&instance);
    let _second = outage.end(SECOND);

    instance.stop();
    home.assert_nothing_left();
}

#[track_caller]
fn static_names(instance: &Instance<'_>) {
    for (script, answer) in [
        (
            "getent ahostsv4 db.corp.example | awk '/STREAM/ {print $1}'",
            "10.0.0.5",
        ),
        (
            "getent ahostsv4 alias.example | awk '/STREAM/ {print $1}'",
            "10.0.0.5",
        ),
        (
            "getent ahostsv4 host.lima.internal | awk '/STREAM/ {print $1}'",
            "192.168.5.2",
        ),
        ("musl-lookup db.corp.example", "10.0.0.5"),
        (&format!("{DIG} host.lima.internal"), "192.168.5.2"),
        (&format!("{DIG} +tcp lima-x"), "192.168.5.15"),
        (&format!("{DIG} -x 192.168.5.2"), "host.lima.internal."),
        (&format!("{DIG} db.corp.example AAAA"), ""),
    ] {
        let said = instance.shell(script).success();
        assert_eq!(said.trim(), answer, "{script}");
    }
}

#[track_caller]
fn ordinary_names(instance: &Instance<'_>) {
    let first = FIRST.to_string();
    for script in [
        "getent ahostsv4 www.example.com | awk '/STREAM/ {print $1}'",
        "musl-lookup musl.example.com",
        &format!("{DIG} dig.example.com"),
        &format!("{DIG} +tcp tcp.example.com"),
        &format!("{DIG} +noedns plain.example.com"),
    ] {
        let said = instance.shell(script).success();
        assert_eq!(said.trim(), first, "{script}");
    }
    // 50 at once.
    let script =
        format!("for n in $(seq 50); do {DIG} n$n.example.com & done | grep -c '^{first}$'; wait");
    assert_eq!(instance.shell(&script).success().trim(), "50");
}

#[track_caller]
fn told_to_people(instance: &Instance<'_>) {
    let said = instance
        .home
        .run(&["dns", "query", "db.corp.example", "--instance", "x"])
        .success();
    assert_says(
        &said,
        &[
            "db.corp.example. A: NOERROR",
            "db.corp.example. 5 A 10.0.0.5",
        ],
    );
    let said = instance
        .home
        .run(&[
            "dns",
            "query",
            "people.example.com",
            "--instance=x",
            "-t",
            "A,MX",
            "--tcp",
        ])
        .success();
    assert_says(
        &said,
        &[&format!("people.example.com. 600 A {FIRST}"), "MX: NOERROR"],
    );
    let status = instance.home.run(&["status", "x"]).success();
    assert_says(
        &status,
        &[
            "NAMES",
            "ordinary names from: servers",
            "static ",
            "127.0.0.71:53",
        ],
    );
}

/// What nftables.service or firewalld do when they are reloaded: everything goes, ours with it.
#[track_caller]
fn firewall_is_flushed(instance: &Instance<'_>) {
    let agent = instance.guest_agent();
    let pid = agent.pid.to_string();
    for _ in 0..3 {
        let words = ["-t", &pid, "-n", "nft", "flush", "ruleset"];
        let _ = instance
            .home
            .run_program(Path::new("nsenter"), &words)
            .success();
        until(instance, &format!("{DIG} db.corp.example"), "10.0.0.5");
    }
    let words = [
        "-t",
        &pid,
        "-n",
        "nft",
        "list",
        "table",
        "ip",
        "berth-names",
    ];
    let table = instance
        .home
        .run_program(Path::new("nsenter"), &words)
        .success();
    assert_says(
        &table,
        &["ip daddr 192.168.5.3", "udp dport 53 dnat to 192.168.5.2:"],
    );
}

/// Whoever switches the resolver off gets the host's servers, or those he names.
#[test]
fn without_the_resolver_the_guest_asks_the_hosts_servers() {
    let _network = OwnNetwork::enter();
    let home = Home::native();
    home.set("BERTH_RESOLV_CONF", home.path("resolv.conf"));
    name_servers(&home, SocketAddrV4::new([192, 0, 2, 53].into(), 53));
    for (name, lines, server) in [
        ("x", "hostResolver: {enabled: false}\n", "192.0.2.53"),
        (
            "y",
            "hostResolver: {enabled: false}\ndns: [192.0.2.54]\n",
            "192.0.2.54",
        ),
    ] {
        let instance = home.instance(name, lines);
        let _ = instance.start(&[]).success();
        let said = instance
            .shell("resolvectl dns; cat /etc/resolv.conf")
            .success();
        assert_says(&said, &[server]);
        let status = home.run(&["status", name]).success();
        assert!(!status.contains("NAMES"), "{status}");
        let refused = home
            .run(&["dns", "query", "a.example", "--instance", name])
            .fatal();
        assert_says(&refused, &["has no host resolver", "hostResolver.enabled"]);
        instance.stop();
    }
    home.assert_nothing_left();
}
