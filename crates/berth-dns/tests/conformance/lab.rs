//! A name server of ours on a host that a test makes up.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};

use berth_dns::host::{HostFiles, HostKind};
use berth_dns::statics::{GuestNetwork, StaticNames};
use berth_dns::{NameServer, Policy, ServerReport, Setup, Sockets};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::client::Client;

/// What a test's host and instance look like.
pub(crate) struct Plan {
    pub(crate) hosts: Vec<(&'static str, &'static str)>,
    pub(crate) ipv6: bool,
    pub(crate) etc_hosts: &'static str,
    pub(crate) nsswitch: &'static str,
    pub(crate) search: &'static str,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            hosts: Vec::new(),
            ipv6: true,
            etc_hosts: "",
            nsswitch: "hosts: files dns\n",
            search: "",
        }
    }
}

/// A running name server; ends with the value.
pub(crate) struct Lab {
    root: TempDir,
    server: NameServer,
    pub(crate) ports: (u16, u16),
    search: &'static str,
    cancel: CancellationToken,
    tracker: TaskTracker,
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

impl Lab {
    /// Asks the servers at these addresses, at one port.
    pub(crate) fn new(plan: &Plan, servers: &[Ipv4Addr], server_port: u16) -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("etc")).unwrap();
        let etc = |name: &str, text: &str| fs::write(root.path().join("etc").join(name), text);
        etc("hosts", plan.etc_hosts).unwrap();
        etc("nsswitch.conf", plan.nsswitch).unwrap();
        etc("resolv.conf", &resolv_conf(servers, plan.search)).unwrap();
        let name = |text: &str| text.parse().unwrap();
        let network = GuestNetwork {
            gateway: Ipv4Addr::new(192, 168, 5, 2),
            guest: Ipv4Addr::new(192, 168, 5, 15),
        };
        let statics = StaticNames::new(plan.hosts.iter().copied()).unwrap();
        let statics = statics.with_network(network, &name("host.lima.internal"), &name("lima-x"));
        let setup = Setup {
            policy: Policy {
                statics,
                ipv6: plan.ipv6,
                network: Some(network),
            },
            host: HostKind::Linux,
            files: HostFiles {
                server_port,
                ..HostFiles::beneath(root.path())
            },
        };
        let sockets = bind();
        let ports = sockets.ports();
        let (tracker, cancel) = (TaskTracker::new(), CancellationToken::new());
        let server = NameServer::start(sockets, setup, &tracker, &cancel).unwrap();
        Self {
            root,
            server,
            ports,
            search: plan.search,
            cancel,
            tracker,
        }
    }

    /// The host is told of other servers.
    pub(crate) fn move_to(&self, servers: &[Ipv4Addr]) {
        let etc = self.root.path().join("etc");
        let text = resolv_conf(servers, self.search);
        fs::write(etc.join("resolv.conf.new"), text).unwrap();
        fs::rename(etc.join("resolv.conf.new"), etc.join("resolv.conf")).unwrap();
    }

    /// Writes the host's `/etc/hosts`.
    pub(crate) fn write_hosts(&self, text: &str) {
        fs::write(self.root.path().join("etc/hosts"), text).unwrap();
    }

    pub(crate) fn report(&self) -> ServerReport {
        self.server.report()
    }

    /// Waits until the server has noticed a change of its host.
    pub(crate) async fn noticed(&self, before: u64) {
        while self.report().counts.changes <= before {
            tokio::task::yield_now().await;
        }
    }

    /// How many tasks the server has.
    #[cfg_attr(windows, expect(dead_code, reason = "its test needs nsd"))]
    pub(crate) fn tasks(&self) -> usize {
        self.tracker.len()
    }

    pub(crate) async fn client(&self) -> Client {
        Client::new(self.ports).await
    }
}

/// Both at one port, because `dig` asks again over TCP at the port that it asked over UDP.
fn bind() -> Sockets {
    loop {
        let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
        if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()) {
            return Sockets { udp, tcp };
        }
    }
}

fn resolv_conf(servers: &[Ipv4Addr], search: &str) -> String {
    let mut text = String::new();
    for server in servers {
        text.push_str("nameserver ");
        text.push_str(&server.to_string());
        text.push('\n');
    }
    if !search.is_empty() {
        text.push_str("search ");
        text.push_str(search);
        text.push('\n');
    }
    text
}
