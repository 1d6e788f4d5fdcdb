//! `resolv.conf(5)`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};

use crate::wire::name::Name;

/// The C library asks no more than these.
const MAX_SERVERS: usize = 3;
/// Old C libraries look in no more than these; more would be many queries for a name that is nowhere.
const MAX_SEARCH: usize = 6;
pub(super) const PORT: u16 = 53;

/// The file's contents, as far as they matter here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResolvConf {
    /// `nameserver` lines, in order.
    pub servers: Vec<SocketAddr>,
    /// The last `search` or `domain` line.
    pub search: Vec<Name>,
}

impl ResolvConf {
    /// Reads the file's text. Lines that make no sense are ignored, as the C library does.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut conf = Self::default();
        for line in text.lines() {
            // Comments begin a line, and nowhere else.
            if line.starts_with(['#', ';']) {
                continue;
            }
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let server = words.next().and_then(server);
                    if conf.servers.len() < MAX_SERVERS {
                        conf.servers.extend(server);
                    }
                }
                Some("search" | "domain") => {
                    let domains = words.filter_map(|word| word.parse().ok());
                    conf.search = domains
                        .filter(|domain| *domain != Name::root())
                        .take(MAX_SEARCH)
                        .collect();
                }
                _ => {}
            }
        }
        conf
    }

    /// The servers, or else the C library's default.
    #[must_use]
    pub(crate) fn servers_or_loopback(&self) -> Vec<SocketAddr> {
        if self.servers.is_empty() {
            return vec![SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT)];
        }
        self.servers.clone()
    }
}

/// An address, with the interface that a link-local one is on (`fe80::1%eth0`). With a port it is in brackets, as OpenBSD has it; files
/// of Linux have none.
fn server(word: &str) -> Option<SocketAddr> {
    let in_brackets = word
        .strip_prefix('[')
        .and_then(|rest| rest.split_once("]:"));
    let (word, port) = match in_brackets {
        Some((address, port)) => (address, port.parse().ok()?),
        None => (word, PORT),
    };
    let (address, scope) = word.split_once('%').unwrap_or((word, ""));
    match address.parse().ok()? {
        IpAddr::V4(v4) => scope.is_empty().then(|| SocketAddr::new(v4.into(), port)),
        IpAddr::V6(v6) => {
            let index = match scope {
                "" => 0,
                number if number.bytes().all(|byte| byte.is_ascii_digit()) => {
                    number.parse().ok()?
                }
                name => crate::sys::interface_index(name)?,
            };
            Some(SocketAddrV6::new(v6, port, 0, index).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makes_sense_is_taken() {
        let conf = ResolvConf::parse(
            "# comment\n; comment\nnameserver\nnameserver one\nnameserver 10.0.0.1 # trailing\n\
             \tnameserver\tfe80::1%1\nnameserver ::1\nnameserver 10.0.0.4\n\
             domain old.example\nsearch . a.example b..c b.example\noptions ndots:5\n",
        );
        let servers: Vec<String> = conf.servers.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["10.0.0.1:53", "[fe80::1%1]:53", "[::1]:53"]);
        let search: Vec<String> = conf.search.iter().map(ToString::to_string).collect();
        assert_eq!(search, ["a.example.", "b.example."]);
        let ports = ResolvConf::parse(
            "nameserver 10.0.0.1:5353\nnameserver [10.0.0.2]\nnameserver [10.0.0.3]:x\n\
             nameserver [10.0.0.4]:5354\nnameserver [fe80::1%1]:5355\n",
        );
        let servers: Vec<String> = ports.servers.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["10.0.0.4:5354", "[fe80::1%1]:5355"]);
        let unknown = ResolvConf::parse("nameserver fe80::1%no-such-interface\n");
        assert_eq!(unknown, ResolvConf::default());
        assert_eq!(unknown.servers_or_loopback()[0].to_string(), "127.0.0.1:53");
    }
}
