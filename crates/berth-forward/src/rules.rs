//! Which guest address goes to which host address: the rules of `portForwards` and how they match.
//!
//! The first rule that matches decides. The list is: guest port 22, the guest port with the number of the host's SSH port, and
//! ports of the guest agent are never forwarded; then the rules of the configuration, in order; then the default, which sends every
//! loopback port of the guest to the same port of the host's loopback.
//!
//! Where this differs from Lima on purpose: port 5355 (LLMNR) stays inside unless a rule speaks of it; static rules may be ranges and
//! may be UDP; a static rule holds back only the ports that it forwards itself; a rule that leads to a unix socket says nothing
//! about UDP.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use berth_config::model::{HostIp, PortForward, Proto};

use crate::address::{HostAddr, Transport};

/// systemd-resolved listens there in every guest that has it. Lima forwards it, and only the first instance gets the host's port.
const LLMNR: u16 = 5355;
const GUEST_SSH_PORT: u16 = 22;
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const ANY_ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// What becomes of a socket that listens in the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Forward it.
    Forward(Route),
    /// A static rule forwards it since the start, whoever listens.
    Static(Route),
    /// Leave it alone.
    Ignore(Ignored),
}

/// Where a guest socket leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Address on the host.
    pub host: HostAddr,
    /// Place of the rule that says so. Where several routes lead to one host address, the one with the lowest has it.
    pub rank: usize,
}

/// Why a guest socket is not forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ignored {
    /// It is the guest's own sshd.
    GuestSsh,
    /// Its number is that of the host's SSH port of this instance, which is taken.
    HostSshPort,
    /// The guest agent listens there.
    GuestAgent,
    /// `portForwards[INDEX]` has `ignore: true`.
    Rule(usize),
    /// It belongs to the guest's own system, and no rule of the configuration speaks of it.
    System,
    /// No rule matches its address.
    NoRule,
}

/// A port forward that exists from the start, whether anything listens in the guest or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StaticForward {
    /// Transport protocol.
    pub transport: Transport,
    /// Address in the guest.
    pub guest: SocketAddr,
    /// Where it leads to.
    pub route: Route,
}

/// A forward of a unix socket in the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketForward {
    /// Absolute path in the guest.
    pub guest: String,
    /// Where it leads to.
    pub route: Route,
    /// Whether the guest's path listens and the host's socket is dialled.
    pub reverse: bool,
}

/// The effective rules of one instance.
#[derive(Debug, Clone)]
pub struct RuleList {
    rules: Vec<Rule>,
    sockets: Vec<SocketForward>,
}

#[derive(Debug, Clone)]
struct Rule {
    origin: Origin,
    proto: Proto,
    guest: GuestAddresses,
    ports: PortSpan,
    action: Action,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Origin {
    GuestSsh,
    HostSshPort,
    GuestAgent,
    Configured { index: usize, is_static: bool },
    System,
    Default,
}

#[derive(Debug, Clone)]
enum Action {
    Ignore,
    ToPorts { ip: HostIp, first: u16 },
    ToSocket(PathBuf),
}

/// The guest addresses that a rule speaks of.
#[derive(Debug, Clone, Copy)]
enum GuestAddresses {
    All,
    One(IpAddr),
}

#[derive(Debug, Clone, Copy)]
struct PortSpan {
    first: u16,
    last: u16,
}

/// Ports of the guest that are never forwarded, whatever address they listen on and whatever the rules say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reserved {
    /// The host's SSH port of the instance.
    pub ssh_port: u16,
    /// What the guest agent itself listens on.
    pub agent_ports: Vec<u16>,
}

impl RuleList {
    /// Builds the list from the rules of the configuration.
    #[must_use]
    pub fn new(configured: &[PortForward], reserved: &Reserved) -> Self {
        let mut rules = vec![
            Rule::block(Origin::GuestSsh, GUEST_SSH_PORT),
            Rule::block(Origin::HostSshPort, reserved.ssh_port),
        ];
        let agent_ports = reserved.agent_ports.iter();
        rules.extend(agent_ports.map(|port| Rule::block(Origin::GuestAgent, *port)));
        let port_rules = configured.iter().enumerate();
        rules.extend(
            port_rules
                .filter(|(_, rule)| rule.guest_socket.is_empty())
                .map(|(index, rule)| Rule::configured(index, rule)),
        );
        rules.push(Rule::block(Origin::System, LLMNR));
        rules.push(Rule::loopback_default());
        let sockets = configured.iter().enumerate().filter(|(_, rule)| {
            !rule.guest_socket.is_empty() && !rule.ignore && rule.proto != Proto::Udp
        });
        let sockets = sockets
            .map(|(index, rule)| SocketForward::configured(index, rule))
            .collect();
        Self { rules, sockets }
    }

    /// Decides about a socket that listens at `guest`.
    #[must_use]
    pub fn decide(&self, transport: Transport, guest: SocketAddr) -> Decision {
        let Some(rule) = self.first_match(transport, guest) else {
            return Decision::Ignore(Ignored::NoRule);
        };
        match rule.route(guest.port()) {
            Some(route) if rule.is_static() && rule.static_transport() == transport => {
                Decision::Static(route)
            }
            Some(route) => Decision::Forward(route),
            None => Decision::Ignore(rule.origin.ignores()),
        }
    }

    /// Lists every port of every static rule, in order. A rule with `proto: any` stands for TCP; UDP only if it says `udp`.
    ///
    /// An earlier rule that matches the same guest address decides the host address or prevents the forward, as for a
    /// port that the guest reports.
    pub fn static_forwards(&self) -> impl Iterator<Item = StaticForward> + '_ {
        let statics = self
            .rules
            .iter()
            .filter(|rule| rule.is_static() && !matches!(rule.action, Action::Ignore));
        statics.flat_map(move |rule| {
            let transport = rule.static_transport();
            let ip = rule.guest.representative();
            (rule.ports.first..=rule.ports.last).filter_map(move |port| {
                let guest = SocketAddr::new(ip, port);
                let route = self.first_match(transport, guest)?.route(port)?;
                Some(StaticForward {
                    transport,
                    guest,
                    route,
                })
            })
        })
    }

    /// Lists the forwards of unix sockets in the guest, static or not.
    #[must_use]
    pub fn socket_forwards(&self) -> &[SocketForward] {
        &self.sockets
    }

    /// Whether the rules forward no port that a guest can report with this transport, whatever its address.
    ///
    /// Lima asks only for `ignore` and the full range, and so calls itself disabled while it forwards.
    #[must_use]
    pub fn is_disabled(&self, transport: Transport) -> bool {
        let configured = self
            .rules
            .iter()
            .filter(|rule| matches!(rule.origin, Origin::Configured { .. }));
        for rule in configured {
            if !matches!(rule.action, Action::Ignore) {
                return false;
            }
            if rule.carries(transport)
                && matches!(rule.guest, GuestAddresses::All)
                && rule.ports.is_everything()
            {
                return true;
            }
        }
        false
    }

    fn first_match(&self, transport: Transport, guest: SocketAddr) -> Option<&Rule> {
        let ip = guest.ip().to_canonical();
        self.rules
            .iter()
            .find(|rule| rule.matches(transport, ip, guest.port()))
    }
}

impl Rule {
    fn block(origin: Origin, port: u16) -> Self {
        Self {
            origin,
            proto: Proto::Any,
            guest: GuestAddresses::All,
            ports: PortSpan {
                first: port,
                last: port,
            },
            action: Action::Ignore,
        }
    }

    fn loopback_default() -> Self {
        Self {
            origin: Origin::Default,
            proto: Proto::Any,
            guest: GuestAddresses::One(LOOPBACK),
            ports: PortSpan::EVERYTHING,
            action: Action::ToPorts {
                ip: HostIp::Address(LOOPBACK),
                first: PortSpan::EVERYTHING.first,
            },
        }
    }

    fn configured(index: usize, rule: &PortForward) -> Self {
        let action = match &rule.host_socket {
            _ if rule.ignore => Action::Ignore,
            Some(path) => Action::ToSocket(path.clone()),
            None => Action::ToPorts {
                ip: rule.host_ip,
                first: rule.host_port_range[0],
            },
        };
        Self {
            origin: Origin::Configured {
                index,
                is_static: rule.is_static,
            },
            proto: rule.proto,
            guest: GuestAddresses::configured(rule),
            ports: PortSpan {
                first: rule.guest_port_range[0],
                last: rule.guest_port_range[1],
            },
            action,
        }
    }

    fn matches(&self, transport: Transport, ip: IpAddr, port: u16) -> bool {
        if !self.carries(transport) || !self.ports.contains(port) || !self.guest.include(ip) {
            return false;
        }
        // A rule that ignores one address says nothing about a socket that listens on all of them.
        let ignores_one_address = matches!(self.action, Action::Ignore)
            && matches!(self.guest, GuestAddresses::One(rule) if !rule.is_unspecified());
        !(ignores_one_address && ip.is_unspecified())
    }

    fn carries(&self, transport: Transport) -> bool {
        // A unix socket has no datagrams to carry UDP in, so such a rule speaks of TCP only.
        let to_socket = matches!(self.action, Action::ToSocket(_));
        match (self.proto, transport) {
            (Proto::Any, Transport::Udp) => !to_socket,
            (Proto::Any, Transport::Tcp) => true,
            (Proto::Tcp, transport) => transport == Transport::Tcp,
            (Proto::Udp, transport) => transport == Transport::Udp && !to_socket,
        }
    }

    fn static_transport(&self) -> Transport {
        match self.proto {
            Proto::Udp => Transport::Udp,
            Proto::Tcp | Proto::Any => Transport::Tcp,
        }
    }

    fn is_static(&self) -> bool {
        matches!(
            self.origin,
            Origin::Configured {
                is_static: true,
                ..
            }
        )
    }

    /// `None`: not forwarded.
    fn route(&self, guest_port: u16) -> Option<Route> {
        let host = match &self.action {
            Action::Ignore => return None,
            Action::ToSocket(path) => HostAddr::Socket(path.clone()),
            Action::ToPorts { ip, first } => {
                let port = first.checked_add(guest_port.checked_sub(self.ports.first)?)?;
                HostAddr::new(*ip, port)
            }
        };
        let rank = self.origin.rank();
        Some(Route { host, rank })
    }
}

impl Origin {
    fn rank(self) -> usize {
        match self {
            Self::Configured { index, .. } => index,
            _ => usize::MAX,
        }
    }

    /// What it means that a rule of this origin leads nowhere.
    fn ignores(self) -> Ignored {
        match self {
            Self::GuestSsh => Ignored::GuestSsh,
            Self::HostSshPort => Ignored::HostSshPort,
            Self::GuestAgent => Ignored::GuestAgent,
            Self::Configured { index, .. } => Ignored::Rule(index),
            Self::System => Ignored::System,
            Self::Default => Ignored::NoRule,
        }
    }
}

impl GuestAddresses {
    fn configured(rule: &PortForward) -> Self {
        let ip = rule.guest_ip.to_canonical();
        if ip.is_unspecified() && !rule.guest_ip_must_be_zero {
            Self::All
        } else {
            Self::One(ip)
        }
    }

    fn include(self, ip: IpAddr) -> bool {
        match self {
            Self::All => true,
            Self::One(rule) => {
                ip.is_unspecified()
                    || ip == rule
                    || (ip == IpAddr::V6(Ipv6Addr::LOCALHOST) && rule == LOOPBACK)
            }
        }
    }

    /// An address that a static forward of the rule dials in the guest.
    fn representative(self) -> IpAddr {
        match self {
            Self::All => ANY_ADDRESS,
            Self::One(ip) => ip,
        }
    }
}

impl PortSpan {
    const EVERYTHING: Self = Self {
        first: 1,
        last: u16::MAX,
    };

    fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }

    fn is_everything(self) -> bool {
        self.first <= Self::EVERYTHING.first && self.last == Self::EVERYTHING.last
    }
}

impl SocketForward {
    fn configured(rank: usize, rule: &PortForward) -> Self {
        let host = match &rule.host_socket {
            Some(path) => HostAddr::Socket(path.clone()),
            None => HostAddr::new(rule.host_ip, rule.host_port_range[0]),
        };
        Self {
            guest: rule.guest_socket.clone(),
            route: Route { host, rank },
            reverse: rule.reverse,
        }
    }
}
