//! What a client asks.

use std::borrow::Cow;

use super::name::{Name, NameBuffer};
use super::{CLASS_IN, HEADER, PLAIN_UDP, Rcode, RecordType, SAFE_UDP, flag, u16_at, u32_at};

/// Most bytes of a message over TCP.
pub(super) const TCP_LIMIT: usize = 65_535;

/// How a client asked, which decides how long an answer may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// By datagram.
    Udp,
    /// Over a connection.
    Tcp,
}

/// What a client's OPT record says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Edns {
    /// Largest datagram that it takes, in bytes.
    pub payload: u16,
    /// It wants records of DNSSEC.
    pub dnssec_ok: bool,
}

/// A query that is well formed.
#[derive(Debug, Clone)]
pub struct Query<'a> {
    /// Number that the answer repeats.
    pub id: u16,
    /// The header's flags as they came.
    pub(crate) flags: u16,
    /// Name, type and class as they came; the answer repeats them, case and all.
    pub(crate) question: Cow<'a, [u8]>,
    /// The name, folded.
    pub name: NameBuffer,
    /// Type asked for.
    pub kind: RecordType,
    /// Its OPT record.
    pub edns: Option<Edns>,
    /// How it came.
    pub transport: Transport,
}

/// What is to be done with a client's message.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "lives on the stack for a moment; a box would be one more allocation for each question"
)]
pub enum Received<'a> {
    /// It asks something.
    Query(Query<'a>),
    /// It gets an answer, which says only that it is not answered. Without a question, only its id and flags are known.
    Refused(Refusal<'a>),
    /// It gets none: it is no query, or its header is cut.
    Ignored,
}

/// Why a message is not answered, and to whom that is said.
#[derive(Debug)]
pub struct Refusal<'a> {
    pub(crate) id: u16,
    pub(crate) flags: u16,
    /// Empty when it cannot be repeated.
    pub(crate) question: &'a [u8],
    pub(crate) rcode: Rcode,
    /// The message had an OPT record, so the answer has one.
    pub(crate) has_edns: bool,
}

impl<'a> Query<'a> {
    /// Reads a client's message.
    #[must_use]
    pub fn read(message: &'a [u8], transport: Transport) -> Received<'a> {
        let (Some(id), Some(flags)) = (u16_at(message, 0), u16_at(message, 2)) else {
            return Received::Ignored;
        };
        if message.len() < HEADER || flags & flag::RESPONSE != 0 {
            return Received::Ignored;
        }
        let refused = |rcode, question, has_edns| {
            Received::Refused(Refusal {
                id,
                flags,
                question,
                rcode,
                has_edns,
            })
        };
        if flags & flag::OPCODE != 0 {
            return refused(Rcode::NOT_IMP, &[], false);
        }
        let Some((name, question, kind, class)) = read_question(message) else {
            return refused(Rcode::FORM_ERR, &[], false);
        };
        let edns = match read_edns(message, HEADER + question.len()) {
            Ok(edns) => edns,
            Err(rcode) => return refused(rcode, question, rcode == Rcode::BAD_VERS),
        };
        if class != CLASS_IN
            || matches!(kind, RecordType::OPT | RecordType::IXFR | RecordType::AXFR)
        {
            return refused(Rcode::REFUSED, question, edns.is_some());
        }
        Received::Query(Query {
            id,
            flags,
            question: Cow::Borrowed(question),
            name,
            kind,
            edns,
            transport,
        })
    }

    /// The same, for longer than its message lives.
    #[must_use]
    pub fn into_owned(self) -> Query<'static> {
        Query {
            question: Cow::Owned(self.question.into_owned()),
            ..self
        }
    }

    /// A query of our own. The id is for the caller to choose.
    #[must_use]
    pub fn new(name: &Name, kind: RecordType, transport: Transport) -> Query<'static> {
        Query {
            id: 0,
            flags: flag::RECURSION_DESIRED,
            question: Cow::Owned(question(name, kind)),
            name: NameBuffer::of(name),
            kind,
            edns: None,
            transport,
        }
    }

    /// It wants records of DNSSEC.
    #[must_use]
    pub fn dnssec_ok(&self) -> bool {
        self.edns.is_some_and(|edns| edns.dnssec_ok)
    }

    /// It wants answers also where signatures are wrong.
    #[must_use]
    pub fn checking_disabled(&self) -> bool {
        self.flags & flag::CHECKING_DISABLED != 0
    }

    /// Most bytes that the answer may have.
    #[must_use]
    pub fn limit(&self) -> usize {
        match (self.transport, self.edns) {
            (Transport::Tcp, _) => TCP_LIMIT,
            (Transport::Udp, None) => PLAIN_UDP,
            (Transport::Udp, Some(edns)) => usize::from(edns.payload).clamp(PLAIN_UDP, SAFE_UDP),
        }
    }
}

/// Writes a question: name, type, class.
pub(crate) fn question(name: &Name, kind: RecordType) -> Vec<u8> {
    let mut question = name.as_bytes().to_vec();
    question.extend(kind.0.to_be_bytes());
    question.extend(CLASS_IN.to_be_bytes());
    question
}

/// The one question; `None` when there is not exactly one, or it is compressed or cut. The first name of a message has nothing
/// before it to point at.
fn read_question(message: &[u8]) -> Option<(NameBuffer, &[u8], RecordType, u16)> {
    let (questions, answers, authority, additional) = (
        u16_at(message, 4)?,
        u16_at(message, 6)?,
        u16_at(message, 8)?,
        u16_at(message, 10)?,
    );
    // What the library that Lima uses accepts.
    if questions != 1 || answers > 1 || authority > 1 || additional > 2 {
        return None;
    }
    let (name, after) = NameBuffer::read(message, HEADER)?;
    if after - HEADER != name.as_bytes().len() {
        return None;
    }
    let kind = u16_at(message, after)?;
    let class = u16_at(message, after + 2)?;
    Some((name, &message[HEADER..after + 4], RecordType(kind), class))
}

/// Finds the OPT record among what follows the question. Two of them, or a record that is cut, are malformed.
fn read_edns(message: &[u8], mut at: usize) -> Result<Option<Edns>, Rcode> {
    let count = |place| u16_at(message, place).map_or(0, usize::from);
    let mut edns = None;
    for _ in 0..count(6) + count(8) + count(10) {
        let (record, end) = read_record(message, at).ok_or(Rcode::FORM_ERR)?;
        at = end;
        let Some((payload, ttl)) = record else {
            continue;
        };
        if edns.is_some() {
            return Err(Rcode::FORM_ERR);
        }
        if ttl >> 16 & 0xff != 0 {
            return Err(Rcode::BAD_VERS);
        }
        edns = Some(Edns {
            payload,
            dnssec_ok: ttl & 0x8000 != 0,
        });
    }
    Ok(edns)
}

/// Where a record ends; with class and TTL field when it is an OPT record.
#[allow(clippy::type_complexity, reason = "two numbers, if any, and an end")]
fn read_record(message: &[u8], at: usize) -> Option<(Option<(u16, u32)>, usize)> {
    let after = super::name::skip(message, at)?;
    let kind = RecordType(u16_at(message, after)?);
    let class = u16_at(message, after + 2)?;
    let ttl = u32_at(message, after + 4)?;
    let end = after + 10 + usize::from(u16_at(message, after + 8)?);
    let opt = (kind == RecordType::OPT).then_some((class, ttl));
    (end <= message.len()).then_some((opt, end))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A query as `dig` sends it, with EDNS when a payload is given.
    pub(crate) fn packet(name: &str, kind: RecordType, payload: Option<u16>) -> Vec<u8> {
        let additional = u8::from(payload.is_some());
        let mut bytes = vec![0x12, 0x34, 1, 0x20, 0, 1, 0, 0, 0, 0, 0, additional];
        for label in name.split('.').filter(|label| !label.is_empty()) {
            bytes.push(u8::try_from(label.len()).unwrap());
            bytes.extend(label.as_bytes());
        }
        bytes.push(0);
        bytes.extend(kind.0.to_be_bytes());
        bytes.extend([0, 1]);
        if let Some(payload) = payload {
            bytes.extend([0, 0, 41]);
            bytes.extend(payload.to_be_bytes());
            bytes.extend([0, 0, 0x80, 0, 0, 0]);
        }
        bytes
    }

    /// Reads what must be a query.
    pub(crate) fn query(message: &[u8], transport: Transport) -> Query<'_> {
        match Query::read(message, transport) {
            Received::Query(query) => query,
            other => panic!("{other:?}"),
        }
    }

    fn refusal(message: &[u8]) -> Rcode {
        match Query::read(message, Transport::Udp) {
            Received::Refused(refusal) => refusal.rcode,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_query_is_read_and_its_case_is_kept() {
        let bytes = packet("Host.Lima.Internal", RecordType::A, Some(4096));
        let query = query(&bytes, Transport::Udp);
        assert_eq!((query.id, query.kind), (0x1234, RecordType::A));
        assert_eq!(query.name.to_name().to_string(), "host.lima.internal.");
        assert!(query.question.starts_with(b"\x04Host"));
        let edns = Edns {
            payload: 4096,
            dnssec_ok: true,
        };
        assert_eq!(query.edns, Some(edns));
    }

    #[test]
    fn the_limit_follows_transport_and_edns() {
        for (payload, limit) in [
            (None, 512),
            (Some(100), 512),
            (Some(800), 800),
            (Some(65535), 1232),
        ] {
            let bytes = packet("a", RecordType::A, payload);
            assert_eq!(query(&bytes, Transport::Udp).limit(), limit);
            assert_eq!(query(&bytes, Transport::Tcp).limit(), 65_535);
        }
    }

    #[test]
    fn what_is_no_query_gets_no_answer() {
        let mut response = packet("a", RecordType::A, None);
        response[2] |= 0x80;
        for bytes in [
            &[][..],
            &[1, 2, 3],
            &packet("a", RecordType::A, None)[..11],
            &response,
        ] {
            assert!(
                matches!(Query::read(bytes, Transport::Udp), Received::Ignored),
                "{bytes:?}"
            );
        }
    }

    #[test]
    fn what_cannot_be_answered_is_told_why() {
        let whole = packet("a.b", RecordType::A, Some(1232));
        for cut in HEADER..whole.len() {
            assert_eq!(refusal(&whole[..cut]), Rcode::FORM_ERR, "cut at {cut}");
        }
        let change = |at: usize, to: u8| {
            let mut bytes = whole.clone();
            bytes[at] = to;
            bytes
        };
        let class = HEADER + 5 + 3;
        for (what, bytes, rcode) in [
            ("opcode", change(2, 0x21), Rcode::NOT_IMP),
            ("no question", change(5, 0), Rcode::FORM_ERR),
            ("two questions", change(5, 2), Rcode::FORM_ERR),
            ("many additional records", change(11, 3), Rcode::FORM_ERR),
            ("class", change(class, 3), Rcode::REFUSED),
            (
                "version of EDNS",
                change(whole.len() - 5, 1),
                Rcode::BAD_VERS,
            ),
            (
                "transfer",
                packet("a", RecordType::AXFR, None),
                Rcode::REFUSED,
            ),
        ] {
            assert_eq!(refusal(&bytes), rcode, "{what}");
        }
        let mut twice = whole.clone();
        twice.extend_from_slice(&whole[whole.len() - 11..]);
        twice[11] = 2;
        assert_eq!(refusal(&twice), Rcode::FORM_ERR);
    }
}
