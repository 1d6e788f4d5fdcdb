//! Messages for people, in the words of zone files.

use std::fmt::Write as _;

use super::message::{Message, Record, Section};
use super::name::NameBuffer;
use super::{RecordType, flag, u16_at, u32_at};

/// Describes a message: how it ended, then its records, one a line. Everything in it is escaped.
#[must_use]
pub fn describe(message: &Message<'_>) -> String {
    let mut text = String::new();
    let _ = write!(text, "{}", message.rcode());
    for (bit, name) in [
        (flag::AUTHORITATIVE, "authoritative"),
        (flag::TRUNCATED, "truncated"),
        (flag::AUTHENTIC, "authentic"),
    ] {
        if message.flags() & bit != 0 {
            let _ = write!(text, ", {name}");
        }
    }
    text.push('\n');
    for record in message
        .records()
        .filter(|record| record.kind != RecordType::OPT)
    {
        let heading = match record.section {
            Section::Answer => "",
            Section::Authority => "authority: ",
            Section::Additional => "additional: ",
        };
        let owner = record
            .owner()
            .map_or_else(|| "?".to_owned(), |name| name.to_name().to_string());
        let (kind, ttl) = (record.kind, record.ttl);
        let data = data(message.bytes(), &record);
        let _ = writeln!(text, "{heading}{owner} {ttl} {kind} {data}");
    }
    text
}

/// A record's data; in the general form of RFC 3597 where the type has none here, or the data is not what its type says.
fn data(message: &[u8], record: &Record<'_>) -> String {
    known(message, record).unwrap_or_else(|| {
        let data = record.data();
        let hex: String = data.iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        });
        format!("\\# {} {hex}", data.len()).trim_end().to_owned()
    })
}

fn known(message: &[u8], record: &Record<'_>) -> Option<String> {
    let data = record.data();
    let at = record.end - data.len();
    let name = |at: usize| {
        let (name, end) = NameBuffer::read(message, at)?;
        (end <= record.end).then(|| (name.to_name().to_string(), end))
    };
    let whole = |at: usize| {
        name(at)
            .filter(|(_, end)| *end == record.end)
            .map(|(name, _)| name)
    };
    Some(match record.kind {
        RecordType::A | RecordType::AAAA => record.address()?.to_string(),
        RecordType::CNAME | RecordType::NS | RecordType::PTR => whole(at)?,
        RecordType::MX => format!("{} {}", u16_at(data, 0)?, whole(at + 2)?),
        RecordType::SRV => {
            let number = |place| u16_at(data, place);
            format!(
                "{} {} {} {}",
                number(0)?,
                number(2)?,
                number(4)?,
                whole(at + 6)?
            )
        }
        RecordType::TXT => strings(data)?,
        RecordType::SOA => {
            let (server, next) = name(at)?;
            let (person, next) = name(next)?;
            let numbers: Option<Vec<String>> = (0..5)
                .map(|place| u32_at(message, next + 4 * place).map(|number| number.to_string()))
                .collect();
            format!("{server} {person} {}", numbers?.join(" "))
        }
        RecordType::CAA => {
            let (flags, length) = (*data.first()?, usize::from(*data.get(1)?));
            let (tag, value) = data.get(2..)?.split_at_checked(length)?;
            format!("{flags} {} {}", escaped(tag), quoted(value))
        }
        _ => return None,
    })
}

/// Strings with a length each.
fn strings(mut data: &[u8]) -> Option<String> {
    let mut texts = Vec::new();
    while let Some((length, rest)) = data.split_first() {
        let (text, after) = rest.split_at_checked(usize::from(*length))?;
        texts.push(quoted(text));
        data = after;
    }
    Some(texts.join(" "))
}

fn quoted(text: &[u8]) -> String {
    format!("\"{}\"", escaped(text))
}

fn escaped(text: &[u8]) -> String {
    let mut escaped = String::new();
    for byte in text {
        match byte {
            b'"' | b'\\' => {
                escaped.push('\\');
                escaped.push(char::from(*byte));
            }
            0x20..=0x7e => escaped.push(char::from(*byte)),
            other => {
                let _ = write!(escaped, "\\{other:03}");
            }
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::answer::tests::response;
    use crate::wire::query::tests::packet;

    #[test]
    fn records_are_shown_as_in_zone_files() {
        let asked = packet("example.com", RecordType::MX, None);
        let soa = b"\xc0\x0c\x01h\xc0\x0c\0\0\0\x01\0\0\0\x02\0\0\0\x03\0\0\0\x04\0\0\0\x05";
        let bytes = response(
            &asked,
            0,
            [
                &[
                    (15, 5, b"\0\x0a\x04mail\xc0\x0c"),
                    (16, 5, b"\x03a\"\x1b\x01b"),
                    (33, 5, b"\0\x01\0\x02\0\x50\xc0\x0c"),
                    (257, 5, b"\0\x05issueca.example"),
                    (1, 5, b"\x0a\0\0"),
                    (65534, 5, b""),
                ],
                &[(6, 7, soa)],
                &[(28, 9, &[0; 16])],
            ],
        );
        let text = describe(&Message::check(&bytes).unwrap());
        let expected = "NOERROR, authoritative\n\
            example.com. 5 MX 10 mail.example.com.\n\
            example.com. 5 TXT \"a\\\"\\027\" \"b\"\n\
            example.com. 5 SRV 1 2 80 example.com.\n\
            example.com. 5 CAA 0 issue \"ca.example\"\n\
            example.com. 5 A \\# 3 0a0000\n\
            example.com. 5 TYPE65534 \\# 0\n\
            authority: example.com. 7 SOA example.com. h.example.com. 1 2 3 4 5\n\
            additional: example.com. 9 AAAA ::\n";
        assert_eq!(text, expected);
    }
}
