//! The forwarders of one instance, as the agent builds them before the VM starts.

use berth_config::model::PortForward;

use crate::rules::{Reserved, RuleList};

/// What carries a forwarded connection into the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// The link to the guest agent.
    Link,
    /// OpenSSH's own forwarding (`LIMA_SSH_PORT_FORWARDER=true`, or a guest without an agent).
    Ssh,
}

/// The rules of one instance and what will carry its connections. Nothing listens until a
/// [`Reconciler`](crate::reconcile::Reconciler) is started with them.
#[derive(Debug)]
pub struct Forwarders {
    configured: Vec<PortForward>,
    reserved: Reserved,
    rules: RuleList,
    carrier: Carrier,
}

impl Forwarders {
    /// Builds the forwarders from `portForwards`. Binds nothing.
    #[must_use]
    pub fn new(configured: Vec<PortForward>, ssh_port: u16, carrier: Carrier) -> Self {
        let reserved = Reserved {
            ssh_port,
            agent_ports: Vec::new(),
        };
        let rules = RuleList::new(&configured, &reserved);
        Self {
            configured,
            reserved,
            rules,
            carrier,
        }
    }

    /// Takes over the SSH port that the driver got in the end; a guest port of this number is never forwarded.
    pub fn ssh_port_is(&mut self, ssh_port: u16) {
        self.reserved.ssh_port = ssh_port;
        self.rules = RuleList::new(&self.configured, &self.reserved);
    }

    /// Takes note of ports that the guest agent itself listens on; they are never forwarded.
    pub fn agent_ports_are(&mut self, ports: Vec<u16>) {
        self.reserved.agent_ports = ports;
        self.rules = RuleList::new(&self.configured, &self.reserved);
    }

    /// The effective rules.
    #[must_use]
    pub fn rules(&self) -> &RuleList {
        &self.rules
    }

    /// What will carry the connections.
    #[must_use]
    pub fn carrier(&self) -> Carrier {
        self.carrier
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::address::Transport;
    use crate::rules::{Decision, Ignored};

    #[test]
    fn a_late_ssh_port_is_blocked_and_the_early_one_freed() {
        let at = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let mut forwarders = Forwarders::new(Vec::new(), 50001, Carrier::Link);
        forwarders.ssh_port_is(50002);
        let decide = |port| forwarders.rules().decide(Transport::Tcp, at(port));
        assert_eq!(decide(50002), Decision::Ignore(Ignored::HostSshPort));
        assert!(matches!(decide(50001), Decision::Forward(_)));
        forwarders.agent_ports_are(vec![50001]);
        let decide = |port| forwarders.rules().decide(Transport::Tcp, at(port));
        assert_eq!(decide(50001), Decision::Ignore(Ignored::GuestAgent));
        assert_eq!(decide(50002), Decision::Ignore(Ignored::HostSshPort));
    }
}
