//! What the driver fills into the configuration, and what it refuses.

use std::path::Path;

use berth_config::model::{Arch, Config, GuestOs, MountType, Network};
use berth_config::platform::{HostOs, HostPlatform};
use berth_instance::dir::InstanceDir;

use crate::error::DriverError;
use crate::qemu::accel::Accel;
use crate::qemu::probe::Version;
use crate::qemu::{arch, files, firmware};

const VNC_DISPLAY: &str = "127.0.0.1:0,to=9";
const VIRTIOFS_QUEUE: u32 = 1024;

/// Fills what is left to the driver.
///
/// `lima_version`: content of the instance's `lima-version`; Lima before 1.0 shared directories in another way.
pub(super) fn fill(
    config: &mut Config,
    host: &HostPlatform,
    lima_version: Option<&str>,
) -> Result<(), DriverError> {
    if config.video.vnc.display.is_empty() {
        VNC_DISPLAY.clone_into(&mut config.video.vnc.display);
    }
    let unsupported = |word: &str| {
        config
            .mount_types_unsupported
            .iter()
            .any(|other| other == word)
    };
    let mount_type = config.mount_type.unwrap_or_else(|| {
        let ancient = lima_version
            .and_then(Version::parse)
            .is_some_and(|version| version.0 < 1);
        if unsupported("9p") || host.os == HostOs::Windows || ancient {
            MountType::ReverseSshfs
        } else {
            MountType::NineP
        }
    });
    if unsupported(word(mount_type)) {
        let word = word(mount_type);
        return Err(DriverError::refuse(
            "mountType",
            format!("{word:?} stands in `mountTypesUnsupported`"),
        ));
    }
    config.mount_type = Some(mount_type);
    if mount_type == MountType::Virtiofs {
        for mount in &mut config.mounts {
            mount.virtiofs.queue_size.get_or_insert(VIRTIOFS_QUEUE);
        }
    }
    Ok(())
}

/// The word of lima.yaml.
pub(super) fn word(mount_type: MountType) -> &'static str {
    match mount_type {
        MountType::ReverseSshfs => "reverse-sshfs",
        MountType::NineP => "9p",
        MountType::Virtiofs => "virtiofs",
        MountType::Wsl2 => "wsl2",
    }
}

/// Every reason why QEMU cannot run this configuration here.
pub(super) fn problems(
    config: &Config,
    host: &HostPlatform,
    dir: &InstanceDir,
) -> Vec<DriverError> {
    let checks = [
        guest_system(config),
        mounts(config, host),
        tpm(config, host),
        audio(config),
        accelerator(config),
        minimum_version(config),
        socket_paths(host, dir),
        option_lists(config),
    ];
    let networks = config
        .networks
        .iter()
        .enumerate()
        .map(|(index, network)| network_backend(index, network));
    checks
        .into_iter()
        .chain(networks)
        .filter_map(Result::err)
        .collect()
}

/// What is accepted, but does nothing.
pub(super) fn warnings(config: &Config) -> Vec<String> {
    let mut warnings: Vec<_> = firmware::wants_flash(config).1.into_iter().collect();
    if config.ssh.over_vsock == Some(true) {
        warnings.push(
            "ssh.overVsock is ignored: QEMU reaches sshd through its user network".to_owned(),
        );
    }
    warnings
}

fn guest_system(config: &Config) -> Result<(), DriverError> {
    match config.os {
        GuestOs::Linux | GuestOs::FreeBSD => Ok(()),
        GuestOs::Windows => Err(DriverError::refuse(
            "os",
            "Windows guests are not built yet",
        )),
        GuestOs::Darwin => Err(DriverError::refuse(
            "os",
            "QEMU does not run macOS: use `vmType: vz` on a Mac",
        )),
    }
}

fn mounts(config: &Config, host: &HostPlatform) -> Result<(), DriverError> {
    let Some(mount_type) = config.mount_type.filter(|_| !config.mounts.is_empty()) else {
        return Ok(());
    };
    let word = word(mount_type);
    let allowed = match (mount_type, host.os) {
        (MountType::ReverseSshfs, _) => true,
        (MountType::NineP, os) => os != HostOs::Windows,
        (MountType::Virtiofs, os) => os == HostOs::Linux,
        (MountType::Wsl2, _) => false,
    };
    if !allowed {
        return Err(DriverError::refuse(
            "mountType",
            format!("QEMU on this host cannot do {word:?}: use \"reverse-sshfs\""),
        ));
    }
    Ok(())
}

fn tpm(config: &Config, host: &HostPlatform) -> Result<(), DriverError> {
    if !config.tpm {
        return Ok(());
    }
    if host.os == HostOs::Windows {
        return Err(DriverError::refuse(
            "tpm",
            "the TPM emulator does not run on Windows",
        ));
    }
    if arch::tpm_device(config.arch).is_none() {
        return Err(DriverError::refuse(
            "tpm",
            "QEMU has no TPM for this architecture",
        ));
    }
    Ok(())
}

fn audio(config: &Config) -> Result<(), DriverError> {
    match config.audio.interface.as_str() {
        "" | "hda" | "virtio" => Ok(()),
        other => Err(DriverError::refuse(
            "audio.interface",
            format!("{other:?} is unknown: use \"hda\" or \"virtio\""),
        )),
    }
}

fn accelerator(config: &Config) -> Result<(), DriverError> {
    let wanted = config
        .vm_opts
        .qemu
        .as_ref()
        .and_then(|qemu| qemu.accel.as_deref());
    match wanted.map(str::parse::<Accel>) {
        Some(Err(why)) => Err(DriverError::refuse("vmOpts.qemu.accel", why)),
        _ => Ok(()),
    }
}

fn minimum_version(config: &Config) -> Result<(), DriverError> {
    let wanted = config
        .vm_opts
        .qemu
        .as_ref()
        .and_then(|qemu| qemu.minimum_version.as_deref());
    match wanted {
        Some(text) if Version::parse(text).is_none() => Err(DriverError::refuse(
            "vmOpts.qemu.minimumVersion",
            format!("{text:?} is no version: write it as \"8.2.1\""),
        )),
        _ => Ok(()),
    }
}

/// Unix sockets have short paths; QEMU would only say so after everything else was done.
fn socket_paths(host: &HostPlatform, dir: &InstanceDir) -> Result<(), DriverError> {
    let max = host.unix_path_max();
    let length = |path: &Path| path.as_os_str().len();
    let longest = files::sockets(dir)
        .into_iter()
        .max_by_key(|path| length(path));
    match longest {
        Some(path) if length(&path) >= max => Err(DriverError::refuse(
            "LIMA_HOME",
            format!(
                "the path {} has {} bytes, but a socket's may have {}: use a shorter LIMA_HOME or instance name",
                path.display(),
                length(&path),
                max - 1
            ),
        )),
        _ => Ok(()),
    }
}

/// Values that become part of an option list must not start another option.
fn option_lists(config: &Config) -> Result<(), DriverError> {
    let words = config
        .mounts
        .iter()
        .map(|mount| ("mounts[].9p.securityModel", &mount.nine_p.security_model))
        .chain(std::iter::once(("audio.device", &config.audio.device)));
    for (key, value) in words {
        if value.contains(',') {
            return Err(DriverError::refuse(
                key,
                format!("{value:?} contains a comma"),
            ));
        }
    }
    Ok(())
}

fn network_backend(index: usize, network: &Network) -> Result<(), DriverError> {
    if let Some(name) = &network.lima {
        return Err(DriverError::refuse(
            format!("networks[{index}].lima"),
            format!("the network {name:?} is not built yet for QEMU: remove it, or use `socket:`"),
        ));
    }
    if network.socket.is_none() {
        return Err(DriverError::refuse(
            format!("networks[{index}]"),
            "QEMU needs `socket:` here (`vzNAT` is for vmType vz)",
        ));
    }
    Ok(())
}

/// Whether the CPU that lima.yaml asks for is one that QEMU knows. `max` always is.
pub(super) fn check_cpu(
    cpu: &str,
    known: &std::collections::BTreeSet<String>,
    guest: Arch,
) -> Result<(), DriverError> {
    let model = cpu.split(',').next().unwrap_or(cpu);
    if model == "max" || known.is_empty() || known.contains(model) {
        return Ok(());
    }
    let name = arch::binary_suffix(guest);
    Err(DriverError::refuse(
        "vmOpts.qemu.cpuType",
        format!(
            "{model:?} is no CPU that qemu-system-{name} knows: see `qemu-system-{name} -cpu help`"
        ),
    ))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use serde_json::json;

    use super::*;
    use crate::testing::{config, merge, mount, platform};

    fn chosen(os: HostOs, changes: serde_json::Value, version: Option<&str>) -> Option<MountType> {
        let mut config = config(changes);
        fill(&mut config, &platform(os, Arch::X8664), version).unwrap();
        config.mount_type
    }

    #[test]
    fn mount_types_by_default() {
        use MountType::{NineP, ReverseSshfs, Virtiofs};
        let without_9p = json!({"mountTypesUnsupported": ["9p"]});
        for (os, changes, version, want) in [
            (HostOs::Linux, json!({}), None, NineP),
            (HostOs::Linux, json!({}), Some("v2.2.0\n"), NineP),
            (HostOs::Linux, json!({}), Some("1.0.0"), NineP),
            (
                HostOs::Linux,
                json!({}),
                Some("0.23.2-10-gabc"),
                ReverseSshfs,
            ),
            (HostOs::Linux, json!({}), Some("nonsense"), NineP),
            (HostOs::Darwin, json!({}), None, NineP),
            (HostOs::Windows, json!({}), None, ReverseSshfs),
            (HostOs::Linux, without_9p, None, ReverseSshfs),
            (
                HostOs::Linux,
                json!({"mountType": "virtiofs"}),
                None,
                Virtiofs,
            ),
        ] {
            assert_eq!(
                chosen(os, changes.clone(), version),
                Some(want),
                "{os:?} {changes} {version:?}"
            );
        }
        let mut config = config(json!({"mountType": "9p", "mountTypesUnsupported": ["9p"]}));
        let error = fill(&mut config, &platform(HostOs::Linux, Arch::X8664), None).unwrap_err();
        assert_eq!(
            error.to_string(),
            "mountType: \"9p\" stands in `mountTypesUnsupported`"
        );
    }

    fn refusals(os: HostOs, changes: serde_json::Value) -> Vec<String> {
        let dir = InstanceDir::new(PathBuf::from("/home/jane/.lima/x"));
        let errors = problems(&config(changes), &platform(os, Arch::X8664), &dir);
        errors.iter().map(ToString::to_string).collect()
    }

    fn network(extra: serde_json::Value) -> serde_json::Value {
        let mut network = json!({"macAddress": "", "interface": "lima0", "metric": 100});
        merge(&mut network, extra);
        json!({"networks": [network]})
    }

    #[test]
    fn what_cannot_be_is_named_by_its_key() {
        let mounts = json!([mount("/x", false)]);
        for (os, changes, key, why) in [
            (
                HostOs::Linux,
                json!({"os": "Windows"}),
                "os",
                "not built yet",
            ),
            (HostOs::Linux, json!({"os": "Darwin"}), "os", "vmType: vz"),
            (
                HostOs::Darwin,
                json!({"mounts": mounts, "mountType": "virtiofs"}),
                "mountType",
                "cannot do \"virtiofs\"",
            ),
            (
                HostOs::Windows,
                json!({"mounts": mounts, "mountType": "9p"}),
                "mountType",
                "cannot do \"9p\"",
            ),
            (
                HostOs::Linux,
                json!({"mounts": mounts, "mountType": "wsl2"}),
                "mountType",
                "cannot do \"wsl2\"",
            ),
            (
                HostOs::Linux,
                json!({"arch": "s390x", "tpm": true}),
                "tpm",
                "no TPM for this architecture",
            ),
            (
                HostOs::Windows,
                json!({"tpm": true}),
                "tpm",
                "does not run on Windows",
            ),
            (
                HostOs::Linux,
                json!({"audio": {"interface": "ac97"}}),
                "audio.interface",
                "\"ac97\" is unknown",
            ),
            (
                HostOs::Linux,
                json!({"audio": {"device": "pa,x=y"}}),
                "audio.device",
                "contains a comma",
            ),
            (
                HostOs::Linux,
                json!({"vmOpts": {"qemu": {"accel": "fast"}}}),
                "vmOpts.qemu.accel",
                "no accelerator",
            ),
            (
                HostOs::Linux,
                json!({"vmOpts": {"qemu": {"minimumVersion": "new"}}}),
                "vmOpts.qemu.minimumVersion",
                "no version",
            ),
            (
                HostOs::Linux,
                network(json!({"lima": "user-v2"})),
                "networks[0].lima",
                "\"user-v2\" is not built yet",
            ),
            (
                HostOs::Linux,
                network(json!({"vzNAT": true})),
                "networks[0]",
                "needs `socket:`",
            ),
        ] {
            let found = refusals(os, changes.clone());
            assert_eq!(found.len(), 1, "{changes}: {found:?}");
            assert!(
                found[0].starts_with(&format!("{key}: ")) && found[0].contains(why),
                "{found:?}"
            );
        }
        assert!(refusals(HostOs::Linux, json!({})).is_empty());
        assert!(refusals(HostOs::Linux, network(json!({"socket": "/run/x"}))).is_empty());
        let several = json!({"os": "Darwin", "tpm": true, "arch": "s390x"});
        assert_eq!(
            refusals(HostOs::Linux, several).len(),
            2,
            "all, not the first"
        );
    }

    #[test]
    fn a_path_too_long_for_a_socket_is_refused_with_its_length() {
        let check = |os, length: usize| {
            let root = format!("/{}", "x".repeat(length - "/qmp-berth.sock".len() - 1));
            socket_paths(
                &platform(os, Arch::X8664),
                &InstanceDir::new(PathBuf::from(root)),
            )
        };
        check(HostOs::Linux, 107).unwrap();
        let error = check(HostOs::Linux, 108).unwrap_err().to_string();
        assert!(
            error.starts_with("LIMA_HOME: ")
                && error.contains("108 bytes, but a socket's may have 107"),
            "{error}"
        );
        check(HostOs::Darwin, 103).unwrap();
        check(HostOs::Darwin, 104).unwrap_err();
    }
}
