//! Which sockets are services.

use std::fs;
use std::io;
use std::ops::RangeInclusive;

use super::PortInterest;
use crate::guest::Guest;
use crate::sys::bpf::PortBits;

/// The ports that the system gives to whoever does not ask for one.
const LOCAL_PORT_RANGE: &str = "/proc/sys/net/ipv4/ip_local_port_range";

/// What it is unless somebody has changed it.
const USUAL_RANGE: RangeInclusive<u16> = 32_768..=60_999;

/// UDP ports of what every system runs for itself: DHCP clients (68, 546), chrony's commands (323), mDNS (5353), LLMNR (5355).
const SYSTEM_UDP: [u16; 5] = [68, 323, 546, 5353, 5355];

/// Whether a UDP socket counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It does.
    Counts,
    /// If its program asked for the port.
    CountsByNumber,
    /// It does not.
    Not,
}

/// Tells services from clients. TCP sockets that listen are always services.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct UdpFilter {
    interest: PortInterest,
    /// Inclusive.
    given_out: RangeInclusive<u16>,
}

impl UdpFilter {
    /// Filters as the host wants it.
    pub(super) fn new(interest: PortInterest) -> Self {
        Self {
            interest,
            given_out: USUAL_RANGE,
        }
    }

    /// Takes notice of the system's settings.
    pub(super) fn refresh(&mut self, guest: &Guest) {
        // Where they cannot be read, those before hold.
        if let Ok(range) = local_port_range(guest) {
            self.given_out = range;
        }
    }

    /// Judges a UDP socket by its port.
    pub(super) fn verdict(&self, port: u16) -> Verdict {
        if self.is_named(port) {
            Verdict::Counts
        } else if SYSTEM_UDP.contains(&port) && !self.interest.system_udp {
            Verdict::Not
        } else if self.given_out.contains(&port) {
            Verdict::CountsByNumber
        } else {
            Verdict::Counts
        }
    }

    fn is_named(&self, port: u16) -> bool {
        let mut ranges = self.interest.udp_ranges.iter();
        ranges.any(|range| range.contains(&port))
    }

    /// The ports that are named.
    pub(super) fn named(&self) -> Box<PortBits> {
        let mut bits: Box<PortBits> = Box::new([0; size_of::<PortBits>()]);
        for port in self.interest.udp_ranges.iter().cloned().flatten() {
            bits[usize::from(port / 8)] |= 1 << (port % 8);
        }
        bits
    }
}

fn local_port_range(guest: &Guest) -> io::Result<RangeInclusive<u16>> {
    let text = fs::read_to_string(guest.path(LOCAL_PORT_RANGE))?;
    let ports: Vec<u16> = text.split_whitespace().flat_map(str::parse).collect();
    match ports[..] {
        [first, last] => Ok(first..=last),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::boot::testing::Scene;

    fn interest(udp_ranges: &[RangeInclusive<u16>], system_udp: bool) -> PortInterest {
        PortInterest {
            udp_ranges: udp_ranges.to_vec(),
            system_udp,
        }
    }

    #[test]
    fn services_are_told_from_clients_and_from_the_system() {
        let filter = UdpFilter::new(interest(&[], false));
        for (port, expected) in [
            (1, Verdict::Counts),
            (53, Verdict::Counts),
            (68, Verdict::Not),
            (323, Verdict::Not),
            (546, Verdict::Not),
            (5353, Verdict::Not),
            (5355, Verdict::Not),
            (32_767, Verdict::Counts),
            (32_768, Verdict::CountsByNumber),
            (60_999, Verdict::CountsByNumber),
            (61_000, Verdict::Counts),
            (65_535, Verdict::Counts),
        ] {
            assert_eq!(filter.verdict(port), expected, "{port}");
        }
    }

    #[test]
    fn what_is_asked_for_counts() {
        let named = UdpFilter::new(interest(&[68..=68, 40_000..=40_001], false));
        for (port, expected) in [
            (68, Verdict::Counts),
            (5353, Verdict::Not),
            (39_999, Verdict::CountsByNumber),
            (40_001, Verdict::Counts),
        ] {
            assert_eq!(named.verdict(port), expected, "{port}");
        }
        let system = UdpFilter::new(interest(&[], true));
        assert_eq!(system.verdict(5353), Verdict::Counts);
    }

    #[test]
    fn the_named_ports_are_bits() {
        let filter = UdpFilter::new(interest(&[0..=1, 15..=16, 65_535..=65_535], false));
        let bits = filter.named();
        assert_eq!((bits[0], bits[1], bits[2]), (0b11, 0b1000_0000, 1));
        assert_eq!(bits[8191], 0b1000_0000);
        let count: u32 = bits.iter().map(|byte| byte.count_ones()).sum();
        assert_eq!(count, 5);
    }

    #[test]
    fn the_systems_range_is_followed() {
        let scene = Scene::new();
        let mut filter = UdpFilter::new(interest(&[], false));
        scene.write(LOCAL_PORT_RANGE, "1024\t2048\n");
        filter.refresh(&scene.guest);
        assert_eq!(filter.verdict(1500), Verdict::CountsByNumber);
        assert_eq!(filter.verdict(40_000), Verdict::Counts);
        for broken in ["", "1024", "a b", "1 2 3", "1 70000"] {
            scene.write(LOCAL_PORT_RANGE, broken);
            filter.refresh(&scene.guest);
            assert_eq!(filter.given_out, 1024..=2048, "{broken}");
        }
    }
}
