//! Writing answers that the resolver makes itself.

use std::net::IpAddr;

use super::name::Name;
use super::query::{Query, Refusal};
use super::{CLASS_IN, HEADER, Rcode, RecordType, SAFE_UDP, flag, put_u16};

/// Seconds that an answer of our own may be kept: Lima's number. Short, because what it says changes with the host.
pub const OWN_TTL: u32 = 5;

/// Length of our OPT record, without options.
pub(crate) const OPT_LENGTH: usize = 11;

/// One record of our own, for the name asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OwnRecord<'a> {
    /// A or AAAA.
    Address(IpAddr),
    /// Its other name.
    Cname(&'a Name),
    /// The name of the address asked for.
    Ptr(&'a Name),
}

/// Appends an answer of our own to `out`: records for the name asked for, each with this TTL. What does not fit is left out, and
/// that is said.
pub fn write_own<'a>(
    query: &Query<'_>,
    rcode: Rcode,
    ttl: u32,
    records: impl IntoIterator<Item = OwnRecord<'a>>,
    out: &mut Vec<u8>,
) {
    let start = out.len();
    let limit = query.limit() - query.edns.map_or(0, |_| OPT_LENGTH);
    begin(query.id, query.flags, &query.question, rcode, out);
    let mut count = 0_u16;
    for record in records {
        let before = out.len();
        write_record(&record, ttl, out);
        if out.len() - start > limit {
            out.truncate(before);
            set_flag(&mut out[start..], flag::TRUNCATED);
            break;
        }
        count += 1;
    }
    put_u16(out, start + 6, count);
    if query.edns.is_some() {
        write_opt(rcode, query.dnssec_ok(), out);
        put_u16(out, start + 10, 1);
    }
}

/// Appends an answer that says only that there is none.
pub fn write_refusal(refusal: &Refusal<'_>, out: &mut Vec<u8>) {
    let start = out.len();
    let Refusal {
        id,
        flags,
        question,
        rcode,
        ..
    } = refusal;
    begin(*id, *flags, question, *rcode, out);
    if question.is_empty() {
        put_u16(out, start + 4, 0);
    }
    if refusal.has_edns {
        write_opt(*rcode, false, out);
        put_u16(out, start + 10, 1);
    }
}

/// Header and question: a response to what was asked, without records yet.
fn begin(id: u16, asked: u16, question: &[u8], rcode: Rcode, out: &mut Vec<u8>) {
    let kept = asked & (flag::OPCODE | flag::RECURSION_DESIRED | flag::CHECKING_DISABLED);
    let flags = kept | flag::RESPONSE | flag::RECURSION_AVAILABLE | rcode.0 & flag::RCODE;
    let mut header = [0; HEADER];
    put_u16(&mut header, 0, id);
    put_u16(&mut header, 2, flags);
    put_u16(&mut header, 4, 1);
    out.extend(header);
    out.extend(question);
}

pub(crate) fn set_flag(message: &mut [u8], flag: u16) {
    let flags = super::u16_at(message, 2).unwrap_or_default();
    put_u16(message, 2, flags | flag);
}

/// Our OPT record: what we take, the rcode's upper bits, and whether DNSSEC was asked for.
pub(crate) fn write_opt(rcode: Rcode, dnssec_ok: bool, out: &mut Vec<u8>) {
    let payload = u16::try_from(SAFE_UDP).unwrap_or(u16::MAX).to_be_bytes();
    let high = u8::try_from(rcode.0 >> 4).unwrap_or_default();
    let flags = if dnssec_ok { 0x80 } else { 0 };
    out.extend([0, 0, 41, payload[0], payload[1], high, 0, flags, 0, 0, 0]);
}

/// Appends one record for the name asked for.
pub(super) fn write_record(record: &OwnRecord<'_>, ttl: u32, out: &mut Vec<u8>) {
    let mut put = |kind: RecordType, data: &[u8]| {
        // The owner is the question's name, which stands behind the header.
        out.extend([0xc0, 0x0c]);
        out.extend(kind.0.to_be_bytes());
        out.extend(CLASS_IN.to_be_bytes());
        out.extend(ttl.to_be_bytes());
        // At most a name's 255 bytes.
        out.extend(u16::try_from(data.len()).unwrap_or_default().to_be_bytes());
        out.extend(data);
    };
    match record {
        OwnRecord::Address(IpAddr::V4(v4)) => put(RecordType::A, &v4.octets()),
        OwnRecord::Address(IpAddr::V6(v6)) => put(RecordType::AAAA, &v6.octets()),
        OwnRecord::Cname(name) => put(RecordType::CNAME, name.as_bytes()),
        OwnRecord::Ptr(name) => put(RecordType::PTR, name.as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::message::Message;
    use crate::wire::query::tests::{packet, query};
    use crate::wire::query::{Received, Transport};

    fn reply(asked: &[u8], transport: Transport, count: u32) -> Vec<u8> {
        let mut out = b"before".to_vec();
        let records = (0..count).map(|n| OwnRecord::Address(std::net::Ipv4Addr::from(n).into()));
        write_own(
            &query(asked, transport),
            Rcode::NO_ERROR,
            OWN_TTL,
            records,
            &mut out,
        );
        out.split_off(6)
    }

    #[test]
    fn an_answer_repeats_the_question_and_says_that_recursion_is_available() {
        let asked = packet("HOST.lima.internal", RecordType::A, None);
        let bytes = reply(&asked, Transport::Udp, 1);
        assert_eq!(bytes[..4], [0x12, 0x34, 0x81, 0x80]);
        let message = Message::check(&bytes).unwrap();
        assert_eq!(message.question(), &asked[HEADER..]);
        let record = message.records().next().unwrap();
        assert_eq!(
            (record.ttl, record.address()),
            (5, Some("0.0.0.0".parse().unwrap()))
        );
        assert_eq!(message.records().count(), 1, "no OPT where none came");
    }

    #[test]
    fn what_does_not_fit_is_left_out_and_said() {
        for (payload, transport, limit) in [
            (None, Transport::Udp, 512),
            (Some(4096), Transport::Udp, 1232),
            (Some(700), Transport::Udp, 700),
        ] {
            let asked = packet("a", RecordType::A, payload);
            let bytes = reply(&asked, transport, 500);
            assert!(
                bytes.len() <= limit && bytes.len() > limit - 16,
                "{}",
                bytes.len()
            );
            let message = Message::check(&bytes).unwrap();
            assert!(message.is_truncated());
            let opt = message
                .records()
                .filter(|record| record.kind == RecordType::OPT);
            assert_eq!(opt.count(), usize::from(payload.is_some()));
        }
        let whole = reply(&packet("a", RecordType::A, None), Transport::Tcp, 500);
        let message = Message::check(&whole).unwrap();
        assert!(!message.is_truncated());
        assert_eq!(message.records().count(), 500);
    }

    #[test]
    fn a_refusal_has_the_question_where_it_was_readable() {
        let mut asked = packet("a", RecordType::A, Some(1232));
        let length = asked.len();
        asked[length - 5] = 7;
        let Received::Refused(refusal) = Query::read(&asked, Transport::Udp) else {
            panic!("a version 7 of EDNS");
        };
        let mut out = Vec::new();
        write_refusal(&refusal, &mut out);
        let message = Message::check(&out).unwrap();
        assert_eq!(message.rcode(), Rcode::BAD_VERS);
        let Received::Refused(refusal) = Query::read(&asked[..14], Transport::Udp) else {
            panic!("cut");
        };
        out.clear();
        write_refusal(&refusal, &mut out);
        assert_eq!(out, [0x12, 0x34, 0x81, 0x81, 0, 0, 0, 0, 0, 0, 0, 0]);
    }
}
