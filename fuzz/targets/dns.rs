//! DNS messages: of the guest, and of an upstream server. The first byte says how they are used.
#![no_main]

use berth_dns::wire::answer::Answer;
use berth_dns::wire::message::{Message, address_hints};
use berth_dns::wire::query::{Query, Received, Transport};
use berth_dns::wire::reply::{OwnRecord, write_own, write_refusal};
use berth_dns::wire::{Rcode, show};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, packet)) = bytes.split_first() else {
        return;
    };
    let transport = if choice & 1 == 0 { Transport::Udp } else { Transport::Tcp };
    ask(packet, transport);
    answer(packet, transport, choice >> 1);
});

/// A client's message is answered with one that is well formed, and no longer than the client takes.
fn ask(packet: &[u8], transport: Transport) {
    let mut out = Vec::new();
    match Query::read(packet, transport) {
        Received::Query(query) => {
            let addresses = (0..200_u32).map(|n| OwnRecord::Address(std::net::Ipv4Addr::from(n).into()));
            write_own(&query, Rcode::NO_ERROR, 5, addresses, &mut out);
            assert!(out.len() <= query.limit());
        }
        Received::Refused(refusal) => write_refusal(&refusal, &mut out),
        Received::Ignored => return,
    }
    assert!(Message::check(&out).is_some(), "{out:x?}");
    assert_eq!(out[..2], packet[..2]);
}

/// An upstream's message is kept, and given to a client that asks the same.
fn answer(packet: &[u8], transport: Transport, age: u8) {
    let Some(message) = Message::check(packet) else {
        return;
    };
    let text = show::describe(&message);
    assert!(text.chars().all(|c| c == '\n' || !c.is_control()), "{text:?}");
    for record in message.records() {
        address_hints(&record);
        let _ = (record.owner(), record.address());
    }
    let mut asked = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    asked.extend(message.question());
    let Received::Query(query) = Query::read(&asked, transport) else {
        return;
    };
    let kept = Answer::from_upstream(&message);
    let mut out = Vec::new();
    kept.write_for(&query, age.into(), &mut out);
    assert!(out.len() <= query.limit());
    let given = Message::check(&out).expect("what is given on is well formed");
    assert_eq!(given.question(), message.question());
    assert_eq!(given.id(), 0x1234);
    behind_alias(&kept, &query);
}

/// The same message is given on for another name, which stands for the one that it is about.
fn behind_alias(kept: &Answer, query: &Query<'_>) {
    let alias = "mine.example".parse().expect("a name");
    let asked = Query::new(&alias, query.kind, Transport::Tcp);
    let Some(answer) = kept.behind_alias(&asked, &query.name.to_name()) else {
        return;
    };
    let mut out = Vec::new();
    answer.write_for(&asked, 0, &mut out);
    let given = Message::check(&out).expect("what is given on is well formed");
    let kinds = given.records().map(|record| (record.kind, record.ttl));
    assert!(kinds.skip(1).eq(kept.records().map(|record| (record.kind, record.ttl))));
}
