//! Everything the paperwork is made from. Libraries read no environment and no files on their own: the caller passes it in.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use berth_config::model::Config;
use berth_link::boot::HostKey;

/// The facts of one instance that its guest is told.
#[derive(Debug, Clone)]
pub struct Input<'a> {
    /// Instance name.
    pub name: &'a str,
    /// cloud-init's instance-id. With berth's agent it is made once and never changes; without it the caller makes a new
    /// one at each start, so that cloud-init applies what changed.
    pub instance_id: &'a str,
    /// Host name of the guest (`lima-NAME`).
    pub hostname: &'a str,
    /// The configuration, after the driver's own defaults: `mount_type` decides how mounts reach the guest.
    pub config: &'a Config,
    /// Public keys that may log in, one line each.
    pub authorized_keys: &'a [String],
    /// SSH host keys made on the host; empty: the guest makes its own.
    pub host_keys: &'a [HostKey],
    /// MAC address of `eth0`, lower case with colons.
    pub mac: &'a str,
    /// Addresses of the guest's default network.
    pub subnet: Subnet,
    /// Name servers of the host, used when nothing else says where names come from.
    pub host_dns: &'a [IpAddr],
    /// Ports of the host resolver on the host's loopback. They stay the same from start to start as long as they are free.
    pub dns_ports: Option<DnsPorts>,
    /// Where proxy settings come from beside `env`.
    pub proxies: Proxies,
    /// Contents of `caCerts.files`, in order.
    pub ca_files: &'a [String],
    /// Which guest agent travels in the volume.
    pub agent: AgentKind,
    /// The nerdctl archive, when containerd is wanted.
    pub nerdctl_archive: Option<PathBuf>,
    /// Boot scripts of the driver: file name in the volume (`boot.Linux/05-rosetta-volume.sh`) to text.
    pub driver_scripts: BTreeMap<String, String>,
    /// Where sshd is to listen. Another port than 22 is written into its configuration.
    pub ssh_port: u16,
    /// What Lima's scripts and agent must know of the driver.
    pub lima: LimaFacts,
    /// The host user's home directory, to find the mount that carries it.
    pub host_home: PathBuf,
    /// Verbose logs in the guest.
    pub debug: bool,
}

/// Which guest agent travels in the volume, and so who does the work in the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentKind {
    /// berth's own, at this path on the host. cloud-init only installs it; it does the rest at each boot.
    Berth(PathBuf),
    /// Lima's, at this path on the host. A name ending in `.gz` is inflated on the way. A boot script does the rest.
    Lima(PathBuf),
    /// None. A boot script does what can be done without.
    None,
}

/// The addresses of the guest's default network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    /// The host, seen from the guest, where that is known before the guest has booted.
    pub gateway: Option<IpAddr>,
    /// Where the network answers for the host resolver; `None`: DHCP says who the name server is.
    pub dns: Option<IpAddr>,
    /// The guest itself, when its address is fixed.
    pub guest: Option<IpAddr>,
}

impl Subnet {
    /// The network that QEMU's user mode gives to every guest (192.168.5.0/24).
    pub const SLIRP: Self = Self {
        gateway: Some(ip(2)),
        dns: Some(ip(3)),
        guest: Some(ip(15)),
    };

    /// The network that macOS makes for guests behind NAT, with the address that it has unless an administrator changed it.
    pub const VMNET: Self = Self {
        gateway: Some(IpAddr::V4(std::net::Ipv4Addr::new(192, 168, 64, 1))),
        dns: None,
        guest: None,
    };

    /// A network that somebody else sets up, and of which nothing is known.
    pub const UNKNOWN: Self = Self {
        gateway: None,
        dns: None,
        guest: None,
    };
}

const fn ip(last: u8) -> IpAddr {
    IpAddr::V4(std::net::Ipv4Addr::new(192, 168, 5, last))
}

/// Ports of the host resolver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DnsPorts {
    /// UDP port on the host's loopback.
    pub udp: u16,
    /// TCP port on the host's loopback.
    pub tcp: u16,
}

/// Proxy settings that come from the host.
#[derive(Debug, Clone, Default)]
pub struct Proxies {
    /// The operating system's own settings (macOS); overridden by `env`.
    pub system: BTreeMap<String, String>,
    /// The host agent's environment; its proxy variables override `env` when `propagateProxyEnv` is on.
    pub host_env: BTreeMap<String, String>,
    /// Further host names that mean the host's loopback address (from its hosts file).
    pub loopback_names: BTreeSet<String>,
}

/// Facts that only Lima's `lima.env` carries.
#[derive(Debug, Clone, Default)]
pub struct LimaFacts {
    /// vsock port of the guest agent; 0: none.
    pub vsock_port: u32,
    /// virtio-serial port of the guest agent; empty: none.
    pub virtio_port: String,
    /// Rosetta is shared with the guest.
    pub rosetta_enabled: bool,
    /// Rosetta is registered with binfmt.
    pub rosetta_binfmt: bool,
    /// Nobody runs cloud-init in the guest.
    pub no_cloud_init: bool,
}
