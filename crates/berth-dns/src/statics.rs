//! Names that are answered here and nowhere else: those of `hostResolver.hosts`, the host's, the instance's.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};

use crate::wire::RecordType;
use crate::wire::name::{Name, NameError, is_within};

/// What a static name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Meaning {
    Address(IpAddr),
    Alias(Name),
}

/// The user network whose guest asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestNetwork {
    /// Where the guest reaches the host's loopback.
    pub gateway: Ipv4Addr,
    /// The guest's own address.
    pub guest: Ipv4Addr,
}

impl GuestNetwork {
    /// Whether an address belongs to the network, which is a /24.
    #[must_use]
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        address.octets()[..3] == self.gateway.octets()[..3]
    }
}

/// The static names of an instance.
#[derive(Debug, Clone, Default)]
pub struct StaticNames {
    meanings: HashMap<Name, Meaning>,
    /// Names of the network's own addresses, by the name of their PTR record.
    pointers: HashMap<Name, Name>,
    /// What lies beneath is the network's own, and nobody else's to tell.
    reverse_zone: Option<Name>,
}

/// What the static names say to a question.
#[derive(Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// Nothing: the name is an ordinary one.
    Nothing,
    /// There is no such name, nor is there one elsewhere.
    NoSuchName,
    /// The name is known here, and has nothing of the type asked for.
    NoData,
    /// An address.
    Address(IpAddr),
    /// The name of an address.
    Pointer(&'a Name),
    /// It is another name for this one, which is ordinary or static.
    Alias(&'a Name),
    /// It is another name for this ordinary one, whose records are asked for.
    RecordsOf(&'a Name),
}

/// A name or value of `hostResolver.hosts` cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("hostResolver.hosts: {key:?}")]
pub struct HostsError {
    key: String,
    #[source]
    source: NameError,
}

impl StaticNames {
    /// Takes the entries of `hostResolver.hosts`: names to addresses or to other names.
    pub fn new<'a>(
        hosts: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, HostsError> {
        let mut meanings = HashMap::new();
        for (key, value) in hosts {
            let wrong = |source| HostsError {
                key: key.to_owned(),
                source,
            };
            let name = key.parse().map_err(wrong)?;
            let meaning = match value.parse() {
                Ok(address) => Meaning::Address(address),
                Err(_) => Meaning::Alias(value.parse().map_err(wrong)?),
            };
            meanings.insert(name, meaning);
        }
        Ok(Self {
            meanings,
            ..Self::default()
        })
    }

    /// Adds the names of the network's own addresses, which nobody may redefine.
    #[must_use]
    pub fn with_network(mut self, network: GuestNetwork, host: &Name, guest: &Name) -> Self {
        for (name, address) in [(host, network.gateway), (guest, network.guest)] {
            let address = IpAddr::V4(address);
            self.meanings
                .insert(name.clone(), Meaning::Address(address));
            self.pointers
                .insert(Name::of_address(address), name.clone());
        }
        let [a, b, c, _] = network.gateway.octets();
        let zone = format!("{c}.{b}.{a}.in-addr.arpa");
        self.reverse_zone = zone.parse().ok();
        self
    }

    /// Looks a question up. `name` is folded, in its wire form.
    #[must_use]
    pub fn find(&self, name: &[u8], kind: RecordType) -> Found<'_> {
        let Some(meaning) = self.meanings.get(name) else {
            return self.find_pointer(name, kind);
        };
        let target = match meaning {
            Meaning::Address(address) => return fitting(*address, kind),
            Meaning::Alias(target) => target,
        };
        match self.follow(target) {
            _ if matches!(kind, RecordType::CNAME | RecordType::ANY) => Found::Alias(target),
            Ok(address) => fitting(address, kind),
            Err(last) => Found::RecordsOf(last),
        }
    }

    /// Whether anything is said of a name here.
    #[must_use]
    pub fn knows(&self, name: &Name) -> bool {
        self.meanings.contains_key(name)
    }

    /// Follows aliases to an address, or else to the first name that is ordinary or was seen before.
    fn follow<'a>(&'a self, first: &'a Name) -> Result<IpAddr, &'a Name> {
        let mut name = first;
        for _ in 0..=self.meanings.len() {
            match self.meanings.get(name) {
                Some(Meaning::Address(address)) => return Ok(*address),
                Some(Meaning::Alias(next)) => name = next,
                None => return Err(name),
            }
        }
        Err(name)
    }

    fn find_pointer(&self, name: &[u8], kind: RecordType) -> Found<'_> {
        let is_ours = |zone: &Name| is_within(name, zone.as_bytes());
        if !self.reverse_zone.as_ref().is_some_and(is_ours) {
            return Found::Nothing;
        }
        match self.pointers.get(name) {
            Some(target) if kind == RecordType::PTR => Found::Pointer(target),
            Some(_) => Found::NoData,
            None => Found::NoSuchName,
        }
    }
}

fn fitting<'a>(address: IpAddr, kind: RecordType) -> Found<'a> {
    match (kind, address) {
        (RecordType::A | RecordType::ANY, IpAddr::V4(_))
        | (RecordType::AAAA | RecordType::ANY, IpAddr::V6(_)) => Found::Address(address),
        _ => Found::NoData,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(hosts: &[(&str, &str)]) -> StaticNames {
        let network = GuestNetwork {
            gateway: Ipv4Addr::new(192, 168, 5, 2),
            guest: Ipv4Addr::new(192, 168, 5, 15),
        };
        let name = |text: &str| text.parse().unwrap();
        StaticNames::new(hosts.iter().copied())
            .unwrap()
            .with_network(network, &name("host.lima.internal"), &name("lima-x"))
    }

    fn find<'a>(names: &'a StaticNames, name: &str, kind: RecordType) -> Found<'a> {
        names.find(name.parse::<Name>().unwrap().as_bytes(), kind)
    }

    fn address(text: &str) -> Found<'static> {
        Found::Address(text.parse().unwrap())
    }

    #[test]
    fn forced_names_win_and_the_other_family_is_empty() {
        let names = names(&[("HOST.lima.internal.", "10.0.0.1"), ("six", "fd00::1")]);
        let host = "host.Lima.internal";
        assert_eq!(find(&names, host, RecordType::A), address("192.168.5.2"));
        for kind in [RecordType::AAAA, RecordType::MX, RecordType::CNAME] {
            assert_eq!(find(&names, host, kind), Found::NoData, "{kind}");
        }
        assert_eq!(
            find(&names, "lima-x", RecordType::A),
            address("192.168.5.15")
        );
        assert_eq!(find(&names, "six", RecordType::A), Found::NoData);
        assert_eq!(find(&names, "six", RecordType::AAAA), address("fd00::1"));
        assert_eq!(
            find(&names, "a.host.lima.internal", RecordType::A),
            Found::Nothing
        );
    }

    #[test]
    fn aliases_are_followed() {
        let names = names(&[
            ("cname2", "cname1"),
            ("cname1", "host1"),
            ("host1", "10.0.0.1"),
            ("mine", "example.com"),
        ]);
        let name: Name = "cname1".parse().unwrap();
        let ordinary: Name = "example.com".parse().unwrap();
        assert_eq!(find(&names, "cname2", RecordType::A), address("10.0.0.1"));
        assert_eq!(find(&names, "cname2", RecordType::AAAA), Found::NoData);
        assert_eq!(
            find(&names, "cname2", RecordType::CNAME),
            Found::Alias(&name)
        );
        assert_eq!(find(&names, "cname2", RecordType::MX), Found::NoData);
        for kind in [RecordType::A, RecordType::MX, RecordType::TXT] {
            assert_eq!(find(&names, "mine", kind), Found::RecordsOf(&ordinary));
        }
        for kind in [RecordType::CNAME, RecordType::ANY] {
            assert_eq!(find(&names, "mine", kind), Found::Alias(&ordinary));
        }
    }

    #[test]
    fn circles_end() {
        let names = names(&[("self", "self"), ("a", "b"), ("b", "a")]);
        for name in ["self", "a", "b"] {
            assert!(
                matches!(find(&names, name, RecordType::A), Found::RecordsOf(_)),
                "{name}"
            );
        }
    }

    #[test]
    fn the_networks_own_addresses_have_names_and_no_others() {
        let names = names(&[]);
        let host: Name = "host.lima.internal".parse().unwrap();
        let two = "2.5.168.192.in-addr.arpa";
        assert_eq!(find(&names, two, RecordType::PTR), Found::Pointer(&host));
        assert_eq!(find(&names, two, RecordType::A), Found::NoData);
        let nine = "9.5.168.192.in-addr.arpa";
        assert_eq!(find(&names, nine, RecordType::PTR), Found::NoSuchName);
        let elsewhere = "9.6.168.192.in-addr.arpa";
        assert_eq!(find(&names, elsewhere, RecordType::PTR), Found::Nothing);
    }

    #[test]
    fn what_is_no_name_is_refused_by_its_key() {
        for hosts in [
            ("a..b", "10.0.0.1"),
            ("a", "no..name"),
            ("", "1.1.1.1"),
            ("a", ""),
        ] {
            let why = StaticNames::new([hosts]).unwrap_err();
            assert!(why.to_string().contains(&format!("{:?}", hosts.0)), "{why}");
        }
    }
}
