//! The host resolver: its sockets, the names it knows, and how people see it.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use berth_cidata::input::{DnsPorts, Subnet};
use berth_config::model::Config;
use berth_config::platform::HostOs;
use berth_dns::host::{HostConfig, HostFiles, HostKind};
use berth_dns::statics::{GuestNetwork, StaticNames};
use berth_dns::wire::name::Name;
use berth_dns::{NameServer, Policy, Setup, Sockets};
use berth_driver::driver::DefaultNetwork;
use berth_events::timeline::Outcome;
use berth_instance::info::{NameAnswers, NameServerInfo, NamesInfo};
use berth_instance::record::Record;

use crate::agent::HostAgent;
use crate::error::AgentError;
use crate::ports;
use crate::serve::ServeOptions;

/// Name by which the guest knows the host.
const HOST_NAME: &str = "host.lima.internal";

/// A file to read instead of `/etc/resolv.conf`.
const RESOLV_CONF: &str = "BERTH_RESOLV_CONF";

/// The host resolver of an agent that does not run yet.
#[derive(Debug)]
pub(crate) enum HostResolver {
    /// `hostResolver.enabled` is false, or the guest's network does not lead to it.
    Off,
    /// Its sockets are bound.
    Bound(Sockets, Box<Setup>),
    /// They could not be: the guest asks the network's own name server.
    Unavailable(String),
}

impl HostResolver {
    /// Binds the sockets and notes their ports. That they cannot be bound is no failure of the start.
    pub(crate) fn bind(
        options: &ServeOptions,
        config: &Config,
        network: DefaultNetwork,
        record: &mut Record,
    ) -> Result<Self, AgentError> {
        if !config.host_resolver.enabled || network != DefaultNetwork::User {
            return Ok(Self::Off);
        }
        let setup = setup(options, config)?;
        let bound = ports::bind_names(record.dns_udp_port, record.dns_tcp_port);
        let resolver = Self::of(bound, setup);
        if let Some(ports) = resolver.ports() {
            record.dns_udp_port = Some(ports.udp);
            record.dns_tcp_port = Some(ports.tcp);
        }
        Ok(resolver)
    }

    fn of(bound: io::Result<Sockets>, setup: Setup) -> Self {
        match bound {
            Ok(sockets) => Self::Bound(sockets, Box::new(setup)),
            Err(why) => Self::Unavailable(format!("cannot listen on 127.0.0.1: {why}")),
        }
    }

    /// The ports that the guest is told.
    pub(crate) fn ports(&self) -> Option<DnsPorts> {
        let Self::Bound(sockets, _) = self else {
            return None;
        };
        let (udp, tcp) = sockets.ports();
        Some(DnsPorts { udp, tcp })
    }
}

fn setup(options: &ServeOptions, config: &Config) -> Result<Setup, AgentError> {
    let hosts = config.host_resolver.hosts.iter();
    let statics = StaticNames::new(hosts.map(|(name, value)| (name.as_str(), value.as_str())));
    let network = guest_network();
    let name = |text: &str| {
        let name = text.parse::<Name>();
        name.map_err(AgentError::set_up("name the host and the guest"))
    };
    let statics = statics
        .map_err(AgentError::set_up("use the configuration"))?
        .with_network(network, &name(HOST_NAME)?, &name(&options.name.hostname())?);
    Ok(Setup {
        policy: Policy {
            statics,
            ipv6: config.host_resolver.ipv6,
            network: Some(network),
        },
        host: host_kind(options.platform.os),
        files: host_files(options),
    })
}

fn guest_network() -> GuestNetwork {
    let v4 = |address: Option<IpAddr>| match address {
        Some(IpAddr::V4(v4)) => v4,
        _ => Ipv4Addr::UNSPECIFIED,
    };
    GuestNetwork {
        gateway: v4(Subnet::SLIRP.gateway),
        guest: v4(Subnet::SLIRP.guest),
    }
}

fn host_kind(os: HostOs) -> HostKind {
    match os {
        HostOs::Linux | HostOs::Other => HostKind::Linux,
        HostOs::Darwin => HostKind::MacOs,
        HostOs::Windows => HostKind::Windows,
    }
}

fn host_files(options: &ServeOptions) -> HostFiles {
    let mut files = HostFiles::beneath(Path::new("/"));
    if let Some(path) = options.variable(RESOLV_CONF) {
        files.resolv_conf = path.into();
    }
    files
}

/// The name servers of a guest whose host resolver is off, and that is told none: the host's, where the guest can ask them; else
/// the user network's own, which passes questions on to the host's first.
pub(crate) fn servers_for_a_guest(options: &ServeOptions, config: &Config) -> Vec<IpAddr> {
    if config.host_resolver.enabled || !config.dns.is_empty() {
        return Vec::new();
    }
    let host = HostConfig::read(host_kind(options.platform.os), &host_files(options));
    match host.servers_for_a_guest() {
        none if none.is_empty() => Subnet::SLIRP.dns.into_iter().collect(),
        servers => servers,
    }
}

/// A host resolver that answers, or ought to.
#[derive(Debug)]
pub(crate) struct ServedNames {
    ports: (u16, u16),
    server: Result<NameServer, String>,
}

impl HostAgent {
    /// Begins to answer the guest's questions; without a resolver the instance is degraded, and says so.
    pub(crate) fn start_names(&mut self) {
        let resolver = std::mem::replace(&mut self.resolver, HostResolver::Off);
        let (ports, server) = match resolver {
            HostResolver::Off => return,
            HostResolver::Unavailable(why) => ((0, 0), Err(why)),
            HostResolver::Bound(sockets, setup) => {
                let ports = sockets.ports();
                let (tracker, cancel) = (&self.tasks.tracker, &self.tasks.cancel);
                let server = NameServer::start(sockets, *setup, tracker, cancel);
                (ports, server.map_err(|why| why.to_string()))
            }
        };
        let shown = self.board.phase_started("host resolver");
        match &server {
            Ok(_) => shown.finish(Outcome::Ok),
            Err(why) => {
                let cause = format!(
                    "the host resolver does not work: {why}; names of the host and of hostResolver.hosts are not found"
                );
                tracing::error!(why, "the host resolver does not work");
                shown.finish(Outcome::Degraded(vec![cause.clone()]));
                self.board.degrade(cause);
            }
        }
        // The first of its kind, so it cannot be set already.
        let _ = self.live.names.set(ServedNames { ports, server });
    }
}

impl ServedNames {
    /// How people see it.
    pub(crate) fn info(&self) -> NamesInfo {
        let (udp_port, tcp_port) = self.ports;
        let server = match &self.server {
            Ok(server) => server.report(),
            Err(why) => {
                return NamesInfo {
                    error: why.clone(),
                    ..NamesInfo::default()
                };
            }
        };
        let counts = server.counts;
        let source = match (server.asks_system, server.is_resolved) {
            (true, _) => "system",
            (false, true) => "systemd-resolved",
            (false, false) => "servers",
        };
        NamesInfo {
            error: String::new(),
            udp_port,
            tcp_port,
            source: source.to_owned(),
            udp_queries: counts.udp_queries,
            tcp_queries: counts.tcp_queries,
            answers: NameAnswers {
                static_names: counts.from_static,
                hosts_file: counts.from_hosts_file,
                cache: counts.from_cache,
                system: counts.from_system,
                servers: counts.from_upstream,
            },
            failed: counts.failed,
            refused: counts.refused,
            over_limit: counts.over_limit,
            rebinding: counts.rebinding,
            forged: counts.forged,
            cached: server.cached as u64,
            changes: counts.changes,
            servers: server
                .upstreams
                .iter()
                .map(|upstream| NameServerInfo {
                    address: upstream.address.to_string(),
                    asked: upstream.asked,
                    answered: upstream.answered,
                    silent: upstream.is_silent,
                })
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setup() -> Setup {
        Setup {
            policy: Policy::default(),
            host: HostKind::Linux,
            files: HostFiles::beneath(Path::new("/nonexistent")),
        }
    }

    #[test]
    fn without_sockets_the_guest_is_sent_nowhere() {
        let refused = io::Error::from(io::ErrorKind::AddrNotAvailable);
        let resolver = HostResolver::of(Err(refused), setup());
        assert!(resolver.ports().is_none());
        let HostResolver::Unavailable(why) = resolver else {
            panic!("{resolver:?}");
        };
        let served = ServedNames {
            ports: (0, 0),
            server: Err(why),
        };
        let info = served.info();
        assert!(info.error.contains("127.0.0.1"), "{info:?}");
        assert_eq!(info.udp_queries, 0);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn with_sockets_it_tells_where_and_whom_it_asks() {
        let resolver = HostResolver::of(ports::bind_names(None, None), setup());
        let told = resolver.ports().unwrap();
        let HostResolver::Bound(sockets, setup) = resolver else {
            panic!("{resolver:?}");
        };
        let tasks = crate::agent::Tasks::default();
        let ports = sockets.ports();
        let started = NameServer::start(sockets, *setup, &tasks.tracker, &tasks.cancel);
        let served = ServedNames {
            ports,
            server: started.map_err(|why| why.to_string()),
        };
        let info = served.info();
        assert_eq!((info.udp_port, info.tcp_port), (told.udp, told.tcp));
        assert_eq!(info.source, "servers");
        assert_eq!(
            info.servers[0].address, "127.0.0.1:53",
            "the C library's default"
        );
        assert_eq!(info.error, "");
        tasks.cancel.cancel();
        tasks.tracker.close();
        tasks.tracker.wait().await;
    }
}
