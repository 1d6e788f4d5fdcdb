//! An answer that is kept, and given to whoever asks the same.

use std::net::IpAddr;

use super::alias::Moved;
use super::message::{Message, Record, Section};
use super::name::Name;
use super::query::{Query, TCP_LIMIT, Transport};
use super::reply::{self, OPT_LENGTH, OwnRecord, set_flag, write_opt, write_record};
use super::{HEADER, Rcode, RecordType, flag, put_u16, u16_at, u32_at};

/// Longest that an answer is kept, in seconds.
const MAX_TTL: u32 = 3600;
/// Longest that "there is none" is kept, in seconds (RFC 2308 advises at most hours; people who have just made a name wait for it).
const MAX_NEGATIVE_TTL: u32 = 60;

/// An answer to one question, without id and OPT record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    bytes: Box<[u8]>,
    rcode: Rcode,
    ttl: u32,
}

impl Answer {
    /// Takes an upstream's message. What stands behind its OPT record is left out with it.
    #[must_use]
    pub fn from_upstream(message: &Message<'_>) -> Self {
        let mut end = message.question_end;
        let mut counts = [0_u16; 3];
        // It may stand in any section: a hostile server puts it where it likes.
        for record in message.records() {
            if record.kind == RecordType::OPT {
                break;
            }
            end = record.end;
            counts[record.section as usize] += 1;
        }
        let mut bytes: Box<[u8]> = message.bytes()[..end].into();
        for (at, count) in [6, 8, 10].into_iter().zip(counts) {
            put_u16(&mut bytes, at, count);
        }
        Self {
            bytes,
            rcode: message.rcode(),
            ttl: lifetime(message),
        }
    }

    /// Makes an answer of addresses for the name asked for.
    #[must_use]
    pub fn of_addresses(query: &Query<'_>, addresses: &[IpAddr], ttl: u32) -> Self {
        Self::own(
            query,
            Rcode::NO_ERROR,
            ttl,
            addresses.iter().copied().map(OwnRecord::Address),
        )
    }

    /// Makes an answer without records.
    #[must_use]
    pub fn empty(query: &Query<'_>, rcode: Rcode, ttl: u32) -> Self {
        Self::own(query, rcode, ttl, [])
    }

    /// The same answer, given for `target`, for a name that stands for it: `query` asks for that. `None` if its names cannot be made
    /// to lead to where they did, or it would be too long.
    #[must_use]
    pub fn behind_alias(&self, query: &Query<'_>, target: &Name) -> Option<Self> {
        let mut bytes = self.bytes[..HEADER].to_vec();
        bytes.extend_from_slice(&query.question);
        write_record(&OwnRecord::Cname(target), self.ttl, &mut bytes);
        let length = target.as_bytes().len();
        let moved = Moved {
            name: bytes.len() - length,
            old_name: (HEADER, HEADER + length),
            records: bytes.len(),
            old_records: HEADER + length + 4,
        };
        bytes.extend_from_slice(self.bytes.get(moved.old_records..)?);
        for record in self.records() {
            moved.redirect(&record, &mut bytes)?;
        }
        let answers = u16_at(&bytes, 6)?.checked_add(1)?;
        put_u16(&mut bytes, 6, answers);
        // Nobody has signed our record.
        let flags = u16_at(&bytes, 2)? & !flag::AUTHENTIC;
        put_u16(&mut bytes, 2, flags);
        // One record more may be one too many.
        Message::check(&bytes)?;
        (bytes.len() <= TCP_LIMIT).then(|| Self {
            bytes: bytes.into(),
            ..*self
        })
    }

    fn own<'a>(
        query: &Query<'_>,
        rcode: Rcode,
        ttl: u32,
        records: impl IntoIterator<Item = OwnRecord<'a>>,
    ) -> Self {
        // Whole: it is cut for whoever gets it.
        let whole = Query {
            transport: Transport::Tcp,
            edns: None,
            ..query.clone()
        };
        let mut bytes = Vec::new();
        reply::write_own(&whole, rcode, ttl, records, &mut bytes);
        Self {
            bytes: bytes.into(),
            rcode,
            ttl,
        }
    }

    /// How it ended.
    #[must_use]
    pub fn rcode(&self) -> Rcode {
        self.rcode
    }

    /// Seconds that it may be kept; 0: not at all.
    #[must_use]
    pub fn ttl(&self) -> u32 {
        self.ttl
    }

    /// Bytes that it takes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Its records.
    pub fn records(&self) -> impl Iterator<Item = Record<'_>> {
        let message = Message::check(&self.bytes);
        message.into_iter().flat_map(|message| message.records())
    }

    /// The addresses of a family, whatever names lead to them.
    #[must_use]
    pub fn addresses(&self, kind: RecordType) -> Vec<IpAddr> {
        self.records()
            .filter(|record| record.section == Section::Answer && record.kind == kind)
            .filter_map(|record| record.address())
            .collect()
    }

    /// Appends it to `out` for a client, `age` seconds after it came: with its id and question, the remaining times, our OPT
    /// record where it sent one, and cut at a record where it is too long.
    pub fn write_for(&self, query: &Query<'_>, age: u32, out: &mut Vec<u8>) {
        let start = out.len();
        let limit = query.limit() - query.edns.map_or(0, |_| OPT_LENGTH);
        out.extend_from_slice(&self.bytes);
        let reply = &mut out[start..];
        let flags = u16_at(reply, 2).unwrap_or_default();
        let mut kept = flags & flag::RCODE;
        if query.dnssec_ok() || query.flags & flag::AUTHENTIC != 0 {
            kept |= flags & flag::AUTHENTIC;
        }
        let echoed = query.flags & (flag::RECURSION_DESIRED | flag::CHECKING_DISABLED);
        put_u16(reply, 0, query.id);
        put_u16(
            reply,
            2,
            kept | echoed | flag::RESPONSE | flag::RECURSION_AVAILABLE,
        );
        // The same name but for its case: an answer is only given to the question it was given for.
        reply[HEADER..HEADER + query.question.len()].copy_from_slice(&query.question);
        let end = if reply.len() > limit || age > 0 {
            fit(reply, limit, age)
        } else {
            reply.len()
        };
        out.truncate(start + end);
        if query.edns.is_some() {
            let additional = u16_at(out, start + 10).unwrap_or_default();
            put_u16(out, start + 10, additional + 1);
            write_opt(self.rcode, query.dnssec_ok(), out);
        }
    }
}

/// Takes the time that has passed off each record, and leaves out whole records until the rest fits. Returns its length.
///
/// Old resolvers (musl before 1.2.4) take what a cut answer has and do not ask again, so it is not emptied.
fn fit(reply: &mut [u8], limit: usize, age: u32) -> usize {
    let Some(message) = Message::check(reply) else {
        return reply.len();
    };
    let mut end = message.question_end;
    let mut counts = [0_u16; 3];
    let mut is_cut = false;
    let places: Vec<(usize, u32)> = message
        .records()
        .take_while(|record| {
            if record.end <= limit {
                end = record.end;
                counts[record.section as usize] += 1;
                return true;
            }
            // Additional records are a courtesy: a client does not have to ask again for them (RFC 2181, 9).
            is_cut = record.section != Section::Additional;
            false
        })
        .map(|record| (record.ttl_at, record.ttl))
        .collect();
    for (at, ttl) in places {
        reply[at..at + 4].copy_from_slice(&ttl.saturating_sub(age).to_be_bytes());
    }
    for (at, count) in [6, 8, 10].into_iter().zip(counts) {
        put_u16(reply, at, count);
    }
    if is_cut {
        set_flag(reply, flag::TRUNCATED);
    }
    end
}

/// Seconds that a message may be kept: as long as the first of its records ends; a negative one as its SOA says (RFC 2308), and
/// not at all without one.
fn lifetime(message: &Message<'_>) -> u32 {
    let rcode = message.rcode();
    let answers = || {
        message
            .records()
            .filter(|record| record.section == Section::Answer)
    };
    let soa = message
        .records()
        .find(|record| record.section == Section::Authority && record.kind == RecordType::SOA);
    let negative = soa.map(|soa| {
        let data = soa.data();
        let minimum = data.len().checked_sub(4).and_then(|at| u32_at(data, at));
        sane(soa.ttl)
            .min(minimum.map_or(0, sane))
            .min(MAX_NEGATIVE_TTL)
    });
    let shortest = answers().map(|record| sane(record.ttl)).min();
    match (rcode, shortest, negative) {
        (Rcode::NO_ERROR, Some(ttl), _) if !ends_in_nothing(message) => ttl.min(MAX_TTL),
        (Rcode::NO_ERROR | Rcode::NX_DOMAIN, shortest, Some(negative)) => {
            negative.min(shortest.unwrap_or(MAX_TTL))
        }
        _ => 0,
    }
}

/// Whether the answer leads only to another name, which has nothing of the type.
fn ends_in_nothing(message: &Message<'_>) -> bool {
    let question = message.question();
    let asked = question
        .len()
        .checked_sub(4)
        .and_then(|at| u16_at(question, at));
    let leads_on = |record: &Record<'_>| matches!(record.kind.0, 5 | 39 | 46);
    let mut answers = message
        .records()
        .filter(|record| record.section == Section::Answer);
    !matches!(asked, Some(5 | 39 | 46 | 255)) && answers.all(|record| leads_on(&record))
}

/// A TTL with its highest bit set counts as zero (RFC 2181, 8).
fn sane(ttl: u32) -> u32 {
    if ttl > i32::MAX.cast_unsigned() {
        0
    } else {
        ttl
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::wire::query::tests::{packet, query};

    /// A response of an upstream to a query: records of owner, type, TTL and data per section, and an OPT record.
    pub(crate) fn response(
        asked: &[u8],
        rcode: u8,
        sections: [&[(u16, u32, &[u8])]; 3],
    ) -> Vec<u8> {
        let question = query(asked, Transport::Tcp).question.into_owned();
        let mut bytes = vec![
            asked[0],
            asked[1],
            0x85,
            0x80 | rcode,
            0,
            1,
            0,
            0,
            0,
            0,
            0,
            1,
        ];
        bytes.extend(question);
        for (section, at) in sections.into_iter().zip([7, 9, 11]) {
            for (kind, ttl, data) in section {
                bytes.extend([0xc0, 0x0c]);
                bytes.extend(kind.to_be_bytes());
                bytes.extend([0, 1]);
                bytes.extend(ttl.to_be_bytes());
                bytes.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
                bytes.extend(*data);
                bytes[at] += 1;
            }
        }
        bytes.extend([0, 0, 41, 4, 0xd0, 0, 0, 0, 0, 0, 0]);
        bytes
    }

    const SOA: &[u8] = b"\0\0\0\0\0\x01\0\0\0\x02\0\0\0\x03\0\0\0\x04\0\0\0\x1e";

    fn kept(asked: &[u8], rcode: u8, sections: [&[(u16, u32, &[u8])]; 3]) -> Answer {
        let bytes = response(asked, rcode, sections);
        Answer::from_upstream(&Message::check(&bytes).unwrap())
    }

    #[test]
    fn the_answer_is_fitted_to_whoever_asks() {
        let first = packet("example.com", RecordType::A, Some(1232));
        let answer = kept(
            &first,
            0,
            [&[(1, 300, &[10, 0, 0, 1])], &[], &[(1, 50, &[1, 2, 3, 4])]],
        );
        assert_eq!(answer.ttl(), 300);
        let mut second = packet("EXAMPLE.com", RecordType::A, None);
        second[0] = 0x99;
        let mut out = Vec::new();
        answer.write_for(&query(&second, Transport::Udp), 100, &mut out);
        let message = Message::check(&out).unwrap();
        assert_eq!(message.id(), 0x9934);
        assert_eq!(message.question(), &second[HEADER..]);
        let ttls: Vec<u32> = message.records().map(|record| record.ttl).collect();
        assert_eq!(ttls, [200, 0], "no OPT, less time, never below zero");
        assert_eq!(message.flags() & flag::AUTHORITATIVE, 0);
        assert_ne!(message.flags() & flag::RECURSION_AVAILABLE, 0);
    }

    #[test]
    fn a_long_answer_is_cut_at_a_record() {
        let asked = packet("example.com", RecordType::A, None);
        let data = [7; 100];
        let record = (16, 300, &data[..]);
        let answer = kept(&asked, 0, [&[record; 6], &[], &[]]);
        let mut out = Vec::new();
        answer.write_for(&query(&asked, Transport::Udp), 0, &mut out);
        let message = Message::check(&out).unwrap();
        assert!(out.len() <= 512 && message.is_truncated());
        assert_eq!(message.records().count(), 4);
        out.clear();
        answer.write_for(&query(&asked, Transport::Tcp), 0, &mut out);
        let message = Message::check(&out).unwrap();
        assert!(!message.is_truncated());
        assert_eq!(message.records().count(), 6);
        // Only what nobody asked for is left out: nothing to say.
        let answer = kept(&asked, 0, [&[record; 2], &[], &[record; 4]]);
        out.clear();
        answer.write_for(&query(&asked, Transport::Udp), 0, &mut out);
        assert!(!Message::check(&out).unwrap().is_truncated());
    }

    #[test]
    fn answers_are_kept_as_long_as_they_say() {
        let a = packet("example.com", RecordType::A, None);
        let cname: &[u8] = b"\0";
        let long = u32::MAX;
        for (what, rcode, answers, authority, ttl) in [
            (
                "the shortest",
                0,
                &[(1, 300, &[1; 4][..]), (1, 20, &[2; 4])][..],
                &[][..],
                20,
            ),
            ("at most an hour", 0, &[(1, 90_000, &[1; 4])], &[], 3600),
            ("not at all", 0, &[(1, 0, &[1; 4])], &[], 0),
            ("a negative number", 0, &[(1, long, &[1; 4])], &[], 0),
            ("none of the type", 0, &[], &[(6, 40, SOA)], 30),
            ("no such name", 3, &[], &[(6, 10, SOA)], 10),
            ("no such name, and no word for how long", 3, &[], &[], 0),
            (
                "another name, which has none",
                0,
                &[(5, 5, cname)],
                &[(6, 40, SOA)],
                5,
            ),
            ("another name, unfinished", 0, &[(5, 5, cname)], &[], 0),
            ("a failure", 2, &[], &[(6, 40, SOA)], 0),
        ] {
            let answer = kept(&a, rcode, [answers, authority, &[]]);
            assert_eq!(answer.ttl(), ttl, "{what}");
        }
    }

    #[test]
    fn what_stands_behind_the_opt_record_goes_with_it() {
        let asked = packet("example.com", RecordType::A, Some(1232));
        let mut bytes = response(&asked, 0, [&[(1, 9, &[1; 4])], &[], &[]]);
        bytes[11] = 2;
        bytes.extend(b"\xc0\x0c\0\x01\0\x01\0\0\0\x01\0\x04\x01\x01\x01\x01");
        let answer = Answer::from_upstream(&Message::check(&bytes).unwrap());
        assert_eq!(answer.records().count(), 1);
        let mut out = Vec::new();
        answer.write_for(&query(&asked, Transport::Udp), 0, &mut out);
        assert_eq!(Message::check(&out).unwrap().records().count(), 2);
        // Among the answers, where it has no place.
        bytes[7] = 3;
        bytes[11] = 0;
        let answer = Answer::from_upstream(&Message::check(&bytes).unwrap());
        assert_eq!(answer.records().count(), 1);
    }
}
