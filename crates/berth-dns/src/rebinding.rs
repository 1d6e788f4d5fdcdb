//! Names of the public internet do not lead into the guest's own network or to loopback.
//!
//! Whoever owns a public name can let it point anywhere; a browser in the guest then takes the host's own services, which the
//! gateway's address reaches, for part of that site (DNS rebinding). Names that nobody can own are left alone: people let their
//! own resolver send `shop.test` to 127.0.0.1.

use std::net::{IpAddr, Ipv4Addr};

use crate::statics::GuestNetwork;
use crate::wire::answer::Answer;
use crate::wire::message::{Section, address_hints};
use crate::wire::name::labels;

/// Top-level domains that the public DNS does not have (RFC 2606, 6761, 6762, 8375, 9476, and ICANN's `internal`).
const PRIVATE: [&[u8]; 9] = [
    b"alt",
    b"corp",
    b"home",
    b"internal",
    b"invalid",
    b"lan",
    b"local",
    b"localhost",
    b"test",
];

/// Whether an answer sends a public name to where it must not lead.
pub(crate) fn is_rebinding(name: &[u8], answer: &Answer, network: Option<GuestNetwork>) -> bool {
    if is_private(name) {
        return false;
    }
    answer
        .records()
        .filter(|record| record.section != Section::Authority)
        .any(|record| {
            let is_near = |address| is_near(address, network);
            record.address().is_some_and(is_near) || address_hints(&record).into_iter().any(is_near)
        })
}

/// Whether a name belongs to nobody in the public DNS: one label, a private top-level domain, `home.arpa`.
fn is_private(name: &[u8]) -> bool {
    let labels: Vec<&[u8]> = labels(name).collect();
    match labels.as_slice() {
        [] | [_] | [.., b"home", b"arpa"] => true,
        [.., last] => PRIVATE.contains(last),
    }
}

/// Loopback, "this host", or the guest's network, also inside an IPv6 address.
fn is_near(address: IpAddr, network: Option<GuestNetwork>) -> bool {
    let is_near_v4 = |v4: Ipv4Addr| {
        v4.is_loopback()
            || v4.octets()[0] == 0
            || network.is_some_and(|network| network.contains(v4))
    };
    match address {
        IpAddr::V4(v4) => is_near_v4(v4),
        IpAddr::V6(v6) => {
            // Mapped, and translated by NAT64's well-known prefix.
            let translated = v6.segments()[..6] == [0x64, 0xff9b, 0, 0, 0, 0];
            let [.., a, b, c, d] = v6.octets();
            v6.is_loopback()
                || v6.is_unspecified()
                || v6.to_ipv4_mapped().is_some_and(is_near_v4)
                || translated && is_near_v4(Ipv4Addr::new(a, b, c, d))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::RecordType;
    use crate::wire::name::Name;
    use crate::wire::query::{Query, Transport};

    fn is_refused(name: &str, address: &str) -> bool {
        let network = GuestNetwork {
            gateway: Ipv4Addr::new(192, 168, 5, 2),
            guest: Ipv4Addr::new(192, 168, 5, 15),
        };
        let name: Name = name.parse().unwrap();
        let query = Query::new(&name, RecordType::A, Transport::Udp);
        let addresses = ["10.1.1.1".parse().unwrap(), address.parse().unwrap()];
        let answer = Answer::of_addresses(&query, &addresses, 60);
        is_rebinding(name.as_bytes(), &answer, Some(network))
    }

    #[test]
    fn public_names_stay_outside() {
        for near in [
            "127.0.0.1",
            "127.1.2.3",
            "0.0.0.0",
            "192.168.5.2",
            "192.168.5.15",
            "::1",
            "::",
            "::ffff:127.0.0.1",
            "::ffff:192.168.5.2",
            "64:ff9b::192.168.5.2",
        ] {
            assert!(is_refused("evil.example.com", near), "{near}");
            for private in [
                "shop.test",
                "db.corp",
                "printer",
                "nas.home.arpa",
                "x.localhost",
            ] {
                assert!(!is_refused(private, near), "{private} at {near}");
            }
        }
        for far in [
            "10.0.0.1",
            "192.168.6.2",
            "172.16.0.1",
            "169.254.1.1",
            "fd00::1",
            "8.8.8.8",
        ] {
            assert!(!is_refused("intranet.example.com", far), "{far}");
        }
        assert!(is_refused("home.example.arpa", "127.0.0.1"));
    }
}
