//! Driver, architecture, sizes, devices.

use std::collections::BTreeSet;

use crate::model::{Arch, Config, GuestOs, VmType};
use crate::name::check_identifier;
use crate::resolve::ResolveContext;
use crate::size::Size;
use crate::version::LimaVersion;

use super::Findings;

/// Below this, a size is a number whose unit was forgotten.
const LEAST_SIZE: u64 = 1 << 20;

pub(super) fn check(config: &Config, ctx: &ResolveContext<'_>, findings: &mut Findings) {
    check_version(config, findings);
    check_driver(config, ctx, findings);
    if config.cpus == 0 {
        findings.add("cpus", "must be at least 1");
    }
    check_size("memory", &config.memory, findings);
    check_size("disk", &config.disk, findings);
    check_disks(config, findings);
    if config.ssh.local_port == Some(22) {
        findings.add(
            "ssh.localPort",
            "must not be 22: choose another port, or 0 for any",
        );
    }
    let mount_type = config
        .mount_type
        .and_then(|kind| serde_json::to_value(kind).ok());
    if let Some(word) = mount_type.as_ref().and_then(|value| value.as_str())
        && config
            .mount_types_unsupported
            .iter()
            .any(|unsupported| unsupported == word)
    {
        findings.add(
            "mountType",
            format!("`{word}` also stands in `mountTypesUnsupported`: choose another type"),
        );
    }
    check_tpm(config, findings);
    if !["", "hda", "virtio"].contains(&config.audio.interface.as_str()) {
        findings.add(
            "audio.interface",
            format!(
                "{:?} is unknown: write `hda` or `virtio`",
                config.audio.interface
            ),
        );
    }
}

fn check_version(config: &Config, findings: &mut Findings) {
    let Some(minimum) = &config.minimum_lima_version else {
        return;
    };
    match LimaVersion::parse(minimum) {
        LimaVersion::Release {
            numbers: [major, minor, patch],
            ..
        } => {
            let own = LimaVersion::current();
            if !own.at_least(major, minor, patch) {
                findings.add(
                    "minimumLimaVersion",
                    format!("{minimum:?} is newer than Lima {own}, which this berth follows: update berth"),
                );
            }
        }
        _ => findings.add(
            "minimumLimaVersion",
            format!("{minimum:?} is no version: write three numbers, such as `2.0.0`"),
        ),
    }
}

fn check_driver(config: &Config, ctx: &ResolveContext<'_>, findings: &mut Findings) {
    let driver = config.vm_type.as_str();
    if let VmType::External(name) = &config.vm_type
        && !ctx.external_drivers.names.contains(name)
    {
        let mut known = vec!["qemu", "vz", "krunkit", "wsl2"];
        known.extend(ctx.external_drivers.names.iter().map(String::as_str));
        let known = known.join(", ");
        let searched = ctx.external_drivers.searched.iter();
        let places: Vec<_> = searched.map(|place| place.display().to_string()).collect();
        let looked = match places.join(", ") {
            places if places.is_empty() => places,
            places => format!("; lima-driver-{name} was looked for in {places}"),
        };
        let why = format!("driver {name:?} is unknown: choose one of {known}{looked}");
        findings.add("vmType", why);
    }
    let native_only = matches!(config.vm_type, VmType::Vz | VmType::Krunkit | VmType::Wsl2);
    if native_only && config.arch != ctx.platform.arch {
        findings.add(
            "arch",
            format!("driver `{driver}` runs only the host's own architecture: use `vmType: qemu`"),
        );
    }
    if config.os == GuestOs::Windows {
        if config.vm_type != VmType::Qemu {
            findings.add(
                "os",
                format!("Windows needs `vmType: qemu`, not `{driver}`"),
            );
        }
        if !matches!(config.arch, Arch::X8664 | Arch::Aarch64) {
            findings.add("os", "Windows needs `arch: x86_64` or `arch: aarch64`");
        }
    }
}

fn check_size(key: &str, size: &Size, findings: &mut Findings) {
    if size.bytes() < LEAST_SIZE {
        let text = size.text();
        findings.add(
            key,
            format!(
                "{text:?} is {} bytes: did you mean \"{}GiB\"?",
                size.bytes(),
                text.trim()
            ),
        );
    }
}

fn check_disks(config: &Config, findings: &mut Findings) {
    let mut seen = BTreeSet::new();
    for (index, disk) in config.additional_disks.iter().enumerate() {
        let key = format!("additionalDisks[{index}].name");
        if let Err(error) = check_identifier(&disk.name) {
            findings.add(key, error.to_string());
        } else if !seen.insert(&disk.name) {
            findings.add(
                key,
                format!("disk {:?} is listed twice: remove one", disk.name),
            );
        }
    }
}

fn check_tpm(config: &Config, findings: &mut Findings) {
    if !config.tpm {
        return;
    }
    if !matches!(
        config.arch,
        Arch::X8664 | Arch::Aarch64 | Arch::Armv7l | Arch::Riscv64
    ) {
        findings.add("tpm", "not available for this architecture: remove it");
    }
    if matches!(config.vm_type, VmType::Vz | VmType::Wsl2) {
        findings.add(
            "tpm",
            format!(
                "driver `{}` has no TPM: use `vmType: qemu`",
                config.vm_type.as_str()
            ),
        );
    }
}
