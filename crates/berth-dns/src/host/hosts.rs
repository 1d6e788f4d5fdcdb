//! `hosts(5)`.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::wire::RecordType;
use crate::wire::name::Name;

/// Names to addresses, and addresses to their first name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hosts {
    addresses: HashMap<Name, Vec<IpAddr>>,
    names: HashMap<Name, Name>,
}

impl Hosts {
    /// Reads the file's text. Lines that make no sense are ignored.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut hosts = Self::default();
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_ascii_whitespace();
            let Some(address) = words.next().and_then(|word| word.parse::<IpAddr>().ok()) else {
                continue;
            };
            let names: Vec<Name> = words.filter_map(|word| word.parse().ok()).collect();
            if let Some(first) = names.first() {
                let pointer = Name::of_address(address);
                hosts.names.entry(pointer).or_insert_with(|| first.clone());
            }
            for name in names {
                let known = hosts.addresses.entry(name).or_default();
                if !known.contains(&address) {
                    known.push(address);
                }
            }
        }
        hosts
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty()
    }

    /// The addresses of a name, of both families; `None` if it is not in the file. `name` is folded, in its wire form.
    #[must_use]
    pub fn addresses(&self, name: &[u8]) -> Option<&[IpAddr]> {
        self.addresses.get(name).map(Vec::as_slice)
    }

    /// The name that a PTR record of this name would lead to.
    #[must_use]
    pub fn pointer(&self, name: &[u8]) -> Option<&Name> {
        self.names.get(name)
    }
}

/// Of these, the addresses that a record of the type can hold.
pub(crate) fn of_kind(addresses: &[IpAddr], kind: RecordType) -> impl Iterator<Item = IpAddr> {
    let fits = move |address: &IpAddr| match kind {
        RecordType::A => address.is_ipv4(),
        RecordType::AAAA => address.is_ipv6(),
        _ => false,
    };
    addresses.iter().copied().filter(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_are_found_both_ways() {
        let hosts = Hosts::parse(
            "127.0.0.1 localhost # me\n::1 localhost ip6-localhost\nnonsense here\n10.0.0.1\n\
             10.0.0.2 DB.corp.example db\n10.0.0.2 db\n10.0.0.3 db\n",
        );
        let wire = |text: &str| text.parse::<Name>().unwrap();
        let both: Vec<IpAddr> = ["127.0.0.1", "::1"]
            .map(|text| text.parse().unwrap())
            .into();
        assert_eq!(
            hosts.addresses(wire("localhost").as_bytes()),
            Some(&both[..])
        );
        let db = hosts.addresses(wire("db").as_bytes()).unwrap();
        assert_eq!(db.len(), 2);
        assert_eq!(of_kind(db, RecordType::AAAA).count(), 0);
        assert_eq!(hosts.addresses(wire("other").as_bytes()), None);
        let pointer = Name::of_address("10.0.0.2".parse().unwrap());
        assert_eq!(
            hosts.pointer(pointer.as_bytes()),
            Some(&wire("db.corp.example"))
        );
    }
}
