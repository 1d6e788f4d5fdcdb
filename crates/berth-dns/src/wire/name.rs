//! Domain names, folded to lower case, because names are compared without regard to case.

use std::borrow::Borrow;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// Longest name in bytes, with the length of each label and the root's.
const MAX_NAME: usize = 255;
/// Longest label in bytes.
const MAX_LABEL: usize = 63;

/// A name read from a message: lengths and labels, folded, uncompressed, on the stack.
#[derive(Clone, Copy)]
pub struct NameBuffer {
    bytes: [u8; MAX_NAME],
    length: u8,
}

impl NameBuffer {
    /// Reads the name at `at`; also returns where what follows it begins. `None` if it is malformed.
    ///
    /// A compressed name's pointers may only lead further back, so that they end.
    #[must_use]
    pub fn read(message: &[u8], at: usize) -> Option<(Self, usize)> {
        let mut name = Self {
            bytes: [0; MAX_NAME],
            length: 0,
        };
        let mut position = at;
        let mut end = None;
        // Where the labels began that are being read: a pointer must lead before them.
        let mut begin = at;
        loop {
            let length = *message.get(position)?;
            match length {
                0 => {
                    name.push(&[0])?;
                    return Some((name, end.unwrap_or(position + 1)));
                }
                1..=63 => {
                    let next = position + 1 + usize::from(length);
                    name.push(message.get(position..next)?)?;
                    position = next;
                }
                0xc0.. => {
                    let low = *message.get(position + 1)?;
                    let target = usize::from(length & 0x3f) << 8 | usize::from(low);
                    if target >= begin {
                        return None;
                    }
                    end.get_or_insert(position + 2);
                    (begin, position) = (target, target);
                }
                _ => return None,
            }
        }
    }

    /// A name that is kept, on the stack again.
    pub(crate) fn of(name: &Name) -> Self {
        let mut bytes = [0; MAX_NAME];
        // A name is not longer.
        let length = name.0.len().min(MAX_NAME);
        bytes[..length].copy_from_slice(&name.0[..length]);
        Self {
            bytes,
            length: u8::try_from(length).unwrap_or_default(),
        }
    }

    fn push(&mut self, bytes: &[u8]) -> Option<()> {
        let length = usize::from(self.length);
        let place = self.bytes.get_mut(length..length + bytes.len())?;
        for (to, from) in place.iter_mut().zip(bytes) {
            // Lengths of labels are below 64 and no letters.
            *to = from.to_ascii_lowercase();
        }
        self.length = u8::try_from(length + bytes.len()).ok()?;
        Some(())
    }

    /// Lengths and labels, with the root's zero.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.length)]
    }

    /// The name, kept.
    #[must_use]
    pub fn to_name(&self) -> Name {
        Name(self.as_bytes().into())
    }
}

impl fmt::Debug for NameBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.to_name(), f)
    }
}

/// Finds the end of the name at `at`, without reading what it points to.
#[must_use]
pub(crate) fn skip(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            length @ 1..=63 => at += 1 + usize::from(length),
            0xc0.. => return (at + 2 <= message.len()).then_some(at + 2),
            _ => return None,
        }
    }
}

/// A domain name.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Box<[u8]>);

/// Why a text is no name.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// A label is empty or too long.
    #[error("{0:?} is no host name: a part between dots must have 1 to 63 bytes")]
    Label(String),
    /// The whole is too long.
    #[error("{0:?} is no host name: it must not be longer than 253 bytes")]
    Long(String),
}

impl Name {
    /// The root: no labels.
    #[must_use]
    pub fn root() -> Self {
        Self([0].into())
    }

    /// The name under which the PTR record of an address stands.
    #[must_use]
    pub fn of_address(address: IpAddr) -> Self {
        let labels: Vec<String> = match address {
            IpAddr::V4(v4) => {
                let numbers = v4.octets().into_iter().rev();
                numbers.map(|number| number.to_string()).collect()
            }
            IpAddr::V6(v6) => {
                let digits = v6.octets().into_iter().rev();
                let digits = digits.flat_map(|byte| [byte & 15, byte >> 4]);
                digits.map(|digit| format!("{digit:x}")).collect()
            }
        };
        let zone: &[u8] = if address.is_ipv4() {
            b"\x07in-addr\x04arpa\0"
        } else {
            b"\x03ip6\x04arpa\0"
        };
        let mut bytes = Vec::with_capacity(2 * labels.len() + zone.len());
        for label in &labels {
            // One digit, or up to three.
            bytes.push(u8::try_from(label.len()).unwrap_or_default());
            bytes.extend(label.as_bytes());
        }
        bytes.extend(zone);
        Self(bytes.into())
    }

    /// Lengths and labels, folded, with the root's zero.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The labels from left to right, without the root's.
    pub fn labels(&self) -> impl Iterator<Item = &[u8]> {
        labels(&self.0)
    }

    /// Whether this is `parent` or lies beneath it.
    #[must_use]
    pub fn is_within(&self, parent: &Self) -> bool {
        is_within(&self.0, &parent.0)
    }

    /// This name beneath a parent; `None` when that would be too long.
    #[must_use]
    pub fn beneath(&self, parent: &Self) -> Option<Self> {
        let own = &self.0[..self.0.len() - 1];
        let bytes = [own, &parent.0].concat();
        (bytes.len() <= MAX_NAME).then(|| Self(bytes.into()))
    }

    /// As text for the operating system's resolver, without the root's dot. `None` for names that are no host names: such a
    /// name would mean something else there.
    #[must_use]
    pub fn to_host_name(&self) -> Option<String> {
        let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        if self.0.len() < 2 || !self.labels().flatten().all(is_plain) {
            return None;
        }
        let labels: Vec<_> = self.labels().map(String::from_utf8_lossy).collect();
        Some(labels.join("."))
    }
}

/// The labels of a name in its wire form.
pub(crate) fn labels(wire: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = wire;
    std::iter::from_fn(move || {
        let (length, after) = rest.split_first()?;
        if *length == 0 {
            return None;
        }
        let (label, next) = after.split_at_checked(usize::from(*length))?;
        rest = next;
        Some(label)
    })
}

/// Whether a name is, or lies beneath, another, both in folded wire form.
pub(crate) fn is_within(name: &[u8], parent: &[u8]) -> bool {
    let mut rest = name;
    loop {
        if rest.len() <= parent.len() {
            return rest == parent;
        }
        match rest.split_first() {
            Some((length, after)) if *length > 0 => {
                rest = after.get(usize::from(*length)..).unwrap_or_default();
            }
            _ => return false,
        }
    }
}

impl FromStr for Name {
    type Err = NameError;

    /// Reads a name with or without the root's dot. Escapes are not understood: host names need none.
    fn from_str(text: &str) -> Result<Self, NameError> {
        let trimmed = text.strip_suffix('.').unwrap_or(text);
        let mut bytes = Vec::with_capacity(trimmed.len() + 2);
        for label in trimmed.split('.').map(str::as_bytes) {
            if trimmed.is_empty() && !text.is_empty() {
                break;
            }
            let length = u8::try_from(label.len()).unwrap_or(u8::MAX);
            if length == 0 || usize::from(length) > MAX_LABEL {
                return Err(NameError::Label(text.to_owned()));
            }
            bytes.push(length);
            bytes.extend(label.to_ascii_lowercase());
        }
        bytes.push(0);
        if bytes.len() > MAX_NAME {
            return Err(NameError::Long(text.to_owned()));
        }
        Ok(Self(bytes.into()))
    }
}

impl Borrow<[u8]> for Name {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Name {
    /// With the root's dot; what is not printable is escaped as in zone files (RFC 1035, 5.1).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.len() < 2 {
            return f.write_str(".");
        }
        for label in self.labels() {
            for byte in label {
                match byte {
                    b'.' | b'\\' | b'"' | b';' | b'@' | b'$' | b'(' | b')' => {
                        write!(f, "\\{}", char::from(*byte))?;
                    }
                    0x21..=0x7e => write!(f, "{}", char::from(*byte))?,
                    other => write!(f, "\\{other:03}")?,
                }
            }
            f.write_str(".")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    #[test]
    fn compressed_names_are_read_and_folded() {
        let message = b"\x03Foo\x07eXample\0\x03www\xc0\x04\xff";
        let (first, next) = NameBuffer::read(message, 0).unwrap();
        assert_eq!((first.to_name(), next), (name("foo.example"), 13));
        let (second, next) = NameBuffer::read(message, 13).unwrap();
        assert_eq!((second.to_name(), next), (name("www.example."), 19));
        assert_eq!(skip(message, 13), Some(19));
    }

    #[test]
    fn malformed_names_are_refused() {
        let looped = b"\x01a\xc0\x00";
        let itself = b"\xc0\x00";
        let forward = b"\xc0\x02\x01a\0";
        let cut_label = b"\x05ab";
        let cut_pointer = b"\x01a\xc0";
        let no_end = b"\x01a";
        let reserved = b"\x41a\0";
        for (what, bytes) in [
            ("loop", &looped[..]),
            ("itself", itself),
            ("forward", forward),
            ("cut label", cut_label),
            ("cut pointer", cut_pointer),
            ("no end", no_end),
            ("reserved", reserved),
            ("nothing", b""),
        ] {
            assert!(NameBuffer::read(bytes, 0).is_none(), "{what}");
        }
        // Legal labels, too many of them.
        let mut long = [b"\x3f".as_slice(), &[b'a'; 63]].concat().repeat(4);
        long.push(0);
        assert_eq!(long.len(), 257);
        assert!(NameBuffer::read(&long, 0).is_none());
    }

    #[test]
    fn texts_become_names_and_names_texts() {
        assert_eq!(
            name("Host.Lima.Internal").to_string(),
            "host.lima.internal."
        );
        assert_eq!(name(".").to_string(), ".");
        assert_eq!(Name::root(), name("."));
        for wrong in ["", "a..b", ".a", &"x".repeat(64)] {
            assert!(
                matches!(wrong.parse::<Name>(), Err(NameError::Label(_))),
                "{wrong:?}"
            );
        }
        let long = ["a"; 128].join(".");
        assert_eq!(long.parse::<Name>(), Err(NameError::Long(long)));
        let odd = Name(b"\x04a.\x1b \0"[..].into());
        assert_eq!(odd.to_string(), "a\\.\\027\\032.");
        assert_eq!(odd.to_host_name(), None);
        assert_eq!(name("a-b_c.d").to_host_name().unwrap(), "a-b_c.d");
    }

    #[test]
    fn addresses_have_names() {
        let v4 = Name::of_address("192.168.5.2".parse().unwrap());
        assert_eq!(v4.to_string(), "2.5.168.192.in-addr.arpa.");
        let v6 = Name::of_address("2001:db8::1".parse().unwrap()).to_string();
        assert!(
            v6.starts_with("1.0.0.0.") && v6.ends_with("8.b.d.0.1.0.0.2.ip6.arpa."),
            "{v6}"
        );
    }

    #[test]
    fn families_of_names() {
        assert!(name("a.b.c").is_within(&name("b.c")));
        assert!(name("b.c").is_within(&name("b.c")));
        assert!(name("b.c").is_within(&Name::root()));
        for (other, parent) in [("ab.c", "b.c"), ("c", "b.c"), ("b.d", "b.c")] {
            assert!(!name(other).is_within(&name(parent)), "{other} in {parent}");
        }
        assert_eq!(
            name("db").beneath(&name("corp.example")),
            Some(name("db.corp.example"))
        );
        let long = name(&["a"; 126].join("."));
        assert_eq!(name("bcd").beneath(&long), None);
    }
}
