//! Walking over a message of an upstream server.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::name::{self, NameBuffer};
use super::{HEADER, RecordType, flag, u16_at, u32_at};

/// Most records that are looked at. More do not fit into 64 KiB in any useful form, and walking is work.
const MAX_RECORDS: usize = 4096;

/// Part of a message that a record stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Section {
    /// What was asked for.
    Answer,
    /// Who is responsible, or why there is nothing.
    Authority,
    /// What may be of use.
    Additional,
}

/// A record, by its places in the message.
#[derive(Debug, Clone, Copy)]
pub struct Record<'a> {
    /// The message it stands in.
    message: &'a [u8],
    /// Where it begins: the place of its owner's name.
    pub start: usize,
    /// Where the next begins.
    pub end: usize,
    /// Where its TTL stands.
    pub ttl_at: usize,
    /// Its part of the message.
    pub section: Section,
    /// Type.
    pub kind: RecordType,
    /// Class; of an OPT record, the payload.
    pub class: u16,
    /// Seconds that it may be kept; of an OPT record, extended flags.
    pub ttl: u32,
}

impl<'a> Record<'a> {
    /// Its data.
    #[must_use]
    pub fn data(&self) -> &'a [u8] {
        &self.message[self.ttl_at + 6..self.end]
    }

    /// The name that it belongs to; `None` if that is malformed.
    #[must_use]
    pub fn owner(&self) -> Option<NameBuffer> {
        NameBuffer::read(self.message, self.start).map(|(name, _)| name)
    }

    /// The address, of an A or AAAA record of the right length.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        match self.kind {
            RecordType::A => <[u8; 4]>::try_from(self.data())
                .ok()
                .map(|octets| Ipv4Addr::from(octets).into()),
            RecordType::AAAA => <[u8; 16]>::try_from(self.data())
                .ok()
                .map(|octets| Ipv6Addr::from(octets).into()),
            _ => None,
        }
    }
}

/// A message whose records all lie within it.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    bytes: &'a [u8],
    /// Where the question ends; [`HEADER`] when there is none.
    pub question_end: usize,
}

impl<'a> Message<'a> {
    /// Checks a message from end to end. `None` if any record is cut, or there is more than one question.
    #[must_use]
    pub fn check(bytes: &'a [u8]) -> Option<Self> {
        let questions = u16_at(bytes, 4)?;
        u16_at(bytes, 10)?;
        let question_end = match questions {
            0 => HEADER,
            1 => {
                let (_, after) = NameBuffer::read(bytes, HEADER)?;
                after + 4
            }
            _ => return None,
        };
        if question_end > bytes.len() {
            return None;
        }
        let message = Self {
            bytes,
            question_end,
        };
        let counted = message.counts().into_iter().sum::<usize>();
        let whole = message.records().count() == counted && counted <= MAX_RECORDS;
        whole.then_some(message)
    }

    /// The message's bytes.
    #[must_use]
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The header's flags.
    #[must_use]
    pub fn flags(&self) -> u16 {
        u16_at(self.bytes, 2).unwrap_or_default()
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> u16 {
        u16_at(self.bytes, 0).unwrap_or_default()
    }

    /// Whether it says that it does not fit.
    #[must_use]
    pub fn is_truncated(&self) -> bool {
        self.flags() & flag::TRUNCATED != 0
    }

    /// How it ended, with the upper bits of its OPT record.
    #[must_use]
    pub fn rcode(&self) -> super::Rcode {
        let low = self.flags() & flag::RCODE;
        let opt = self.records().find(|record| record.kind == RecordType::OPT);
        let high = opt.map_or(0, |record| (record.ttl >> 24) as u16);
        super::Rcode(high << 4 | low)
    }

    /// Name, type and class of the question as they came; empty when there is none.
    #[must_use]
    pub fn question(&self) -> &'a [u8] {
        &self.bytes[HEADER..self.question_end]
    }

    fn counts(&self) -> [usize; 3] {
        [6, 8, 10].map(|at| u16_at(self.bytes, at).map_or(0, usize::from))
    }

    /// Its records in order; ends at the first that is cut.
    pub fn records(&self) -> impl Iterator<Item = Record<'a>> + use<'a> {
        let bytes = self.bytes;
        let [answers, authority, additional] = self.counts();
        let sections = std::iter::repeat_n(Section::Answer, answers)
            .chain(std::iter::repeat_n(Section::Authority, authority))
            .chain(std::iter::repeat_n(Section::Additional, additional));
        let mut at = self.question_end;
        sections.map_while(move |section| {
            let record = read(bytes, at, section)?;
            at = record.end;
            Some(record)
        })
    }
}

fn read(message: &[u8], start: usize, section: Section) -> Option<Record<'_>> {
    let after = name::skip(message, start)?;
    let end = after + 10 + usize::from(u16_at(message, after + 8)?);
    (end <= message.len()).then_some(Record {
        message,
        start,
        end,
        ttl_at: after + 4,
        section,
        kind: RecordType(u16_at(message, after)?),
        class: u16_at(message, after + 2)?,
        ttl: u32_at(message, after + 4)?,
    })
}

/// The addresses that a service binding (RFC 9460) suggests: `ipv4hint` and `ipv6hint`. Ends at the first parameter that is cut.
#[must_use]
pub fn address_hints(record: &Record<'_>) -> Vec<IpAddr> {
    const IPV4_HINT: u16 = 4;
    const IPV6_HINT: u16 = 6;
    let mut hints = Vec::new();
    if !matches!(record.kind, RecordType::SVCB | RecordType::HTTPS) {
        return hints;
    }
    let data = record.data();
    let Some(mut at) = name::skip(data, 2) else {
        return hints;
    };
    while let (Some(key), Some(length)) = (u16_at(data, at), u16_at(data, at + 2)) {
        let end = at + 4 + usize::from(length);
        let Some(value) = data.get(at + 4..end) else {
            break;
        };
        match key {
            IPV4_HINT => hints.extend(value.as_chunks::<4>().0.iter().map(|v4| IpAddr::from(*v4))),
            IPV6_HINT => hints.extend(value.as_chunks::<16>().0.iter().map(|v6| IpAddr::from(*v6))),
            _ => {}
        }
        at = end;
    }
    hints
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::query::tests::packet;

    /// A response to `a.`: one A record in the answer and an OPT record.
    fn response() -> Vec<u8> {
        let mut bytes = packet("a", RecordType::A, Some(1232));
        bytes[2] = 0x81;
        bytes[3] = 0x83;
        bytes[7] = 1;
        let opt = bytes.split_off(bytes.len() - 11);
        bytes.extend(b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\x0a\0\0\x01");
        bytes.extend(opt);
        bytes
    }

    #[test]
    fn records_are_found() {
        let bytes = response();
        let message = Message::check(&bytes).unwrap();
        let records: Vec<_> = message.records().collect();
        assert_eq!(records.len(), 2);
        assert_eq!(records[0].address(), Some("10.0.0.1".parse().unwrap()));
        assert_eq!((records[0].ttl, records[0].section), (60, Section::Answer));
        assert_eq!(records[0].owner().unwrap().to_name().to_string(), "a.");
        assert_eq!(records[1].kind, RecordType::OPT);
        assert_eq!(message.rcode(), crate::wire::Rcode::NX_DOMAIN);
        assert!(!message.is_truncated());
    }

    #[test]
    fn a_cut_message_is_none() {
        let bytes = response();
        for cut in 0..bytes.len() {
            assert!(Message::check(&bytes[..cut]).is_none(), "cut at {cut}");
        }
        let mut many = bytes;
        many[6] = 0xff;
        assert!(Message::check(&many).is_none());
    }

    #[test]
    fn hints_of_service_bindings_are_seen() {
        let mut bytes = packet("a", RecordType::HTTPS, None);
        bytes[2] = 0x81;
        bytes[7] = 1;
        let data = b"\0\x01\0\0\x04\0\x08\x0a\0\0\x01\xc0\xa8\x05\x02\0\x06\0\x10\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01";
        bytes.extend(b"\xc0\x0c\0\x41\0\x01\0\0\0\x3c\0");
        bytes.push(u8::try_from(data.len()).unwrap());
        bytes.extend(data);
        let message = Message::check(&bytes).unwrap();
        let record = message.records().next().unwrap();
        let expected: [IpAddr; 3] =
            ["10.0.0.1", "192.168.5.2", "::1"].map(|address| address.parse().unwrap());
        assert_eq!(address_hints(&record), expected);
    }
}
