//! How the host itself finds names: what its files say.
//!
//! Read as a whole into a value whenever something changes; queries work with the value they began with.

pub mod hosts;
pub mod nsswitch;
pub mod resolv_conf;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use crate::host::hosts::Hosts;
use crate::host::resolv_conf::ResolvConf;

/// Addresses at which systemd-resolved answers queries of programs.
const RESOLVED_STUBS: [Ipv4Addr; 2] = [Ipv4Addr::new(127, 0, 0, 53), Ipv4Addr::new(127, 0, 0, 54)];

/// Larger files are not read: no person wrote them.
const MAX_FILE: u64 = 16 << 20;

/// Which host it is, as far as name resolution is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostKind {
    /// Linux, and other systems whose C library has a name service switch.
    Linux,
    /// macOS: only the system's resolver knows everything.
    MacOs,
    /// Windows: the same, and there is no `resolv.conf`.
    Windows,
}

/// Where the host's files are. A value, so that tests can have their own.
#[derive(Debug, Clone)]
pub struct HostFiles {
    /// `resolv.conf(5)`.
    pub resolv_conf: PathBuf,
    /// `hosts(5)`.
    pub hosts: PathBuf,
    /// `nsswitch.conf(5)`.
    pub nsswitch: PathBuf,
    /// The file that systemd-resolved writes for its stub.
    pub resolved_stub: PathBuf,
    /// The file in which systemd-resolved lists the servers behind its stub. Not read: that it changes is news.
    pub resolved_servers: PathBuf,
    /// Port of the servers that they name without one: 53 but for tests.
    pub server_port: u16,
}

impl HostFiles {
    /// Those of the system, beneath a root that is `/` but for tests.
    #[must_use]
    pub fn beneath(root: &Path) -> Self {
        Self {
            resolv_conf: root.join("etc/resolv.conf"),
            hosts: root.join("etc/hosts"),
            nsswitch: root.join("etc/nsswitch.conf"),
            resolved_stub: root.join("run/systemd/resolve/stub-resolv.conf"),
            resolved_servers: root.join("run/systemd/resolve/resolv.conf"),
            server_port: 53,
        }
    }
}

/// Who finds the addresses of ordinary names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressSource {
    /// The servers, asked raw. `/etc/hosts` comes before, if this host has read it.
    Servers,
    /// The system's own resolver, `getaddrinfo`.
    System,
}

/// How this host finds names, at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostConfig {
    /// Who finds addresses.
    pub addresses: AddressSource,
    /// Servers in the order in which the host asks them: one scope, which shares its view of the world.
    pub servers: Vec<SocketAddr>,
    /// Domains in which names without a dot are looked for.
    pub search: Vec<crate::wire::name::Name>,
    /// `/etc/hosts`; empty where somebody else reads it.
    pub hosts: Hosts,
    /// The servers are systemd-resolved's stub.
    pub is_resolved: bool,
}

/// Lima's choice for a host that names no servers and has no `resolv.conf` to name them in.
const PUBLIC_SERVERS: [Ipv4Addr; 2] = [Ipv4Addr::new(8, 8, 8, 8), Ipv4Addr::new(1, 1, 1, 1)];

impl HostConfig {
    /// Reads the host's files. What is missing or unreadable counts as empty, as the C library has it.
    #[must_use]
    pub fn read(kind: HostKind, files: &HostFiles) -> Self {
        let resolv_conf = ResolvConf::parse(&read(&files.resolv_conf));
        let mut config = Self::of(kind, resolv_conf, files);
        let without_port = |server: &&mut SocketAddr| server.port() == resolv_conf::PORT;
        for server in config.servers.iter_mut().filter(without_port) {
            server.set_port(files.server_port);
        }
        config
    }

    fn of(kind: HostKind, resolv_conf: ResolvConf, files: &HostFiles) -> Self {
        match kind {
            HostKind::Linux => Self::of_linux(resolv_conf, files),
            HostKind::MacOs => Self {
                addresses: AddressSource::System,
                servers: resolv_conf.servers_or_loopback(),
                search: Vec::new(),
                hosts: Hosts::default(),
                is_resolved: false,
            },
            HostKind::Windows => Self {
                addresses: AddressSource::System,
                servers: PUBLIC_SERVERS.map(at_port_53).to_vec(),
                search: Vec::new(),
                hosts: Hosts::default(),
                is_resolved: false,
            },
        }
    }

    fn of_linux(resolv_conf: ResolvConf, files: &HostFiles) -> Self {
        let modules = nsswitch::modules(&read(&files.nsswitch));
        let stub = ResolvConf::parse(&read(&files.resolved_stub));
        let is_stub = |conf: &ResolvConf| {
            conf.servers.iter().any(|server| match server.ip() {
                IpAddr::V4(v4) => RESOLVED_STUBS.contains(&v4),
                IpAddr::V6(_) => false,
            })
        };
        // Without its stub listener, systemd-resolved writes its upstreams into that file.
        let through_nss = modules.iter().any(|module| module == "resolve") && is_stub(&stub);
        let chosen = if through_nss { stub } else { resolv_conf };
        let is_resolved = is_stub(&chosen);
        let others = |module: &String| !matches!(module.as_str(), "files" | "dns" | "resolve");
        let only_the_system_knows = !is_resolved && modules.iter().any(others);
        Self {
            addresses: if only_the_system_knows {
                AddressSource::System
            } else {
                AddressSource::Servers
            },
            servers: chosen.servers_or_loopback(),
            search: chosen.search,
            hosts: if is_resolved || !modules.iter().any(|module| module == "files") {
                // systemd-resolved reads the file itself.
                Hosts::default()
            } else {
                Hosts::parse(&read(&files.hosts))
            },
            is_resolved,
        }
    }

    /// The host's servers that a guest can ask by itself; empty when any of them is the host's own loopback, or at another port.
    #[must_use]
    pub fn servers_for_a_guest(&self) -> Vec<IpAddr> {
        let is_reachable = |server: &SocketAddr| {
            let ip = server.ip();
            let is_link_local = matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
            let is_usual = server.port() == resolv_conf::PORT;
            is_usual && !ip.is_loopback() && !ip.is_unspecified() && !is_link_local
        };
        if self.servers.iter().all(is_reachable) {
            self.servers.iter().map(SocketAddr::ip).collect()
        } else {
            Vec::new()
        }
    }
}

fn at_port_53(address: Ipv4Addr) -> SocketAddr {
    SocketAddr::new(address.into(), 53)
}

fn read(path: &Path) -> String {
    let is_small = std::fs::metadata(path).is_ok_and(|meta| meta.len() <= MAX_FILE);
    if !is_small {
        return String::new();
    }
    let bytes = std::fs::read(path).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Machine(tempfile::TempDir);

    impl Machine {
        fn new(files: &[(&str, &str)]) -> Self {
            let root = tempfile::tempdir().unwrap();
            for (path, text) in files {
                let path = root.path().join(path);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                std::fs::write(path, text).unwrap();
            }
            Self(root)
        }

        fn config(&self) -> HostConfig {
            HostConfig::read(HostKind::Linux, &HostFiles::beneath(self.0.path()))
        }
    }

    const STUB: (&str, &str) = (
        "run/systemd/resolve/stub-resolv.conf",
        "nameserver 127.0.0.53\noptions edns0 trust-ad\nsearch corp.example\n",
    );

    fn servers(config: &HostConfig) -> Vec<String> {
        config.servers.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_host_with_files_and_dns_is_followed_by_hand() {
        let config = Machine::new(&[
            (
                "etc/resolv.conf",
                "search a.example b.example\nnameserver 10.0.0.1\nnameserver 10.0.0.2\n",
            ),
            ("etc/hosts", "10.1.1.1 db\n"),
            (
                "etc/nsswitch.conf",
                "passwd: files\nhosts: files dns # usual\n",
            ),
        ])
        .config();
        assert_eq!(config.addresses, AddressSource::Servers);
        assert_eq!(servers(&config), ["10.0.0.1:53", "10.0.0.2:53"]);
        assert_eq!(config.search.len(), 2);
        assert!(!config.hosts.is_empty());
        assert_eq!(config.servers_for_a_guest().len(), 2);
    }

    #[test]
    fn systemd_resolved_is_asked_wherever_the_host_asks_it() {
        let hosts = ("etc/hosts", "10.1.1.1 db\n");
        let by_nss = Machine::new(&[
            ("etc/resolv.conf", "nameserver 9.9.9.9\n"),
            (
                "etc/nsswitch.conf",
                "hosts: mymachines resolve [!UNAVAIL=return] files myhostname dns\n",
            ),
            hosts,
            STUB,
        ]);
        let by_file = Machine::new(&[
            ("etc/resolv.conf", STUB.1),
            ("etc/nsswitch.conf", "hosts: files dns myhostname\n"),
            hosts,
        ]);
        for machine in [by_nss, by_file] {
            let config = machine.config();
            assert_eq!(servers(&config), ["127.0.0.53:53"]);
            assert!(config.is_resolved && config.hosts.is_empty());
            assert_eq!(config.addresses, AddressSource::Servers);
            assert_eq!(config.search.len(), 1);
            assert!(config.servers_for_a_guest().is_empty());
        }
        // The stub is switched off: the file names its upstreams.
        let off = Machine::new(&[
            ("etc/resolv.conf", "nameserver 9.9.9.9\n"),
            ("etc/nsswitch.conf", "hosts: resolve files dns\n"),
            (STUB.0, "nameserver 9.9.9.9\n"),
        ]);
        let config = off.config();
        assert!(!config.is_resolved);
        assert_eq!(servers(&config), ["9.9.9.9:53"]);
    }

    #[test]
    fn other_modules_are_asked_through_the_system() {
        let config = Machine::new(&[
            (
                "etc/nsswitch.conf",
                "hosts: files mdns4_minimal [NOTFOUND=return] dns\n",
            ),
            ("etc/hosts", "10.1.1.1 db\n"),
        ])
        .config();
        assert_eq!(config.addresses, AddressSource::System);
        assert_eq!(
            servers(&config),
            ["127.0.0.1:53"],
            "the C library's default"
        );
        assert!(!config.hosts.is_empty());
    }

    #[test]
    fn a_host_without_files_is_like_the_c_librarys_defaults() {
        let config = Machine::new(&[]).config();
        assert_eq!(config.addresses, AddressSource::Servers);
        assert_eq!(servers(&config), ["127.0.0.1:53"]);
        let root = Path::new("/nonexistent");
        let windows = HostConfig::read(HostKind::Windows, &HostFiles::beneath(root));
        assert_eq!(windows.addresses, AddressSource::System);
        assert_eq!(servers(&windows), ["8.8.8.8:53", "1.1.1.1:53"]);
    }
}
