//! `lima.yaml` as it is written: every key optional, nothing filled in, nothing checked but types.
//!
//! Unknown keys are not refused here; [`crate::yaml::load`] reports them as warnings.

#![allow(
    missing_docs,
    reason = "the fields are the keys of lima.yaml, documented there"
)]

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, de};
use serde_json::Value;

/// A mapping of names to texts; a null text reads as an empty one.
pub type Texts = BTreeMap<String, String>;

/// One document: the instance's own file, `default.yaml` or `override.yaml`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LimaYaml {
    #[serde(deserialize_with = "one_or_many")]
    pub base: Vec<Locator>,
    pub minimum_lima_version: Option<String>,
    pub vm_type: Option<String>,
    pub vm_opts: Option<BTreeMap<String, Value>>,
    pub os: Option<String>,
    pub arch: Option<String>,
    #[serde(deserialize_with = "list")]
    pub images: Vec<Image>,
    #[serde(deserialize_with = "texts")]
    pub cpu_type: Texts,
    pub cpus: Option<i64>,
    pub memory: Option<String>,
    pub disk: Option<String>,
    #[serde(deserialize_with = "list")]
    pub additional_disks: Vec<AdditionalDisk>,
    #[serde(deserialize_with = "list")]
    pub mounts: Vec<Mount>,
    #[serde(deserialize_with = "list")]
    pub mount_types_unsupported: Vec<String>,
    pub mount_type: Option<String>,
    pub mount_inotify: Option<bool>,
    #[serde(deserialize_with = "section")]
    pub ssh: Ssh,
    #[serde(deserialize_with = "section")]
    pub firmware: Firmware,
    #[serde(deserialize_with = "section")]
    pub audio: Audio,
    #[serde(deserialize_with = "section")]
    pub video: Video,
    #[serde(deserialize_with = "list")]
    pub provision: Vec<Provision>,
    pub upgrade_packages: Option<bool>,
    #[serde(deserialize_with = "section")]
    pub containerd: Containerd,
    pub guest_install_prefix: Option<String>,
    #[serde(deserialize_with = "list")]
    pub probes: Vec<Probe>,
    #[serde(deserialize_with = "list")]
    pub port_forwards: Vec<PortForward>,
    #[serde(deserialize_with = "list")]
    pub copy_to_host: Vec<CopyToHost>,
    pub message: Option<String>,
    #[serde(deserialize_with = "list")]
    pub networks: Vec<Network>,
    #[serde(deserialize_with = "texts")]
    pub env: Texts,
    #[serde(deserialize_with = "texts")]
    pub param: Texts,
    #[serde(deserialize_with = "list")]
    pub dns: Vec<String>,
    #[serde(deserialize_with = "section")]
    pub host_resolver: HostResolver,
    pub propagate_proxy_env: Option<bool>,
    #[serde(deserialize_with = "section")]
    pub ca_certs: CaCerts,
    #[serde(deserialize_with = "section")]
    pub rosetta: Rosetta,
    pub plain: Option<bool>,
    pub timezone: Option<String>,
    pub nested_virtualization: Option<bool>,
    #[serde(deserialize_with = "section")]
    pub user: User,
    pub tpm: Option<bool>,
    pub os_opts: Option<BTreeMap<String, Value>>,
}

/// A URL, path or template name; a bare string is its `url`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Locator {
    pub url: String,
    pub digest: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct File {
    pub location: Option<String>,
    pub arch: Option<String>,
    pub digest: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Image {
    pub location: Option<String>,
    pub arch: Option<String>,
    pub digest: Option<String>,
    pub variant: Option<String>,
    pub arch_variant: Option<String>,
    pub kernel: Option<Kernel>,
    pub initrd: Option<File>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Kernel {
    pub location: Option<String>,
    pub arch: Option<String>,
    pub digest: Option<String>,
    pub cmdline: Option<String>,
}

/// One entry of `additionalDisks`; a bare string is its `name`.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AdditionalDisk {
    pub name: String,
    pub format: Option<bool>,
    pub fs_type: Option<String>,
    pub fs_args: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Mount {
    pub location: Option<String>,
    pub mount_point: Option<String>,
    pub writable: Option<bool>,
    #[serde(deserialize_with = "section")]
    pub sshfs: Sshfs,
    #[serde(rename = "9p", deserialize_with = "section")]
    pub nine_p: NineP,
    #[serde(deserialize_with = "section")]
    pub virtiofs: Virtiofs,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Sshfs {
    pub cache: Option<bool>,
    pub follow_symlinks: Option<bool>,
    pub sftp_driver: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NineP {
    pub security_model: Option<String>,
    pub protocol_version: Option<String>,
    pub msize: Option<String>,
    pub cache: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Virtiofs {
    pub queue_size: Option<i64>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Ssh {
    pub local_port: Option<i64>,
    #[serde(rename = "loadDotSSHPubKeys")]
    pub load_dot_ssh_pub_keys: Option<bool>,
    pub forward_agent: Option<bool>,
    pub forward_x11: Option<bool>,
    pub forward_x11_trusted: Option<bool>,
    pub over_vsock: Option<bool>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Firmware {
    #[serde(rename = "legacyBIOS")]
    pub legacy_bios: Option<bool>,
    #[serde(deserialize_with = "list")]
    pub images: Vec<FirmwareImage>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FirmwareImage {
    pub location: Option<String>,
    pub arch: Option<String>,
    pub digest: Option<String>,
    pub vm_type: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Audio {
    pub device: Option<String>,
    pub interface: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Video {
    pub display: Option<String>,
    #[serde(deserialize_with = "section")]
    pub vnc: Vnc,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Vnc {
    pub display: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Provision {
    pub mode: Option<String>,
    pub script: Option<String>,
    pub file: Option<Locator>,
    pub skip_default_dependency_resolution: Option<bool>,
    pub playbook: Option<String>,
    pub content: Option<String>,
    pub overwrite: Option<bool>,
    pub owner: Option<String>,
    pub path: Option<String>,
    pub permissions: Option<String>,
    pub expression: Option<String>,
    pub format: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Containerd {
    pub system: Option<bool>,
    pub user: Option<bool>,
    #[serde(deserialize_with = "list")]
    pub archives: Vec<File>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Probe {
    pub mode: Option<String>,
    pub description: Option<String>,
    pub script: Option<String>,
    pub file: Option<Locator>,
    pub hint: Option<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PortForward {
    #[serde(rename = "guestIPMustBeZero")]
    pub guest_ip_must_be_zero: Option<bool>,
    #[serde(rename = "guestIP")]
    pub guest_ip: Option<String>,
    pub guest_port: Option<i64>,
    pub guest_port_range: Option<[i64; 2]>,
    pub guest_socket: Option<String>,
    #[serde(rename = "hostIP")]
    pub host_ip: Option<String>,
    pub host_port: Option<i64>,
    pub host_port_range: Option<[i64; 2]>,
    pub host_socket: Option<String>,
    pub proto: Option<String>,
    pub reverse: Option<bool>,
    pub ignore: Option<bool>,
    #[serde(rename = "static")]
    pub is_static: Option<bool>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CopyToHost {
    pub guest: Option<String>,
    pub host: Option<String>,
    pub skip_if_missing: Option<bool>,
    pub delete_on_stop: Option<bool>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Network {
    pub lima: Option<String>,
    pub socket: Option<String>,
    #[serde(rename = "vzNAT")]
    pub vz_nat: Option<bool>,
    pub mac_address: Option<String>,
    pub interface: Option<String>,
    pub metric: Option<u32>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct HostResolver {
    pub enabled: Option<bool>,
    pub ipv6: Option<bool>,
    #[serde(deserialize_with = "texts")]
    pub hosts: Texts,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CaCerts {
    pub remove_defaults: Option<bool>,
    #[serde(deserialize_with = "list")]
    pub files: Vec<String>,
    #[serde(deserialize_with = "list")]
    pub certs: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Rosetta {
    pub enabled: Option<bool>,
    pub binfmt: Option<bool>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct User {
    pub name: Option<String>,
    pub comment: Option<String>,
    pub home: Option<String>,
    pub shell: Option<String>,
    pub uid: Option<u32>,
    pub passwordless_sudo: Option<bool>,
}

/// Reads a section; a null one is an empty one.
fn section<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// Reads a list; a null list is an empty one, and a null entry keeps its place as an empty one.
fn list<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    let entries: Option<Vec<Option<T>>> = Option::deserialize(deserializer)?;
    Ok(entries
        .unwrap_or_default()
        .into_iter()
        .map(Option::unwrap_or_default)
        .collect())
}

/// Reads a mapping of texts, where null means nothing or the empty text.
fn texts<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Texts, D::Error> {
    let entries: Option<BTreeMap<String, Option<String>>> = Option::deserialize(deserializer)?;
    Ok(entries
        .unwrap_or_default()
        .into_iter()
        .map(|(name, text)| (name, text.unwrap_or_default()))
        .collect())
}

/// Reads `base`: one locator or a list of them.
fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Locator>, D::Error> {
    struct OneOrMany;

    impl<'de> Visitor<'de> for OneOrMany {
        type Value = Vec<Locator>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string, a mapping with `url`, or a list of these")
        }

        fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
            Ok(Vec::new())
        }

        fn visit_none<E: Error>(self) -> Result<Self::Value, E> {
            Ok(Vec::new())
        }

        fn visit_str<E: Error>(self, url: &str) -> Result<Self::Value, E> {
            Ok(vec![Locator::from(url)])
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
            Ok(vec![Locator::deserialize(MapAccessDeserializer::new(map))?])
        }

        fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
            Vec::deserialize(SeqAccessDeserializer::new(seq))
        }
    }

    deserializer.deserialize_any(OneOrMany)
}

/// Reads a string, taken as the type's main key, or the whole mapping `M`.
fn string_or<'de, D, M, T>(deserializer: D, expected: &'static str) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    M: Deserialize<'de> + Into<T>,
    T: for<'a> From<&'a str>,
{
    struct StringOr<M, T>(&'static str, PhantomData<(M, T)>);

    impl<'de, M: Deserialize<'de> + Into<T>, T: for<'a> From<&'a str>> Visitor<'de> for StringOr<M, T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }

        fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
            Ok(T::from(text))
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
            M::deserialize(MapAccessDeserializer::new(map)).map(Into::into)
        }
    }

    deserializer.deserialize_any(StringOr(expected, PhantomData::<(M, T)>))
}

impl From<&str> for Locator {
    fn from(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            digest: None,
        }
    }
}

impl From<&str> for AdditionalDisk {
    fn from(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..Self::default()
        }
    }
}

impl<'de> de::Deserialize<'de> for Locator {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Mapping {
            url: Option<String>,
            digest: Option<String>,
        }

        impl From<Mapping> for Locator {
            fn from(mapping: Mapping) -> Self {
                Self {
                    url: mapping.url.unwrap_or_default(),
                    digest: mapping.digest,
                }
            }
        }

        string_or::<_, Mapping, _>(deserializer, "a string or a mapping with `url`")
    }
}

impl<'de> de::Deserialize<'de> for AdditionalDisk {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Mapping {
            name: Option<String>,
            format: Option<bool>,
            fs_type: Option<String>,
            #[serde(default, deserialize_with = "list")]
            fs_args: Vec<String>,
        }

        impl From<Mapping> for AdditionalDisk {
            fn from(mapping: Mapping) -> Self {
                Self {
                    name: mapping.name.unwrap_or_default(),
                    format: mapping.format,
                    fs_type: mapping.fs_type,
                    fs_args: mapping.fs_args,
                }
            }
        }

        string_or::<_, Mapping, _>(deserializer, "a disk name or a mapping with `name`")
    }
}
