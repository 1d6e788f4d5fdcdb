//! What neither program can express, by key of lima.yaml.

use std::path::Path;

use berth_config::model::{Config, GuestOs, MountType, Network, VmType};
use berth_config::platform::HostPlatform;
use berth_instance::dir::InstanceDir;

use crate::error::DriverError;
use crate::kit::{Flavour, files};

/// Every reason why such a program cannot run this configuration here.
pub(super) fn problems(
    flavour: &dyn Flavour,
    config: &Config,
    host: &HostPlatform,
    dir: &InstanceDir,
) -> Vec<DriverError> {
    let program = flavour.program();
    let checks = [
        guest_system(config, program),
        tpm(config, program),
        audio(config, program),
        firmware(config, flavour),
        mount_type(config, program),
        over_vsock(config, program),
        static_names(config, program),
        socket_paths(host, dir),
        instance_path(flavour, dir),
    ];
    let mounts = config.mounts.iter().enumerate().map(|(index, mount)| {
        let key = format!("mounts[{index}].location");
        path(flavour, &key, &mount.location)
    });
    let networks = config.networks.iter().enumerate();
    let networks = networks.map(|(index, network)| interface(flavour, index, network));
    checks
        .into_iter()
        .chain(mounts)
        .chain(networks)
        .filter_map(Result::err)
        .collect()
}

/// What is accepted, but does nothing, or less than one may think.
pub(super) fn warnings(config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    if config.firmware.legacy_bios {
        warnings.push("firmware.legacyBIOS is ignored: there is only UEFI".to_owned());
    }
    if config.plain {
        warnings.push(
            "plain: the guest's own sshd must listen on vsock port 22, as systemd 256 and later have it do"
                .to_owned(),
        );
    }
    warnings
}

fn guest_system(config: &Config, program: &str) -> Result<(), DriverError> {
    let why = match config.os {
        GuestOs::Linux => return Ok(()),
        GuestOs::Darwin => {
            format!("{program} cannot install macOS: there is no way yet to run it with berth")
        }
        GuestOs::FreeBSD | GuestOs::Windows => {
            format!(
                "{program} is reached over vsock, which only Linux guests have: use `vmType: qemu`"
            )
        }
    };
    Err(DriverError::refuse("os", why))
}

fn tpm(config: &Config, program: &str) -> Result<(), DriverError> {
    if config.tpm {
        let why = format!("{program} has no TPM: use `vmType: qemu`");
        return Err(DriverError::refuse("tpm", why));
    }
    Ok(())
}

fn audio(config: &Config, program: &str) -> Result<(), DriverError> {
    match config.audio.device.as_str() {
        "" | "none" => Ok(()),
        other => Err(DriverError::refuse(
            "audio.device",
            format!("{program} has no sound, so not {other:?}: use \"none\", or `vmType: qemu`"),
        )),
    }
}

/// Firmware that names no driver is QEMU's.
fn firmware(config: &Config, flavour: &dyn Flavour) -> Result<(), DriverError> {
    let ours = |vm_type: &Option<VmType>| {
        let named = vm_type.as_ref().map(VmType::as_str);
        named == Some(flavour.name())
    };
    let images = config.firmware.images.iter();
    match images.filter(|image| ours(&image.vm_type)).count() {
        0 => Ok(()),
        _ => Err(DriverError::refuse(
            "firmware.images",
            format!(
                "{} brings its own firmware: remove the entry",
                flavour.program()
            ),
        )),
    }
}

fn mount_type(config: &Config, program: &str) -> Result<(), DriverError> {
    let word = match config.mount_type {
        _ if config.mounts.is_empty() => return Ok(()),
        Some(MountType::NineP) => "9p",
        Some(MountType::Wsl2) => "wsl2",
        Some(MountType::Virtiofs) => return writable(config, program),
        Some(MountType::ReverseSshfs) | None => return Ok(()),
    };
    Err(DriverError::refuse(
        "mountType",
        format!("{program} cannot do {word:?}: use \"virtiofs\" or \"reverse-sshfs\""),
    ))
}

/// A guest that is root could mount for writing what only the guest's own options protect.
fn writable(config: &Config, program: &str) -> Result<(), DriverError> {
    let Some(index) = config.mounts.iter().position(|mount| !mount.writable) else {
        return Ok(());
    };
    Err(DriverError::refuse(
        format!("mounts[{index}].writable"),
        format!(
            "{program} shares by virtiofs only for writing: use `mountType: reverse-sshfs`, or `writable: true`"
        ),
    ))
}

fn over_vsock(config: &Config, program: &str) -> Result<(), DriverError> {
    if config.ssh.over_vsock == Some(false) {
        let why = format!("with {program} there is no other way to sshd: remove it");
        return Err(DriverError::refuse("ssh.overVsock", why));
    }
    Ok(())
}

/// The guest asks macOS for names, which the host resolver cannot listen to.
fn static_names(config: &Config, program: &str) -> Result<(), DriverError> {
    if config.host_resolver.enabled && !config.host_resolver.hosts.is_empty() {
        return Err(DriverError::refuse(
            "hostResolver.hosts",
            format!(
                "names of a guest of {program} are answered by macOS: write them into the guest's /etc/hosts in a provision script"
            ),
        ));
    }
    Ok(())
}

fn interface(flavour: &dyn Flavour, index: usize, network: &Network) -> Result<(), DriverError> {
    if let Some(name) = &network.lima {
        return Err(DriverError::refuse(
            format!("networks[{index}].lima"),
            format!("the network {name:?} is not built yet for this driver: remove it"),
        ));
    }
    match &network.socket {
        Some(socket) => path(flavour, &format!("networks[{index}].socket"), socket),
        None => Ok(()),
    }
}

/// Unix sockets have short paths; the program would only say so after everything else was done.
fn socket_paths(host: &HostPlatform, dir: &InstanceDir) -> Result<(), DriverError> {
    let max = host.unix_path_max();
    let mut sockets = files::sockets(dir).into_iter();
    match sockets.find(|path| path.as_os_str().len() >= max) {
        Some(path) => Err(DriverError::refuse(
            "LIMA_HOME",
            format!(
                "the path {} has {} bytes, but a socket's may have {}: use a shorter LIMA_HOME or instance name",
                path.display(),
                path.as_os_str().len(),
                max - 1
            ),
        )),
        None => Ok(()),
    }
}

/// vfkit takes a socket's path for a part of a URL, and makes another one of it where it has such characters.
fn instance_path(flavour: &dyn Flavour, dir: &InstanceDir) -> Result<(), DriverError> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-~+@:".contains(&byte);
    let bytes = dir.path().as_os_str().as_encoded_bytes();
    if bytes.iter().all(|&byte| plain(byte)) {
        return Ok(());
    }
    Err(DriverError::refuse(
        "LIMA_HOME",
        format!(
            "the path {} has characters that {} cannot have in the path of a socket: use only letters of ASCII, digits and / . _ - ~ + @ :",
            dir.path().display(),
            flavour.program()
        ),
    ))
}

fn path(flavour: &dyn Flavour, key: &str, path: &Path) -> Result<(), DriverError> {
    let text = path.to_string_lossy();
    let forbidden = flavour.forbidden_in_paths();
    match text.chars().find(|letter| forbidden.contains(letter)) {
        Some(letter) => Err(DriverError::refuse(
            key,
            format!(
                "{text:?} has {letter:?}, which {} cannot have in a path",
                flavour.program()
            ),
        )),
        None => Ok(()),
    }
}
