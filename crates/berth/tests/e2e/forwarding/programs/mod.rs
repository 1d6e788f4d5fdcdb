//! Programs that people use, through forwarded ports.

mod http;
mod sockets;

use std::path::Path;

use super::port_events::{PortEvent, PortEvents};
use crate::instance::{Home, Instance};
use crate::network::OwnNetwork;
use crate::outcome::Outcome;
use crate::variant::Variant;

const API: &str = include_str!("api.py");
const DNS: &str = include_str!("dns.py");
const WEBSOCKET_CLIENT: &str = include_str!("websocket_client.py");
const WEBSOCKET_SERVER: &str = include_str!("websocket_server.py");

/// Servers in the guest, and clients on the host that come from the guest's distribution as well, so that the host needs none.
struct Lab<'a, 'home> {
    instance: &'a Instance<'home>,
    events: PortEvents<'home>,
    clients: &'a Variant,
}

impl Lab<'_, '_> {
    /// Starts a server in the guest, as root.
    #[track_caller]
    fn serve(&self, name: &str, command: &[&str]) {
        let command = shell_words::join(command);
        let script = format!(
            "sudo systemd-run --quiet --unit=test-{name} --working-directory=/tmp {command}"
        );
        let _ = self.instance.shell(&script).success();
    }

    /// Waits until a port of the guest is forwarded to the same port of the host's loopback.
    #[track_caller]
    fn await_port(&mut self, protocol: &str, guest: &str) {
        let (_, port) = guest.rsplit_once(':').expect("a port");
        let host = format!("127.0.0.1:{port}");
        let wanted = PortEvent::new("forwarding", protocol, guest, Some(&host));
        self.events.until_all(guest, [wanted]);
    }

    /// Runs a client on the host.
    #[track_caller]
    fn client(&self, command: &[&str]) -> Outcome {
        let root = self.clients.root().to_str().expect("a text");
        let arguments = [&[root, "env", "PYTHONDONTWRITEBYTECODE=1"], command].concat();
        self.instance
            .home
            .run_program(Path::new("chroot"), &arguments)
    }
}

#[test]
fn real_programs_do_not_notice() {
    let _network = OwnNetwork::enter();
    let home = Home::native();
    let guests = Variant::with_programs(&home, "guest");
    let clients = Variant::with_programs(&home, "clients");
    home.set("BERTH_TESTGUEST_ROOTFS", guests.root());
    let instance = home.instance("x", &rules(&home));
    let _ = instance.start(&[]).success();
    let mut lab = Lab {
        instance: &instance,
        events: PortEvents::follow(&instance),
        clients: &clients,
    };

    http::a_connection_is_kept_alive(&mut lab);
    http::each_end_ends_in_its_own_way(&mut lab);
    postgresql(&mut lab);
    iperf3(&mut lab);
    dig(&mut lab);
    ssh(&mut lab);
    websocket(&mut lab);
    sockets::of_the_guest(&lab);
    sockets::of_the_host(&lab);

    drop(lab);
    instance.stop();
    home.assert_nothing_left();
}

/// UDP for iperf3, whose client sends its first datagram at once and only once; and unix sockets.
fn rules(home: &Home) -> String {
    format!(
        "portForwards:\n- {{guestPort: 5201, proto: udp, static: true}}\n{}",
        sockets::rules(home)
    )
}

fn postgresql(lab: &mut Lab<'_, '_>) {
    let script = "sudo pg_ctlcluster 15 main start && \
                  sudo -u postgres psql -qc \"create role app superuser login password 'secret'\"";
    let _ = lab.instance.shell(script).success();
    lab.await_port("tcp", "127.0.0.1:5432");
    let database = "postgresql://app:secret@127.0.0.1/postgres";
    let query =
        "select sum(n), md5(string_agg(repeat('x', 100), '')) from generate_series(1, 100000) n";
    let answer = lab.client(&["psql", database, "-Atc", query]).success();
    // The sum of the numbers, and the digest of ten million letters.
    assert_eq!(
        answer,
        format!("5000050000|{}\n", md5_of_ten_million_x(lab))
    );
    let rows = lab
        .client(&[
            "psql",
            database,
            "-Atc",
            "select repeat('x', 99) from generate_series(1, 50000)",
        ])
        .success();
    assert_eq!(rows.len(), 50_000 * 100);

    let _ = lab
        .client(&["pgbench", "--quiet", "--initialize", database])
        .success();
    let report = lab
        .client(&["pgbench", "--client=8", "--time=3", "--connect", database])
        .success();
    assert!(
        report.contains("number of failed transactions: 0 (0.000%)"),
        "{report}"
    );
}

fn md5_of_ten_million_x(lab: &Lab<'_, '_>) -> String {
    let script = "head -c 10000000 /dev/zero | tr '\\0' x | md5sum | cut -d ' ' -f 1";
    lab.client(&["sh", "-c", script])
        .success()
        .trim()
        .to_owned()
}

fn iperf3(lab: &mut Lab<'_, '_>) {
    lab.serve("iperf3", &["iperf3", "--server"]);
    lab.await_port("tcp", "[::]:5201");
    let client = ["iperf3", "--client=127.0.0.1", "--time=2", "--json"];
    for more in [
        &["--parallel=4"][..],
        &["--reverse"],
        &["--udp", "--bitrate=10M"],
    ] {
        let report = lab.client(&[&client[..], more].concat()).success();
        let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
        let received = if more[0] == "--udp" {
            // Nothing slows the sender down, so a little may be lost.
            let sum = &report["end"]["sum"];
            assert!(
                sum["lost_percent"].as_f64().expect("a share") < 10.0,
                "{sum}"
            );
            sum["bytes"].as_u64()
        } else {
            report["end"]["sum_received"]["bytes"].as_u64()
        };
        assert!(
            received.is_some_and(|bytes| bytes > 1_000_000),
            "{more:?}: {report}"
        );
    }
}

fn dig(lab: &mut Lab<'_, '_>) {
    lab.serve("names", &["python3", "-c", DNS]);
    lab.await_port("udp", "127.0.0.1:10053");
    let names: Vec<_> = (0..50).map(|number| format!("n{number}.example")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let dig = ["dig", "@127.0.0.1", "-p", "10053", "+short", "+tries=1"];
    let answers = lab.client(&[&dig[..], &names].concat()).success();
    assert_eq!(answers, "203.0.113.9\n".repeat(names.len()));
}

/// A second sshd, reached without the one that the agent uses.
fn ssh(lab: &mut Lab<'_, '_>) {
    lab.serve(
        "sshd2",
        &[
            "/usr/sbin/sshd",
            "-D",
            "-o",
            "Port=2222",
            "-o",
            "PidFile=none",
        ],
    );
    lab.await_port("tcp", "0.0.0.0:2222");
    let config = lab.instance.path("ssh.config");
    let config = config.to_str().expect("a text");
    let login = [
        "-F",
        config,
        "-o",
        "ControlPath=none",
        "-o",
        "Port=2222",
        "lima-x",
    ];
    let script = "echo $SSH_CONNECTION | cut -d ' ' -f 4; head -c 5000000 /dev/zero | tr '\\0' x";
    let ssh = [&login[..], &[script]].concat();
    let output = lab
        .instance
        .home
        .run_program(Path::new("ssh"), &ssh)
        .success();
    let (port, bulk) = output.split_once('\n').expect("two lines");
    assert_eq!(port, "2222");
    assert!(bulk.len() == 5_000_000 && bulk.bytes().all(|byte| byte == b'x'));
}

fn websocket(lab: &mut Lab<'_, '_>) {
    lab.serve("websocket", &["python3", "-c", WEBSOCKET_SERVER]);
    lab.await_port("tcp", "127.0.0.1:8765");
    let said = lab.client(&["python3", "-c", WEBSOCKET_CLIENT]).success();
    assert_eq!(said, "closed with 1000\n");
}
