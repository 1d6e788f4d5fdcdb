//! Types of records, over every transport, with a server that is not ours: nsd, from Debian's package. What `dig` sees through us is
//! what it sees there.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::lab::{Lab, Plan};

const ZONE: &str = include_str!("example.zone");

/// Questions: name and type. Beneath `example.org`, as the zone has them.
const QUESTIONS: &[(&str, &str)] = &[
    ("example.org", "A"),
    ("example.org", "AAAA"),
    ("www.example.org", "A"),
    ("www.example.org", "AAAA"),
    ("www.example.org", "CNAME"),
    ("example.org", "MX"),
    ("example.org", "NS"),
    ("_sip._tcp.example.org", "SRV"),
    ("example.org", "TXT"),
    ("long.example.org", "TXT"),
    ("1.0.0.10.example.org", "PTR"),
    ("example.org", "SOA"),
    ("example.org", "CAA"),
    ("example.org", "HTTPS"),
    ("_8443._foo.example.org", "SVCB"),
    ("sub.example.org", "DS"),
    ("example.org", "DNSKEY"),
    ("example.org", "NAPTR"),
    ("host.example.org", "SSHFP"),
    ("_443._tcp.example.org", "TLSA"),
    ("example.org", "TYPE65534"),
    ("dname.example.org", "DNAME"),
    ("x.dname.example.org", "A"),
    ("many.example.org", "A"),
    ("example.org", "LOC"),
    ("missing.example.org", "A"),
    ("missing.example.org", "TYPE65"),
    ("any.wild.example.org", "A"),
];

/// Further words for `dig`: how it asks.
const WAYS: &[&[&str]] = &[
    &["+noedns", "+ignore"],
    &["+noedns"],
    &["+bufsize=1232", "+ignore"],
    &["+bufsize=4096"],
    &["+dnssec"],
    &["+tcp"],
    &["+tcp", "+noedns"],
    &["+cd", "+ad"],
];

struct Nsd {
    child: Child,
    port: u16,
    _dir: TempDir,
}

impl Drop for Nsd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Nsd {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        drop(socket);
        let path = dir.path().display();
        let conf = format!(
            "server:\n  ip-address: 127.0.0.1@{port}\n  zonesdir: \"{path}\"\n  username: \"\"\n  pidfile: \"\"\n  \
             database: \"\"\n  xfrdfile: \"{path}/xfrd\"\n  zonelistfile: \"{path}/list\"\n  server-count: 1\n  \
             xfrdir: \"{path}\"\nremote-control:\n  control-enable: no\n\
             zone:\n  name: example.org\n  zonefile: example.zone\n"
        );
        fs::write(dir.path().join("nsd.conf"), conf).unwrap();
        fs::write(dir.path().join("example.zone"), ZONE).unwrap();
        let nsd = if Path::new("/usr/sbin/nsd").exists() {
            "/usr/sbin/nsd"
        } else {
            "nsd"
        };
        let child = Command::new(nsd)
            .args(["-d", "-c"])
            .arg(dir.path().join("nsd.conf"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("nsd, from Debian's package of the name: `cargo xtask setup` installs it");
        let nsd = Self {
            child,
            port,
            _dir: dir,
        };
        nsd.until_it_answers();
        nsd
    }

    fn until_it_answers(&self) {
        let until = Instant::now() + Duration::from_secs(30);
        while !dig(self.port, &["+tries=1", "+time=1", "example.org", "SOA"])
            .status
            .success()
        {
            assert!(Instant::now() < until, "nsd did not answer within 30 s");
        }
    }
}

fn dig(port: u16, words: &[&str]) -> Output {
    let port = port.to_string();
    let mut command = Command::new("dig");
    command.args(["@127.0.0.1", "-p", &port]).args(words);
    command
        .output()
        .expect("dig, from Debian's package bind9-dnsutils")
}

/// What `dig` makes of it: status, whether it is cut, and the answer's records without their times.
fn seen(port: u16, name: &str, kind: &str, way: &[&str]) -> (String, Vec<String>) {
    let words = [&["+nocookie", "+tries=1", name, kind], way].concat();
    let output = dig(port, &words);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = |start: &str| {
        text.lines()
            .find(|line| line.contains(start))
            .unwrap_or_default()
            .to_owned()
    };
    let status = line("status:");
    let status = status
        .split("status: ")
        .nth(1)
        .and_then(|rest| rest.split(',').next());
    let flags = line(";; flags:");
    let is_cut = flags
        .split(';')
        .nth(2)
        .unwrap_or_default()
        .split(' ')
        .any(|flag| flag == "tc");
    let answer = text
        .split(";; ANSWER SECTION:\n")
        .nth(1)
        .unwrap_or_default();
    let records = answer.lines().take_while(|line| !line.is_empty());
    let without_time = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (owner, rest) = words.split_first().expect("a record");
        format!("{owner} {}", rest[1..].join(" "))
    };
    let mut records: Vec<String> = records.map(without_time).collect();
    records.sort_unstable();
    let status = format!("{} cut={is_cut}", status.unwrap_or("no answer"));
    (status, records)
}

#[tokio::test(flavor = "current_thread")]
async fn every_type_of_record_is_seen_as_it_is() {
    let nsd = tokio::task::spawn_blocking(Nsd::start).await.unwrap();
    let lab = Lab::new(&Plan::default(), &[Ipv4Addr::LOCALHOST], nsd.port);
    let ports = (lab.ports.0, nsd.port);
    // Beside the server, which runs on this thread.
    let wrong = tokio::task::spawn_blocking(move || differences(ports))
        .await
        .unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    drop((nsd, lab));
}

/// What `dig` sees otherwise through the first than at the second.
fn differences((ours, theirs): (u16, u16)) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, kind) in QUESTIONS {
        for way in WAYS {
            let ours = seen(ours, name, kind, way);
            let theirs = seen(theirs, name, kind, way);
            // Where an answer is cut is a matter of taste; that it is, is not.
            let is_cut = theirs.0.ends_with("cut=true");
            let is_same = ours.0 == theirs.0 && (is_cut || ours.1 == theirs.1);
            if !is_same {
                wrong.push(format!(
                    "{name} {kind} {way:?}: {ours:?} instead of {theirs:?}"
                ));
            }
        }
    }
    wrong
}
