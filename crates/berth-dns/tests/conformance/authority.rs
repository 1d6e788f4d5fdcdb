//! Types of records, over every transport, with a server that is not ours: nsd, from Debian's package. What `dig` sees through us is
//! what it sees there.

use std::net::Ipv4Addr;

use crate::lab::{Lab, Plan};
use crate::nsd::{Nsd, dig};

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

/// What `dig` makes of it: status, whether it is cut, and the answer's records without their times.
fn seen(port: u16, name: &str, kind: &str, way: &[&str]) -> (String, Vec<String>) {
    let words = [&["+nocookie", "+tries=1", name, kind], way].concat();
    let output = dig(Ipv4Addr::LOCALHOST, port, &words);
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

/// Types that have a record at `example.org`, or none.
const OF_ALIASES: &[&str] = &[
    "MX", "NS", "TXT", "SOA", "CAA", "HTTPS", "NAPTR", "LOC", "SRV",
];

#[tokio::test(flavor = "current_thread")]
async fn every_type_of_record_is_seen_as_it_is() {
    let nsd = Nsd::start_anywhere().await;
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

/// What a name of `hostResolver.hosts` stands for has its records, behind one that says whose they are.
#[tokio::test(flavor = "current_thread")]
async fn an_alias_has_the_records_of_what_it_stands_for() {
    let nsd = Nsd::start_anywhere().await;
    let plan = Plan {
        hosts: vec![
            ("mine.corp", "other.corp"),
            ("other.corp", "example.org"),
            ("lost.corp", "missing.example.org"),
            ("own.corp", "host.lima.internal"),
        ],
        ..Plan::default()
    };
    let lab = Lab::new(&plan, &[Ipv4Addr::LOCALHOST], nsd.port);
    let ports = (lab.ports.0, nsd.port);
    tokio::task::spawn_blocking(move || {
        for kind in OF_ALIASES {
            for way in WAYS {
                behind_an_alias(ports, kind, way);
            }
        }
        let way = &["+bufsize=1232"];
        let (status, records) = seen(ports.0, "lost.corp", "MX", way);
        assert_eq!(status, "NXDOMAIN cut=false");
        assert_eq!(records, ["lost.corp. IN CNAME missing.example.org."]);
        let (status, records) = seen(ports.0, "own.corp", "MX", way);
        assert_eq!((status.as_str(), records.len()), ("NOERROR cut=false", 0));
    })
    .await
    .unwrap();
    drop((nsd, lab));
}

#[track_caller]
fn behind_an_alias((ours, theirs): (u16, u16), kind: &str, way: &[&str]) {
    let (status, mut records) = seen(ours, "mine.corp", kind, way);
    let (expected, theirs) = seen(theirs, "example.org", kind, way);
    let is_cut = status.ends_with("cut=true");
    // With one record more it may have to be cut where theirs is not.
    assert!(is_cut || status == expected, "{kind} {way:?}: {status}");
    let alias = "mine.corp. IN CNAME example.org.";
    let at = records.iter().position(|record| record == alias);
    records.remove(at.unwrap_or_else(|| panic!("{kind} {way:?}: {records:?}")));
    assert!(
        is_cut || records == theirs,
        "{kind} {way:?}: {records:?} instead of {theirs:?}"
    );
}
