//! An answer that was given for one name, for a name that stands for it: a record says so before the others.
//!
//! That moves the others, so compressed names among them have to point elsewhere.

use super::message::Record;
use super::{RecordType, put_u16, u16_at};

/// What sets a pointer apart from a length.
const POINTER: u16 = 0xc000;

/// How far the parts of a message have moved.
#[derive(Debug)]
pub(super) struct Moved {
    /// Where the name asked for stands now, and where it stood: its first byte, and the byte behind it.
    pub(super) name: usize,
    pub(super) old_name: (usize, usize),
    /// Where the records begin now, and where they began.
    pub(super) records: usize,
    pub(super) old_records: usize,
}

impl Moved {
    /// Makes the names of a record, which stands in the old message, lead to the same as there. `bytes` is the new one. `None` if a
    /// name is malformed, or what it leads to is too far for a pointer.
    pub(super) fn redirect(&self, record: &Record<'_>, bytes: &mut [u8]) -> Option<()> {
        self.redirect_name(record.start, record.end, bytes)?;
        let (before, count) = names_in(record.kind);
        let mut at = record.end - record.data().len() + before;
        for _ in 0..count {
            at = self.redirect_name(at, record.end, bytes)?;
        }
        Some(())
    }

    /// The same for the name at `at` of the old message, which ends by `limit`; returns its end.
    fn redirect_name(&self, mut at: usize, limit: usize, bytes: &mut [u8]) -> Option<usize> {
        while at < limit {
            let now = self.records + (at - self.old_records);
            match *bytes.get(now)? {
                0 => return Some(at + 1),
                length @ 1..=63 => at += 1 + usize::from(length),
                0xc0.. if at + 2 <= limit => {
                    let led_to = usize::from(u16_at(bytes, now)? & !POINTER);
                    let leads_to = u16::try_from(self.place_of(led_to)?).ok()?;
                    let fits = leads_to & POINTER == 0;
                    put_u16(bytes, now, fits.then_some(leads_to | POINTER)?);
                    return Some(at + 2);
                }
                _ => return None,
            }
        }
        None
    }

    /// Where something is that was at `old`; `None` where no name can have been.
    fn place_of(&self, old: usize) -> Option<usize> {
        let (start, end) = self.old_name;
        match old {
            _ if old >= self.old_records => Some(self.records + (old - self.old_records)),
            _ if (start..end).contains(&old) => Some(self.name + (old - start)),
            _ => None,
        }
    }
}

/// Where in the data of a type names stand that may be compressed, and how many: RFC 1035's types, and those that RFC 3597 (4) asks
/// to expect it of. (NAPTR, PX, SIG and NXT are left out: nobody compresses them.)
fn names_in(kind: RecordType) -> (usize, usize) {
    match kind.0 {
        // NS, MD, MF, CNAME; MB, MG, MR; PTR; DNAME.
        2..=5 | 7..=9 | 12 | 39 => (0, 1),
        // SOA, MINFO, RP.
        6 | 14 | 17 => (0, 2),
        // MX, AFSDB, RT, KX.
        15 | 18 | 21 | 36 => (2, 1),
        // SRV.
        33 => (6, 1),
        _ => (0, 0),
    }
}

#[cfg(test)]
mod tests {
    use crate::wire::answer::Answer;
    use crate::wire::answer::tests::response;
    use crate::wire::message::Message;
    use crate::wire::name::Name;
    use crate::wire::query::Transport;
    use crate::wire::query::tests::{packet, query};
    use crate::wire::{HEADER, RecordType, flag, show};

    /// What an answer for `example.com` looks like for `mine`, which stands for it.
    fn aliased(bytes: &[u8]) -> Option<Vec<u8>> {
        let target: Name = "example.com".parse().unwrap();
        let asked = packet("MINE", RecordType::MX, None);
        let query = query(&asked, Transport::Tcp);
        let answer = Answer::from_upstream(&Message::check(bytes).unwrap());
        let answer = answer.behind_alias(&query, &target)?;
        let mut out = Vec::new();
        answer.write_for(&query, 0, &mut out);
        Some(out)
    }

    #[test]
    fn names_lead_to_where_they_did() {
        let asked = packet("example.com", RecordType::MX, None);
        // Behind the question, which ends at 29, the first record's data begins at 41: `mail` stands at 43.
        let soa = b"\xc0\x2b\x01h\xc0\x14\0\0\0\x01\0\0\0\x02\0\0\0\x03\0\0\0\x04\0\0\0\x05";
        let mut bytes = response(
            &asked,
            0,
            [
                &[
                    (15, 60, b"\0\x0a\x04mail\xc0\x0c"),
                    (33, 50, b"\0\x01\0\x02\0\x50\xc0\x2b"),
                    (16, 60, b"\x02\xc0\x0c"),
                ],
                &[(6, 70, soa)],
                &[(1, 80, &[10, 0, 0, 1])],
            ],
        );
        bytes[3] |= u8::try_from(flag::AUTHENTIC).unwrap();
        let out = aliased(&bytes).unwrap();
        let message = Message::check(&out).unwrap();
        assert_eq!(message.question(), b"\x04MINE\0\0\x0f\0\x01");
        let expected = "NOERROR\n\
            mine. 50 CNAME example.com.\n\
            example.com. 60 MX 10 mail.example.com.\n\
            example.com. 50 SRV 1 2 80 mail.example.com.\n\
            example.com. 60 TXT \"\\192\\012\"\n\
            authority: example.com. 70 SOA mail.example.com. h.com. 1 2 3 4 5\n\
            additional: example.com. 80 A 10.0.0.1\n";
        assert_eq!(show::describe(&message), expected);
    }

    #[test]
    fn what_leads_nowhere_is_not_moved() {
        let asked = packet("example.com", RecordType::MX, None);
        for data in [
            // Into the header, into the question's type, on.
            &b"\0\x0a\xc0\x00"[..],
            b"\0\x0a\xc0\x19",
            b"\0\x0a\x80",
            // Cut.
            b"\0\x0a\xc0",
            b"\0\x0a\x04mail",
            b"\0\x0a",
            b"\0",
            b"",
        ] {
            let bytes = response(&asked, 0, [&[(15, 60, data)], &[], &[]]);
            assert_eq!(aliased(&bytes), None, "{data:?}");
        }
    }

    #[test]
    fn a_pointer_too_far_is_not_bent() {
        let asked = packet("example.com", RecordType::MX, None);
        let filler = vec![0; 0x3fff - HEADER - 17 - 12 - 12 - 2];
        let records = [(16, 60, &filler[..]), (15, 60, b"\0\0\x04mail\xc0\x0c")];
        let mut bytes = response(&asked, 0, [&records, &[], &[]]);
        assert!(aliased(&bytes).is_some());
        let at = 0x3fff_u16;
        let opt = bytes.split_off(bytes.len() - 11);
        assert_eq!(&bytes[usize::from(at)..][..5], b"\x04mail");
        bytes.extend(b"\xc0\x0c\0\x0f\0\x01\0\0\0\x3c\0\x04\0\0");
        bytes.extend((at | super::POINTER).to_be_bytes());
        bytes.extend(opt);
        bytes[7] += 1;
        assert_eq!(aliased(&bytes), None);
    }
}
