//! The resolved configuration: every default filled in, every template rendered.
//!
//! Field names serialise to the keys of `lima.yaml`, so that `list --json` shows what Lima shows.

#![allow(
    clippy::struct_excessive_bools,
    reason = "the keys of lima.yaml that are booleans are independent of each other"
)]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer, Serialize};
use sha2::{Digest, Sha256};

use crate::size::Size;

mod host_ip;
mod provision;

pub use host_ip::{HostIp, HostIpError};
pub use provision::{Provision, ProvisionMode};

/// Guest CPU architecture, in Lima's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the variants are the architectures' own names")]
pub enum Arch {
    #[serde(rename = "x86_64")]
    X8664,
    #[serde(rename = "aarch64")]
    Aarch64,
    #[serde(rename = "armv7l")]
    Armv7l,
    #[serde(rename = "ppc64le")]
    Ppc64le,
    #[serde(rename = "riscv64")]
    Riscv64,
    #[serde(rename = "s390x")]
    S390x,
}

/// Guest operating system.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[allow(missing_docs, reason = "the variants are the systems' own names")]
pub enum GuestOs {
    #[default]
    Linux,
    Darwin,
    FreeBSD,
    Windows,
}

/// Which driver runs the VM.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum VmType {
    /// QEMU, on every host.
    Qemu,
    /// Apple's Virtualization framework, through `vfkit`.
    Vz,
    /// `krunkit`.
    Krunkit,
    /// Windows Subsystem for Linux 2.
    Wsl2,
    /// One of Lima's external drivers, by name.
    External(String),
}

/// How host directories reach the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum MountType {
    /// The host serves SFTP to sshfs in the guest.
    #[serde(rename = "reverse-sshfs")]
    ReverseSshfs,
    /// QEMU's virtio-9p.
    #[serde(rename = "9p")]
    NineP,
    /// virtiofs.
    #[serde(rename = "virtiofs")]
    Virtiofs,
    /// WSL's own automount.
    #[serde(rename = "wsl2")]
    Wsl2,
}

/// A complete configuration. Made by [`crate::resolve()`]; nothing in it is still to be decided but what a driver decides.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(
    missing_docs,
    reason = "the fields are the keys of lima.yaml, documented there"
)]
pub struct Config {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum_lima_version: Option<String>,
    pub vm_type: VmType,
    #[serde(default, skip_serializing_if = "VmOpts::is_empty")]
    pub vm_opts: VmOpts,
    /// Options by guest system, kept as they are.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub os_opts: BTreeMap<String, serde_json::Value>,
    pub os: GuestOs,
    pub arch: Arch,
    pub images: Vec<Image>,
    pub cpus: u32,
    pub memory: Size,
    pub disk: Size,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub additional_disks: Vec<AdditionalDisk>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<Mount>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mount_types_unsupported: Vec<String>,
    /// `None` until the driver has chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mount_type: Option<MountType>,
    pub mount_inotify: bool,
    pub ssh: Ssh,
    pub firmware: Firmware,
    pub audio: Audio,
    pub video: Video,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub provision: Vec<Provision>,
    pub upgrade_packages: bool,
    pub containerd: Containerd,
    pub guest_install_prefix: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probes: Vec<Probe>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub port_forwards: Vec<PortForward>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub copy_to_host: Vec<CopyToHost>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<Network>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub param: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dns: Vec<IpAddr>,
    pub host_resolver: HostResolver,
    pub propagate_proxy_env: bool,
    pub ca_certs: CaCerts,
    pub plain: bool,
    #[serde(default)]
    pub timezone: String,
    pub nested_virtualization: bool,
    pub user: User,
    pub tpm: bool,
}

/// Options of the drivers, each under its driver's name.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[allow(missing_docs, reason = "keys of lima.yaml")]
pub struct VmOpts {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qemu: Option<QemuOpts>,
    /// Options of drivers that this crate does not know, kept as they are.
    #[serde(flatten)]
    pub others: BTreeMap<String, serde_json::Value>,
}

impl VmOpts {
    fn is_empty(&self) -> bool {
        self.qemu.is_none() && self.others.is_empty()
    }
}

/// Lima leaves out what is 0 or false in lists of entries.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A port that is still to be chosen is 0 in lima.yaml.
mod zero_for_none {
    use serde::{Deserialize as _, Deserializer, Serializer};

    #[expect(
        clippy::ref_option,
        clippy::trivially_copy_pass_by_ref,
        reason = "serde's signature"
    )]
    pub(super) fn serialize<S: Serializer>(
        port: &Option<u16>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_u16(port.unwrap_or(0))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<u16>, D::Error> {
        let port = Option::<u16>::deserialize(deserializer)?;
        Ok(port.filter(|port| *port != 0))
    }
}

/// `vmOpts.qemu`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct QemuOpts {
    /// Refuse an older QEMU (semantic version).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub minimum_version: Option<String>,
    /// `-cpu` by guest architecture.
    #[serde(
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "without_nulls"
    )]
    pub cpu_type: BTreeMap<Arch, String>,
    /// Accelerator to use instead of the one detected (`kvm`, `tcg`, `hvf`, …). An extension of berth.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accel: Option<String>,
}

/// Reads a mapping in which null means that nothing is set.
fn without_nulls<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<BTreeMap<Arch, String>, D::Error> {
    let entries: Option<BTreeMap<Arch, Option<String>>> = Option::deserialize(deserializer)?;
    Ok(entries
        .unwrap_or_default()
        .into_iter()
        .filter_map(|(arch, cpu_type)| Some((arch, cpu_type?)))
        .collect())
}

/// A file to fetch: image, kernel, initrd, archive.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "keys of lima.yaml")]
pub struct FileSource {
    /// URL or path (`~` already expanded when it is a path).
    pub location: String,
    pub arch: Arch,
    /// `algorithm:hex`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

/// One entry of `images`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "keys of lima.yaml")]
pub struct Image {
    #[serde(flatten)]
    pub file: FileSource,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub variant: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub arch_variant: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<Kernel>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initrd: Option<FileSource>,
}

/// A kernel to boot directly.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "keys of lima.yaml")]
pub struct Kernel {
    #[serde(flatten)]
    pub file: FileSource,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cmdline: String,
}

/// One entry of `additionalDisks`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "keys of lima.yaml")]
pub struct AdditionalDisk {
    pub name: String,
    pub format: bool,
    pub fs_type: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fs_args: Vec<String>,
}

/// One entry of `mounts`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "keys of lima.yaml")]
pub struct Mount {
    /// Host directory, absolute.
    pub location: PathBuf,
    /// Guest directory, absolute.
    pub mount_point: String,
    pub writable: bool,
    pub sshfs: Sshfs,
    #[serde(rename = "9p")]
    pub nine_p: NineP,
    pub virtiofs: Virtiofs,
}

impl Mount {
    /// The name under which driver and guest know a 9p or virtiofs share: `lima-` and 16 hexadecimal digits.
    #[must_use]
    pub fn tag(&self) -> String {
        let hash = Sha256::new()
            .chain_update(self.location.to_string_lossy().as_bytes())
            .chain_update(":")
            .chain_update(&self.mount_point)
            .finalize();
        let mut first = [0; 8];
        first.copy_from_slice(&hash[..8]);
        format!("lima-{:016x}", u64::from_be_bytes(first))
    }
}

/// `mounts[].sshfs`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "keys of lima.yaml")]
pub struct Sshfs {
    pub cache: bool,
    pub follow_symlinks: bool,
    #[serde(default)]
    pub sftp_driver: String,
}

/// `mounts[].9p`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "keys of lima.yaml")]
pub struct NineP {
    pub security_model: String,
    pub protocol_version: String,
    pub msize: Size,
    pub cache: String,
}

/// `mounts[].virtiofs`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "keys of lima.yaml")]
pub struct Virtiofs {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue_size: Option<u32>,
}

/// `ssh`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Ssh {
    /// `None`, written as 0: chosen at start.
    #[serde(with = "zero_for_none")]
    pub local_port: Option<u16>,
    /// Also authorise and offer the keys of the user's `~/.ssh`.
    #[serde(rename = "loadDotSSHPubKeys")]
    pub load_dot_ssh_pub_keys: bool,
    /// Forward the host's SSH agent.
    pub forward_agent: bool,
    /// Forward X11.
    pub forward_x11: bool,
    /// Forward X11 as a trusted client.
    pub forward_x11_trusted: bool,
    /// Reach sshd over vsock; `None` until the driver has chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub over_vsock: Option<bool>,
}

/// `firmware`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "keys of lima.yaml")]
pub struct Firmware {
    #[serde(rename = "legacyBIOS")]
    pub legacy_bios: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<FirmwareImage>,
}

/// One entry of `firmware.images`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "keys of lima.yaml")]
pub struct FirmwareImage {
    #[serde(flatten)]
    pub file: FileSource,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm_type: Option<VmType>,
}

/// `audio`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "keys of lima.yaml")]
pub struct Audio {
    pub device: String,
    pub interface: String,
}

/// `video`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "keys of lima.yaml")]
pub struct Video {
    pub display: String,
    pub vnc: Vnc,
}

/// `video.vnc`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Vnc {
    /// Empty until the driver has filled its default.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub display: String,
}

/// `containerd`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
#[allow(missing_docs, reason = "keys of lima.yaml")]
pub struct Containerd {
    pub system: bool,
    pub user: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub archives: Vec<FileSource>,
}

/// One entry of `probes`: a script that must succeed before the instance counts as ready.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "keys of lima.yaml")]
pub struct Probe {
    pub mode: String,
    pub description: String,
    pub script: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hint: String,
}

/// Transport protocol of a port forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs, reason = "the protocols' own names")]
pub enum Proto {
    Tcp,
    Udp,
    Any,
}

/// One entry of `portForwards`, as after Lima's own filling of defaults.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "keys of lima.yaml")]
pub struct PortForward {
    #[serde(rename = "guestIPMustBeZero")]
    pub guest_ip_must_be_zero: bool,
    #[serde(rename = "guestIP")]
    pub guest_ip: IpAddr,
    #[serde(default, skip_serializing_if = "is_default")]
    pub guest_port: u16,
    pub guest_port_range: [u16; 2],
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub guest_socket: String,
    #[serde(rename = "hostIP")]
    pub host_ip: HostIp,
    #[serde(default, skip_serializing_if = "is_default")]
    pub host_port: u16,
    pub host_port_range: [u16; 2],
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_socket: Option<PathBuf>,
    pub proto: Proto,
    #[serde(default, skip_serializing_if = "is_default")]
    pub reverse: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub ignore: bool,
    #[serde(rename = "static", default, skip_serializing_if = "is_default")]
    pub is_static: bool,
}

/// One entry of `copyToHost`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "keys of lima.yaml")]
pub struct CopyToHost {
    pub guest: String,
    pub host: PathBuf,
    #[serde(default, skip_serializing_if = "is_default")]
    pub skip_if_missing: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub delete_on_stop: bool,
}

/// One entry of `networks`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "keys of lima.yaml")]
pub struct Network {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lima: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<PathBuf>,
    #[serde(rename = "vzNAT", default)]
    pub vz_nat: bool,
    pub mac_address: String,
    pub interface: String,
    pub metric: u32,
}

/// `hostResolver`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "keys of lima.yaml")]
pub struct HostResolver {
    pub enabled: bool,
    pub ipv6: bool,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub hosts: BTreeMap<String, String>,
}

/// `caCerts`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[allow(missing_docs, reason = "keys of lima.yaml")]
pub struct CaCerts {
    pub remove_defaults: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<PathBuf>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub certs: Vec<String>,
}

/// `user`: the account that is made in the guest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "keys of lima.yaml")]
pub struct User {
    pub name: String,
    #[serde(default)]
    pub comment: String,
    pub home: String,
    pub shell: String,
    pub uid: u32,
    pub passwordless_sudo: bool,
}

impl VmType {
    /// The word used in lima.yaml, in pid file names and on the wire.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Qemu => "qemu",
            Self::Vz => "vz",
            Self::Krunkit => "krunkit",
            Self::Wsl2 => "wsl2",
            Self::External(name) => name,
        }
    }
}

impl From<String> for VmType {
    fn from(word: String) -> Self {
        match word.as_str() {
            "qemu" => Self::Qemu,
            "vz" => Self::Vz,
            "krunkit" => Self::Krunkit,
            "wsl2" => Self::Wsl2,
            _ => Self::External(word),
        }
    }
}

impl From<VmType> for String {
    fn from(vm_type: VmType) -> Self {
        vm_type.as_str().to_owned()
    }
}
