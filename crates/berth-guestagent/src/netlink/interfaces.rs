//! Interfaces and their addresses, and hearing of their changes.

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;

use super::{Attributes, Group, Message, dump, number, request, u32_at};

/// Message types, groups and attributes of `linux/rtnetlink.h`, `linux/if_link.h` and `linux/if_addr.h`.
mod route {
    pub(super) const RTM_NEWLINK: u16 = 16;
    pub(super) const RTM_GETLINK: u16 = 18;
    pub(super) const RTM_NEWADDR: u16 = 20;
    pub(super) const RTM_GETADDR: u16 = 22;
    pub(super) const IFLA_ADDRESS: u16 = 1;
    pub(super) const IFLA_IFNAME: u16 = 3;
    pub(super) const IFA_ADDRESS: u16 = 1;
    pub(super) const IFA_LOCAL: u16 = 2;
    pub(super) const RT_SCOPE_UNIVERSE: u8 = 0;
    pub(super) const RTMGRP_LINK: u32 = 0x1;
    pub(super) const RTMGRP_IPV4_IFADDR: u32 = 0x10;
}

/// Length of `struct ifinfomsg`.
const LINK_BODY: usize = 16;
/// Length of `struct ifaddrmsg`.
const ADDRESS_BODY: usize = 8;

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Interface {
    /// Its name.
    pub(crate) name: String,
    /// Hardware address, lower case with colons; empty where there is none.
    pub(crate) mac: String,
    /// Its IPv4 addresses that are valid beyond the machine and the link.
    pub(crate) addresses: Vec<Ipv4Addr>,
}

/// All interfaces as they are now.
pub(crate) fn interfaces() -> io::Result<Vec<Interface>> {
    let links = request(route::RTM_GETLINK, &[0; LINK_BODY]);
    let mut found = dump(None, &links, BTreeMap::new, |found, message| {
        found.extend(link(message));
    })?;
    let addresses = request(route::RTM_GETADDR, &[0; ADDRESS_BODY]);
    let addresses = dump(None, &addresses, Vec::new, |found, message| {
        found.extend(global_address(message));
    })?;
    for (index, address) in addresses {
        if let Some(interface) = found.get_mut(&index) {
            interface.addresses.push(address);
        }
    }
    Ok(found.into_values().collect())
}

/// Changes of interfaces and of their IPv4 addresses.
#[derive(Debug)]
pub(crate) struct Changes(Group);

impl Changes {
    /// Begins to listen. What [`interfaces`] shows after this can only change with a change.
    pub(crate) fn listen() -> io::Result<Self> {
        Group::join(None, route::RTMGRP_LINK | route::RTMGRP_IPV4_IFADDR).map(Self)
    }

    /// Waits for a change.
    pub(crate) async fn next(&self) -> io::Result<()> {
        // What changed is asked for anew, so the message itself does not matter.
        self.0.next(|_| true).await
    }
}

/// `struct ifinfomsg`: family, padding, type (u16), index (i32), flags, change.
fn link(message: Message<'_>) -> Option<(u32, Interface)> {
    if message.kind != route::RTM_NEWLINK {
        return None;
    }
    let index = u32_at(message.payload, 4)?;
    let mut interface = Interface::default();
    for (kind, value) in Attributes(message.payload.get(LINK_BODY..)?) {
        match kind {
            route::IFLA_ADDRESS => interface.mac = mac(value),
            route::IFLA_IFNAME => interface.name = text(value),
            _ => {}
        }
    }
    Some((index, interface))
}

/// `struct ifaddrmsg`: family, prefix length, flags, scope, index (u32).
fn global_address(message: Message<'_>) -> Option<(u32, Ipv4Addr)> {
    if message.kind != route::RTM_NEWADDR {
        return None;
    }
    let &[family, _, _, scope] = message.payload.first_chunk()?;
    if (family, scope) != (number::AF_INET, route::RT_SCOPE_UNIVERSE) {
        return None;
    }
    let index = u32_at(message.payload, 4)?;
    let attributes: Vec<_> = Attributes(message.payload.get(ADDRESS_BODY..)?).collect();
    // On a point-to-point link IFA_ADDRESS is the other end.
    let of = |wanted| attributes.iter().find(|(kind, _)| *kind == wanted);
    let (_, bytes) = of(route::IFA_LOCAL).or_else(|| of(route::IFA_ADDRESS))?;
    let octets: [u8; 4] = (*bytes).try_into().ok()?;
    Some((index, octets.into()))
}

fn mac(bytes: &[u8]) -> String {
    let digits: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    digits.join(":")
}

fn text(bytes: &[u8]) -> String {
    let end = bytes
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::{HEADER, Messages, aligned};

    #[test]
    fn sees_the_loopback_interface_of_this_machine() {
        let interfaces = interfaces().unwrap();
        let lo = interfaces
            .iter()
            .find(|interface| interface.name == "lo")
            .unwrap();
        assert_eq!(lo.mac, "00:00:00:00:00:00");
        assert!(lo.addresses.is_empty(), "127.0.0.1 has host scope: {lo:?}");
    }

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(4 + value.len()).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(aligned(bytes.len()), 0);
        bytes
    }

    fn address(scope: u8, attributes: &[Vec<u8>]) -> Vec<u8> {
        let body = [&[number::AF_INET, 24, 0, scope][..], &7_u32.to_ne_bytes()].concat();
        [body, attributes.concat()].concat()
    }

    #[test]
    fn an_address_is_the_local_one_and_global() {
        let local = attribute(route::IFA_LOCAL, &[192, 168, 5, 15]);
        let other = attribute(route::IFA_ADDRESS, &[10, 0, 0, 1]);
        let parse = |payload: &[u8]| {
            global_address(Message {
                kind: route::RTM_NEWADDR,
                flags: 0,
                port: 0,
                payload,
            })
        };
        let found = parse(&address(0, &[other.clone(), local]));
        assert_eq!(found, Some((7, Ipv4Addr::new(192, 168, 5, 15))));
        assert_eq!(
            parse(&address(0, std::slice::from_ref(&other))),
            Some((7, Ipv4Addr::new(10, 0, 0, 1)))
        );
        assert_eq!(parse(&address(253, &[other])), None, "link scope");
    }

    #[test]
    fn a_message_cut_anywhere_is_no_panic_and_no_loop() {
        let link = [
            vec![0; LINK_BODY],
            attribute(route::IFLA_IFNAME, b"eth0\0"),
            attribute(route::IFLA_ADDRESS, &[0x52, 0x55, 0x55, 1, 2, 3]),
        ]
        .concat();
        let length = u32::try_from(HEADER + link.len()).unwrap();
        let mut datagram = [&length.to_ne_bytes()[..], &route::RTM_NEWLINK.to_ne_bytes()].concat();
        datagram.resize(HEADER, 0);
        datagram.extend(link);
        let whole: Vec<_> = Messages(&datagram).filter_map(super::link).collect();
        assert_eq!(whole[0].1.name, "eth0");
        assert_eq!(whole[0].1.mac, "52:55:55:01:02:03");
        for cut in 0..datagram.len() {
            assert_eq!(Messages(&datagram[..cut]).count(), 0);
        }
        assert_eq!(
            Messages(&[0; 64]).take(2).count(),
            0,
            "length 0 must not repeat"
        );
        assert_eq!(Attributes(&[0; 64]).take(2).count(), 0);
    }
}
