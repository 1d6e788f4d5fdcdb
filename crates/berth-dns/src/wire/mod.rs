//! DNS messages: RFC 1035 with EDNS(0) (RFC 6891).
//!
//! A codec of our own, as small as a forwarder needs: it reads a question, walks over records without taking them apart, and
//! writes the few records that the resolver makes itself. Bytes of the guest and of upstream servers come here first; nothing in
//! this module allocates more than it was given, and every offset is checked.

mod alias;
pub mod answer;
pub mod message;
pub mod name;
pub mod query;
pub mod reply;
pub mod show;

use std::fmt;
use std::str::FromStr;

/// Length of a message's header in bytes.
pub const HEADER: usize = 12;

/// Most bytes that a message has over UDP without EDNS.
pub const PLAIN_UDP: usize = 512;

/// Most bytes that we send and ask for over UDP: what passes an IPv6 path without being cut (DNS Flag Day 2020).
pub const SAFE_UDP: usize = 1232;

/// Bits of the header's second word.
pub(crate) mod flag {
    pub(crate) const RESPONSE: u16 = 0x8000;
    pub(crate) const OPCODE: u16 = 0x7800;
    pub(crate) const AUTHORITATIVE: u16 = 0x0400;
    pub(crate) const TRUNCATED: u16 = 0x0200;
    pub(crate) const RECURSION_DESIRED: u16 = 0x0100;
    pub(crate) const RECURSION_AVAILABLE: u16 = 0x0080;
    pub(crate) const AUTHENTIC: u16 = 0x0020;
    pub(crate) const CHECKING_DISABLED: u16 = 0x0010;
    pub(crate) const RCODE: u16 = 0x000f;
}

/// The class of the internet; the only one served.
pub const CLASS_IN: u16 = 1;

/// Type of a record, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RecordType(pub u16);

/// Types that have a name here: number and name of IANA's registry.
const TYPES: &[(u16, &str)] = &[
    (1, "A"),
    (2, "NS"),
    (5, "CNAME"),
    (6, "SOA"),
    (12, "PTR"),
    (13, "HINFO"),
    (15, "MX"),
    (16, "TXT"),
    (28, "AAAA"),
    (33, "SRV"),
    (35, "NAPTR"),
    (39, "DNAME"),
    (43, "DS"),
    (44, "SSHFP"),
    (46, "RRSIG"),
    (47, "NSEC"),
    (48, "DNSKEY"),
    (50, "NSEC3"),
    (52, "TLSA"),
    (64, "SVCB"),
    (65, "HTTPS"),
    (255, "ANY"),
    (256, "URI"),
    (257, "CAA"),
];

impl RecordType {
    /// IPv4 address.
    pub const A: Self = Self(1);
    /// Name server.
    pub const NS: Self = Self(2);
    /// The name is another's.
    pub const CNAME: Self = Self(5);
    /// Start of a zone.
    pub const SOA: Self = Self(6);
    /// Name of an address.
    pub const PTR: Self = Self(12);
    /// Mail exchanger.
    pub const MX: Self = Self(15);
    /// Text.
    pub const TXT: Self = Self(16);
    /// IPv6 address.
    pub const AAAA: Self = Self(28);
    /// Service.
    pub const SRV: Self = Self(33);
    /// EDNS options: no record of a zone.
    pub const OPT: Self = Self(41);
    /// Service binding.
    pub const SVCB: Self = Self(64);
    /// Service binding for the web.
    pub const HTTPS: Self = Self(65);
    /// Incremental zone transfer.
    pub const IXFR: Self = Self(251);
    /// Zone transfer.
    pub const AXFR: Self = Self(252);
    /// Everything there is.
    pub const ANY: Self = Self(255);
    /// Who may certify.
    pub const CAA: Self = Self(257);

    /// Whether it asks for addresses.
    #[must_use]
    pub fn is_address(self) -> bool {
        matches!(self, Self::A | Self::AAAA)
    }
}

impl fmt::Display for RecordType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match TYPES.iter().find(|(number, _)| *number == self.0) {
            Some((_, name)) => f.pad(name),
            // RFC 3597.
            None => f.pad(&format!("TYPE{}", self.0)),
        }
    }
}

/// A word is no type of record.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no DNS record type; use a name like A, AAAA, MX or a number like TYPE65")]
pub struct UnknownType(String);

impl FromStr for RecordType {
    type Err = UnknownType;

    fn from_str(text: &str) -> Result<Self, UnknownType> {
        let word = text.to_ascii_uppercase();
        let known = TYPES.iter().find(|(_, name)| *name == word);
        let number = known.map(|(number, _)| *number).or_else(|| {
            let digits = word.strip_prefix("TYPE").unwrap_or(&word);
            digits.parse().ok()
        });
        number.map(Self).ok_or_else(|| UnknownType(text.to_owned()))
    }
}

/// How a query ended, by its number (12 bits with EDNS).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rcode(pub u16);

impl Rcode {
    /// It worked; perhaps there is nothing of the type asked for.
    pub const NO_ERROR: Self = Self(0);
    /// The query was malformed.
    pub const FORM_ERR: Self = Self(1);
    /// No server could be asked.
    pub const SERV_FAIL: Self = Self(2);
    /// There is no such name.
    pub const NX_DOMAIN: Self = Self(3);
    /// Not a kind of query that is answered here.
    pub const NOT_IMP: Self = Self(4);
    /// Not answered, by policy.
    pub const REFUSED: Self = Self(5);
    /// A version of EDNS that is not spoken here.
    pub const BAD_VERS: Self = Self(16);
}

impl fmt::Display for Rcode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match *self {
            Self::NO_ERROR => "NOERROR",
            Self::FORM_ERR => "FORMERR",
            Self::SERV_FAIL => "SERVFAIL",
            Self::NX_DOMAIN => "NXDOMAIN",
            Self::NOT_IMP => "NOTIMP",
            Self::REFUSED => "REFUSED",
            Self::BAD_VERS => "BADVERS",
            Self(other) => return write!(f, "RCODE{other}"),
        })
    }
}

/// Reads two bytes, if they are there.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|two| u16::from_be_bytes(*two))
}

/// Reads four bytes, if they are there.
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|four| u32::from_be_bytes(*four))
}

/// Overwrites two bytes that are there.
pub(crate) fn put_u16(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_have_names_and_numbers() {
        for (text, number) in [
            ("A", 1),
            ("aaaa", 28),
            ("https", 65),
            ("TYPE65534", 65534),
            ("99", 99),
        ] {
            assert_eq!(
                text.parse::<RecordType>().unwrap(),
                RecordType(number),
                "{text}"
            );
        }
        assert_eq!(RecordType(65534).to_string(), "TYPE65534");
        assert_eq!(RecordType::MX.to_string(), "MX");
        for wrong in ["", "TYPE", "TYPE65536", "-1", "B"] {
            let why = wrong.parse::<RecordType>().unwrap_err().to_string();
            assert!(why.contains("no DNS record type"), "{why}");
        }
    }
}
