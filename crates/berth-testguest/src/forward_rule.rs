//! `hostfwd` rules: `tcp:[HOST]:PORT-[GUEST]:PORT`.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Result, bail};

/// One rule: a TCP port of this host that leads to one of the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ForwardRule {
    /// The rule as written.
    pub(crate) text: String,
    /// Where to listen; port 0 is any free one.
    pub(crate) listen: SocketAddrV4,
    /// Where to connect to.
    pub(crate) target: SocketAddrV4,
}

impl ForwardRule {
    /// Parses a rule for a guest with this address. Errors read like QEMU's.
    pub(crate) fn parse(text: &str, guest: Ipv4Addr) -> Result<Self> {
        let invalid = |why: &str| format!("Invalid host forwarding rule '{text}' ({why})");
        let Some((protocol, rest)) = text.split_once(':') else {
            bail!(invalid("No : separators"));
        };
        match protocol {
            "tcp" | "" => {}
            "udp" => bail!("'{text}': this machine forwards TCP only"),
            _ => bail!(invalid("Bad protocol name")),
        }
        let Some((listen, target)) = rest.split_once('-') else {
            bail!(invalid("Bad host port separator"));
        };
        let Some(listen) = parse_endpoint(listen, Ipv4Addr::UNSPECIFIED) else {
            bail!(invalid("Bad host port"));
        };
        let Some(target) = parse_endpoint(target, guest).filter(|target| target.port() != 0) else {
            bail!(invalid("Bad guest port"));
        };
        Ok(Self {
            text: text.to_owned(),
            listen,
            target,
        })
    }

    /// Parses what `hostfwd_remove` names: a rule up to its `-`.
    pub(crate) fn parse_listen(text: &str) -> Option<SocketAddrV4> {
        let rest = text
            .strip_prefix("tcp:")
            .or_else(|| text.strip_prefix(':'))?;
        parse_endpoint(rest, Ipv4Addr::UNSPECIFIED)
    }
}

fn parse_endpoint(text: &str, default: Ipv4Addr) -> Option<SocketAddrV4> {
    let (address, port) = text.rsplit_once(':')?;
    let address = match address {
        "" => default,
        text => text.parse().ok()?,
    };
    Some(SocketAddrV4::new(address, port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GUEST: Ipv4Addr = Ipv4Addr::new(192, 168, 5, 15);

    #[test]
    fn rules_with_and_without_addresses() {
        let rule = ForwardRule::parse("tcp:127.0.0.1:60022-:22", GUEST).unwrap();
        assert_eq!(rule.listen, "127.0.0.1:60022".parse().unwrap());
        assert_eq!(rule.target, "192.168.5.15:22".parse().unwrap());
        let rule = ForwardRule::parse("tcp::0-192.168.5.16:80", GUEST).unwrap();
        assert_eq!(rule.listen, "0.0.0.0:0".parse().unwrap());
        assert_eq!(rule.target, "192.168.5.16:80".parse().unwrap());
    }

    #[test]
    fn what_is_wrong_is_said_as_qemu_says_it() {
        let error = |text| ForwardRule::parse(text, GUEST).unwrap_err().to_string();
        assert_eq!(
            error("foo"),
            "Invalid host forwarding rule 'foo' (No : separators)"
        );
        assert_eq!(
            error("tcp:127.0.0.1:99999-:22"),
            "Invalid host forwarding rule 'tcp:127.0.0.1:99999-:22' (Bad host port)"
        );
        assert_eq!(
            error("tcp:127.0.0.1:0-:0"),
            "Invalid host forwarding rule 'tcp:127.0.0.1:0-:0' (Bad guest port)"
        );
        assert!(error("sctp::1-:2").contains("Bad protocol name"));
        assert!(error("tcp::1").contains("Bad host port separator"));
        assert!(error("udp::1-:2").contains("TCP only"));
    }

    #[test]
    fn a_rule_is_removed_by_its_first_half() {
        let listen = ForwardRule::parse_listen("tcp:127.0.0.1:45671");
        assert_eq!(listen, Some("127.0.0.1:45671".parse().unwrap()));
        assert_eq!(ForwardRule::parse_listen("foo"), None);
    }
}
