//! What WSL cannot express, by key of lima.yaml.

use berth_config::model::{Config, GuestOs, Image, Mount, MountType, VmType};
use berth_image::select::candidates;

use crate::error::DriverError;

/// Every reason why WSL cannot run this configuration.
pub(super) fn problems(config: &Config) -> Vec<DriverError> {
    let checks = [
        guest_system(config),
        plain(config),
        tpm(config),
        audio(config),
        display(config),
        firmware(config),
        disks(config),
        networks(config),
        over_vsock(config),
        name_servers(config),
        static_names(config),
        mount_type(config),
    ];
    let images = candidates(&config.images, config.arch).flat_map(|image| {
        let index = config.images.iter().position(|other| other == image);
        image_parts(index.unwrap_or_default(), image)
    });
    let mounts = config
        .mounts
        .iter()
        .enumerate()
        .map(|(index, mount)| share(index, mount));
    checks
        .into_iter()
        .chain(images)
        .chain(mounts)
        .filter_map(Result::err)
        .collect()
}

/// What is accepted, but does nothing.
pub(super) fn warnings(config: &Config) -> Vec<String> {
    let sockets = config.port_forwards.iter().enumerate().filter(|(_, rule)| {
        !rule.ignore && (!rule.guest_socket.is_empty() || rule.host_socket.is_some())
    });
    let mut warnings: Vec<String> = sockets
        .map(|(index, _)| {
            format!("portForwards[{index}] is skipped: sockets are not forwarded with WSL")
        })
        .collect();
    if config.nested_virtualization {
        warnings.push("nestedVirtualization is ignored: it is a setting of .wslconfig".to_owned());
    }
    warnings
}

fn refuse(key: impl Into<String>, why: &str) -> Result<(), DriverError> {
    Err(DriverError::refuse(key, why))
}

fn guest_system(config: &Config) -> Result<(), DriverError> {
    if config.os == GuestOs::Linux {
        return Ok(());
    }
    refuse("os", "WSL runs only Linux: use `vmType: qemu`")
}

/// Without cloud-init nobody but our agent makes the user.
fn plain(config: &Config) -> Result<(), DriverError> {
    if config.plain {
        return refuse(
            "plain",
            "a distribution of WSL is set up by berth's guest agent, which plain mode leaves out: remove it",
        );
    }
    Ok(())
}

fn tpm(config: &Config) -> Result<(), DriverError> {
    if config.tpm {
        return refuse("tpm", "WSL has no TPM: use `vmType: qemu`");
    }
    Ok(())
}

fn audio(config: &Config) -> Result<(), DriverError> {
    match config.audio.device.as_str() {
        "" | "none" | "default" => Ok(()),
        other => refuse(
            "audio.device",
            &format!("sound is WSL's own affair, so not {other:?}: use \"none\""),
        ),
    }
}

fn display(config: &Config) -> Result<(), DriverError> {
    match config.video.display.as_str() {
        "" | "none" => Ok(()),
        other => refuse(
            "video.display",
            &format!(
                "WSL shows windows of single programs and no display, so not {other:?}: use \"none\""
            ),
        ),
    }
}

/// Firmware that names no driver is QEMU's.
fn firmware(config: &Config) -> Result<(), DriverError> {
    let named = |vm_type: &Option<VmType>| *vm_type == Some(VmType::Wsl2);
    if config
        .firmware
        .images
        .iter()
        .any(|image| named(&image.vm_type))
    {
        return refuse("firmware.images", "WSL has no firmware: remove the entry");
    }
    Ok(())
}

fn disks(config: &Config) -> Result<(), DriverError> {
    if config.additional_disks.is_empty() {
        return Ok(());
    }
    refuse(
        "additionalDisks",
        "WSL attaches disks to all distributions at once, and only for administrators: use `vmType: qemu`",
    )
}

fn networks(config: &Config) -> Result<(), DriverError> {
    if config.networks.is_empty() {
        return Ok(());
    }
    refuse(
        "networks",
        "all distributions share WSL's own network: remove it",
    )
}

fn over_vsock(config: &Config) -> Result<(), DriverError> {
    if config.ssh.over_vsock == Some(true) {
        return refuse(
            "ssh.overVsock",
            "sshd is reached by TCP with WSL: remove it",
        );
    }
    Ok(())
}

/// `/etc/resolv.conf` is one file for all distributions, unless each is told otherwise.
fn name_servers(config: &Config) -> Result<(), DriverError> {
    if config.dns.is_empty() {
        return Ok(());
    }
    refuse(
        "dns",
        "WSL writes /etc/resolv.conf for all distributions: set `generateResolvConf=false` in /etc/wsl.conf of the image, and write it there",
    )
}

fn static_names(config: &Config) -> Result<(), DriverError> {
    if config.host_resolver.enabled && !config.host_resolver.hosts.is_empty() {
        return refuse(
            "hostResolver.hosts",
            "names of a guest are answered by Windows: write them into the guest's /etc/hosts in a provision script",
        );
    }
    Ok(())
}

fn mount_type(config: &Config) -> Result<(), DriverError> {
    let word = match config.mount_type {
        Some(MountType::Wsl2) | None => return Ok(()),
        Some(_) if config.mounts.is_empty() => return Ok(()),
        Some(MountType::NineP) => "9p",
        Some(MountType::Virtiofs) => "virtiofs",
        Some(MountType::ReverseSshfs) => "reverse-sshfs",
    };
    refuse(
        "mountType",
        &format!("WSL mounts the host's drives itself, and not by {word:?}: use \"wsl2\""),
    )
}

/// Every program of the guest reaches the drives with the rights of the Windows user, whatever one mount says.
fn share(index: usize, mount: &Mount) -> Result<(), DriverError> {
    if mount.writable {
        return Ok(());
    }
    refuse(
        format!("mounts[{index}].writable"),
        "WSL mounts the host's drives for writing, so nothing would be protected: use `writable: true`",
    )
}

/// What follows `.tar`, or stands for it.
const ARCHIVES: &[&str] = &[
    ".tar",
    ".tar.gz",
    ".tgz",
    ".tar.xz",
    ".txz",
    ".tar.bz2",
    ".tbz2",
    ".tar.zst",
    ".tar.zstd",
    ".tzst",
    ".wsl",
];

fn image_parts(index: usize, image: &Image) -> [Result<(), DriverError>; 2] {
    let key = |part: &str| format!("images[{index}].{part}");
    let location = image.file.location.to_ascii_lowercase();
    let archive = if ARCHIVES.iter().any(|ending| location.ends_with(ending)) {
        Ok(())
    } else {
        refuse(
            key("location"),
            &format!(
                "{:?} is no tar archive by its name, and WSL imports nothing but the root file system in one (.tar, .tar.gz, .tar.xz, …)",
                image.file.location
            ),
        )
    };
    let kernel = if image.kernel.is_some() || image.initrd.is_some() {
        refuse(
            key("kernel"),
            "WSL has one kernel for all distributions: remove it",
        )
    } else {
        Ok(())
    };
    [archive, kernel]
}
