//! The same on a virtual machine, as far as can be told in one boot. Needs no root.

mod disks;
mod shares;

use std::fs;
use std::io::{self, Write as _};
use std::net::{Ipv4Addr, SocketAddrV4};

use crate::checks::{assert_has_stopped, assert_lets_us_in, assert_runs};
use crate::forwarding::expectations::Open;
use crate::forwarding::guest_end::GuestEnd;
use crate::forwarding::table;
use crate::instance::{Home, Instance};
use crate::names::outage::{Outage, nothing_else_is_hurt};
use crate::names::upstream::Upstream;
use crate::names::{FIRST, SECOND, ask, musl_program, name_servers, until};
use crate::setting;

use self::shares::Shares;

/// An address that every host has, and that is not the one that `localhost` means.
const HOST: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 77);

/// Name servers of the host, one after the other. Not where the kernel picks ports for those who ask for any.
const SERVERS: [SocketAddrV4; 2] = [
    SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 78), 5378),
    SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 79), 5378),
];

/// What the kernel's console says when the kernel has done its part.
const KERNEL_IS_UP: &str = "as init process";

#[test]
fn from_a_template_to_a_shell_and_back() {
    let home = Home::emulated();
    home.set("BERTH_RESOLV_CONF", home.path("resolv.conf"));
    name_servers(&home, SERVERS[0]);
    let first = Upstream::start(SERVERS[0], FIRST);
    let names = "hostResolver: {hosts: {db.corp.example: 10.0.0.5}}\n";
    let shares = Shares::new(&home);
    let lines = table::rules(HOST) + names + &shares.lines("9p");
    let instance = home.instance("x", &lines);
    start(&instance);
    assert_runs(&instance);
    assert_lets_us_in(&instance);
    let kernel = instance.shell("cat /proc/sys/kernel/osrelease").success();
    let ours = fs::read_to_string("/proc/sys/kernel/osrelease").expect("a kernel");
    assert_ne!(kernel, ours, "a kernel of its own");
    check_names(&instance);
    let second = check_ordinary_names(&instance, SERVERS[1]);
    drop((first, second));
    let outage = Outage::begin(&instance, SERVERS[1]);
    nothing_else_is_hurt(&instance);
    check_forwards(&instance);
    shares.check(&instance, "9p");
    let _second = outage.end(SECOND);
    instance.stop();
    assert_has_stopped(&instance);
}

#[test]
fn directories_by_virtiofs_and_disks_by_serial_number() {
    let home = Home::emulated();
    home.set("BERTH_VIRTIOFSD", setting::virtiofsd());
    disks::create(&home);
    let shares = Shares::new(&home);
    let instance = home.instance("x", &(shares.lines("virtiofs") + &disks::lines()));
    start(&instance);
    shares.check(&instance, "virtiofs");
    disks::write(&instance);
    instance.stop();
    assert_has_stopped(&instance);
    disks::assert_kept(&home);
}

/// Starts the instance; once more where QEMU's emulated processors got stuck in the kernel, long before anything of ours runs in the guest.
/// Seen once, with kernel 6.1 on QEMU 7.2; seventy-five bare boots in a row did without.
#[track_caller]
fn start(instance: &Instance<'_>) {
    let outcome = instance.start(&["--timeout", "8m"]);
    if outcome.code == Some(0) || instance.read("serial.log").contains(KERNEL_IS_UP) {
        let _ = outcome.success();
        return;
    }
    // Not by `eprintln!`, which shows it only with a failure.
    let _ = writeln!(
        io::stderr(),
        "the emulated kernel got stuck before its init; started once more:\n{outcome:#?}"
    );
    let _ = instance
        .home
        .run(&["stop", "--force", instance.name])
        .success();
    let _ = instance.start(&[]).success();
}

/// A question over one connection; its answer's last bytes are the address.
const OVER_TCP: &str = "import socket
question = bytes.fromhex('000101000001000000000000') + b'\\2db\\4corp\\7example\\0\\0\\1\\0\\1'
connection = socket.create_connection(('192.168.5.3', 53), 30)
connection.sendall(len(question).to_bytes(2, 'big') + question)
answer = connection.makefile('rb')
length = int.from_bytes(answer.read(2), 'big')
print(socket.inet_ntoa(answer.read(length)[-4:]))
";

/// Names that only the host resolver knows, through QEMU's own network and the guest's own programs.
#[track_caller]
fn check_names(instance: &Instance<'_>) {
    let over_tcp = format!("python3 -c {}", shell_words::quote(OVER_TCP));
    for (script, answer) in [
        (
            "getent ahostsv4 db.corp.example | awk '/STREAM/ {print $1}'",
            "10.0.0.5",
        ),
        (
            "resolvectl query --legend=no --type=PTR 2.5.168.192.in-addr.arpa | grep -o host.lima.internal",
            "host.lima.internal",
        ),
        (over_tcp.as_str(), "10.0.0.5"),
    ] {
        assert_eq!(instance.shell(script).success().trim(), answer, "{script}");
    }
    let status = instance.home.run(&["status", "x"]).success();
    assert!(status.contains("NAMES  127.0.0.1 port"), "{status}");
}

/// Names of the host's servers, through two C libraries; then the host has another server.
#[track_caller]
fn check_ordinary_names(instance: &Instance<'_>, other: SocketAddrV4) -> Upstream {
    let program = musl_program(instance.home);
    let from = program.to_str().expect("a text");
    let _ = instance
        .home
        .run(&["copy", from, "x:/tmp/musl-lookup"])
        .success();
    let _ = instance
        .shell("sudo install -m 0755 /tmp/musl-lookup /usr/local/bin")
        .success();
    let (glibc, musl) = (
        "getent ahostsv4 www.example.com | awk '/STREAM/ {print $1}'",
        "musl-lookup musl.example.com",
    );
    for script in [glibc, musl, &ask("direct.example.com")] {
        let said = instance.shell(script).success();
        assert_eq!(said.trim(), FIRST.to_string(), "{script}");
    }
    let second = Upstream::start(other, SECOND);
    name_servers(instance.home, other);
    until(instance, &ask("moved.example.com"), &SECOND.to_string());
    second
}

/// Ten rows of the table; the native-speed guest has them all.
fn check_forwards(instance: &Instance<'_>) {
    let rows = table::selection(HOST, instance.events().ssh_port());
    let mut guest = GuestEnd::start(instance);
    let open = Open::new(instance, &mut guest, "tcp", rows);
    open.carry();
    open.close(&mut guest);
}
