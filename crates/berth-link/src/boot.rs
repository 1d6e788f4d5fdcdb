//! `boot.json`: what the host asks of one guest, at every boot.
//!
//! Lies in the root of the cidata volume, readable by root only. It changes only when the configuration changes, never
//! from start to start: secrets and ports that change travel over the link after the hello.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// Version of the format that this build writes and reads. A guest agent refuses a later one.
pub const BOOT_SPEC_VERSION: u32 = 1;

/// Everything the guest agent applies at each boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "independent keys of a file format"
)]
pub struct BootSpec {
    /// [`BOOT_SPEC_VERSION`].
    pub version: u32,
    /// Instance name on the host.
    pub instance: String,
    /// Made once per instance; the content of the marker files that Lima's scripts compare.
    pub instance_id: String,
    /// Host name of the guest (`lima-NAME`).
    pub hostname: String,
    /// Driver's name (`qemu`, `vz`, …).
    pub vm_type: String,
    /// Only what plain mode allows: keys, host name, provision scripts.
    pub plain: bool,
    /// The login user.
    pub user: BootUser,
    /// Public keys that may log in as the user, one line each.
    pub authorized_keys: Vec<String>,
    /// SSH host keys made on the host; empty: the guest makes its own and reports them.
    pub host_keys: Vec<HostKey>,
    /// Network interfaces to name and set up.
    pub nics: Vec<Nic>,
    /// Name servers to use; empty: what DHCP says.
    pub dns: Vec<String>,
    /// The host resolver, where the guest's user network has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_resolver: Option<HostResolverSpec>,
    /// Host name to address, for `/etc/hosts` (`host.lima.internal`).
    pub hosts: BTreeMap<String, String>,
    /// IANA time zone, or empty to leave it.
    pub timezone: String,
    /// `/etc/environment` block.
    pub env: BTreeMap<String, String>,
    /// `PARAM_…` values for provision scripts.
    pub param: BTreeMap<String, String>,
    /// CA certificates in PEM.
    pub ca_certs: Vec<String>,
    /// Remove the distribution's own CA certificates first.
    pub ca_remove_defaults: bool,
    /// Host directories (and, with reverse-sshfs, mount points to make).
    pub mounts: Vec<GuestMount>,
    /// `reverse-sshfs`, `9p`, `virtiofs`, `wsl2`, or empty when there are none.
    pub mount_type: String,
    /// Additional disks.
    pub disks: Vec<GuestDisk>,
    /// Provision entries; their texts lie in `provision.MODE/NNNNNNNN` of the volume.
    pub provision: Vec<GuestProvision>,
    /// Do not install packages that berth itself needs.
    pub skip_default_dependencies: bool,
    /// Upgrade all packages at boot.
    pub upgrade_packages: bool,
    /// containerd for root.
    pub containerd_system: bool,
    /// Rootless containerd for the user.
    pub containerd_user: bool,
    /// Name of the nerdctl archive in the volume, if any.
    pub containerd_archive: String,
    /// Where binaries are installed (`/usr/local`).
    pub guest_install_prefix: String,
    /// Nobody else makes the login user.
    #[serde(default)]
    pub make_user: bool,
    /// Where sshd is to listen.
    #[serde(default = "usual_ssh_port")]
    pub ssh_port: u16,
    /// sshd may start while cloud-init still works: the configuration has no script that must run before it.
    #[serde(default)]
    pub early_sshd: bool,
    /// Rosetta, where the driver shares it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rosetta: Option<RosettaSpec>,
    /// Verbose guest agent log.
    pub debug: bool,
}

fn usual_ssh_port() -> u16 {
    22
}

/// Where questions for names go: what is sent to port 53 of one address is answered at ports of another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostResolverSpec {
    /// The guest's name server.
    pub address: Ipv4Addr,
    /// The host, as the guest sees it.
    pub host: Ipv4Addr,
    /// Port there for datagrams. Kept from start to start as long as it is free.
    pub udp_port: u16,
    /// Port there for connections, likewise.
    pub tcp_port: u16,
}

/// The program that runs Intel programs on Apple chips.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RosettaSpec {
    /// virtiofs tag of its directory.
    pub tag: String,
    /// Let the kernel run such programs with it.
    pub binfmt: bool,
}

/// The login user of the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootUser {
    /// Login name.
    pub name: String,
    /// Numeric id.
    pub uid: u32,
    /// Full name, or empty.
    pub comment: String,
    /// Home directory.
    pub home: String,
    /// Login shell.
    pub shell: String,
    /// May use sudo without a password.
    pub passwordless_sudo: bool,
}

/// One SSH host key pair.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostKey {
    /// `ed25519`: the file is `/etc/ssh/ssh_host_ed25519_key`.
    pub kind: String,
    /// OpenSSH private key file, with its last newline.
    pub private: String,
    /// Public key line.
    pub public: String,
}

/// One network interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nic {
    /// MAC address, lower case with colons.
    pub mac: String,
    /// Name it must get.
    pub name: String,
    /// Route metric.
    pub metric: u32,
}

/// One shared directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestMount {
    /// Device tag (9p, virtiofs), or path on the host (drvfs); empty for reverse-sshfs.
    pub tag: String,
    /// Absolute path in the guest.
    pub mount_point: String,
    /// File system type (`9p`, `virtiofs`, `drvfs`); empty for reverse-sshfs, which the host sets up later.
    pub fs_type: String,
    /// Mount options, comma separated.
    pub options: String,
}

/// One additional disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestDisk {
    /// Disk name; label and mount point follow from it (`lima-NAME`, `/mnt/lima-NAME`).
    pub name: String,
    /// Serial number the driver gives the device, so that no device name is guessed.
    pub serial: String,
    /// Format when no file system with the label exists.
    pub format: bool,
    /// File system type, or `swap`.
    pub fs_type: String,
    /// Further arguments for mkfs.
    pub fs_args: Vec<String>,
}

/// One provision entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestProvision {
    /// Position in the configuration's list.
    pub index: u32,
    /// `system`, `user`, `dependency`, `data`, `yq` (`boot` runs from user-data, `ansible` on the host).
    pub mode: String,
    /// Path in the volume (`provision.system/00000003`).
    pub file: String,
    /// Target path (data, yq).
    pub path: String,
    /// `user:group` (data, yq).
    pub owner: String,
    /// Octal mode (data, yq).
    pub permissions: String,
    /// Replace an existing file (data).
    pub overwrite: bool,
    /// Format (yq).
    pub format: String,
}
