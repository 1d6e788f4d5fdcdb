//! A VM with everything decided: what a [`super::Flavour`] turns into a command line.

use std::path::{Path, PathBuf};

use berth_config::mac;
use berth_config::model::{Config, MountType};
use berth_image::check;
use berth_image::format::Format;
use berth_instance::dir::InstanceDir;

use crate::device_names::{disk_serial, mount_tag};
use crate::driver::DriverContext;
use crate::error::DriverError;

/// Everything that decides the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The instance's directory, where sockets and logs go.
    pub dir: InstanceDir,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Memory in MiB.
    pub memory: u64,
    /// What the machine starts from.
    pub boot: Boot,
    /// The root disk, then the additional ones.
    pub disks: Vec<Disk>,
    /// Installer image.
    pub iso: Option<PathBuf>,
    /// The cidata volume. After the disks: they keep their names.
    pub cidata: PathBuf,
    /// Network interfaces.
    pub nics: Vec<Nic>,
    /// Directories shared by virtiofs.
    pub shares: Vec<Share>,
    /// Virtual machines in the guest.
    pub nested: bool,
    /// A window.
    pub display: bool,
    /// Rosetta is shared with the guest.
    pub rosetta: bool,
}

/// What the machine starts from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Boot {
    /// UEFI, with the instance's own variables.
    Efi {
        /// Where they are kept; made when missing.
        variables: PathBuf,
    },
    /// A kernel.
    Linux {
        /// The kernel, uncompressed on ARM.
        kernel: PathBuf,
        /// Its initial RAM disk.
        initrd: Option<PathBuf>,
        /// Its command line.
        cmdline: String,
    },
}

/// A raw disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// The file.
    pub path: PathBuf,
    /// Serial number by which the guest finds it; the root disk has none.
    pub serial: Option<String>,
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nic {
    /// MAC address.
    pub mac: String,
    /// Where it leads.
    pub way: Way,
}

/// Where a network interface leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// macOS's own network, with the host as router.
    Nat,
    /// A unix socket of datagrams, one for each frame.
    Socket(PathBuf),
}

/// A directory shared by virtiofs, always writable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// On the host.
    pub path: PathBuf,
    /// Its name in the guest.
    pub tag: String,
}

impl Plan {
    /// Decides everything. Reads headers of disks and looks for files; writes nothing.
    pub(super) fn resolve(
        context: &DriverContext,
        config: &Config,
        first_way: Way,
    ) -> Result<Self, DriverError> {
        const MIB: u64 = 1 << 20;
        let dir = &context.dir;
        let rosetta = crate::vz::Options::of(config).rosetta.enabled;
        let first = Nic {
            mac: mac::first_nic(&context.platform.machine_id, dir.path()),
            way: first_way,
        };
        let others = config.networks.iter().map(|network| Nic {
            mac: network.mac_address.clone(),
            // Validation refuses what is neither.
            way: network.socket.clone().map_or(Way::Nat, Way::Socket),
        });
        Ok(Self {
            dir: dir.clone(),
            cpus: config.cpus,
            memory: config.memory.bytes().div_ceil(MIB),
            boot: boot(dir)?,
            disks: disks(dir, config)?,
            iso: existing(dir.iso()),
            cidata: dir.cidata_iso(),
            nics: std::iter::once(first).chain(others).collect(),
            shares: shares(config),
            nested: config.nested_virtualization,
            display: matches!(config.video.display.as_str(), "vz" | "default"),
            rosetta: rosetta && context.platform.arch == berth_config::model::Arch::Aarch64,
        })
    }
}

fn existing(path: PathBuf) -> Option<PathBuf> {
    path.exists().then_some(path)
}

fn boot(dir: &InstanceDir) -> Result<Boot, DriverError> {
    let Some(kernel) = existing(dir.kernel()) else {
        return Ok(Boot::Efi {
            variables: dir.path().join("vz-efi"),
        });
    };
    let cmdline = existing(dir.kernel_cmdline())
        .map(|path| std::fs::read_to_string(&path).map_err(DriverError::io("read", &path)))
        .transpose()?
        .unwrap_or_default();
    let cmdline = cmdline.trim().to_owned();
    if cmdline.contains('"') {
        return Err(DriverError::refuse(
            "images[].kernel.cmdline",
            "has a quotation mark, which the program's command line cannot carry",
        ));
    }
    Ok(Boot::Linux {
        kernel,
        initrd: existing(dir.initrd()),
        cmdline,
    })
}

fn disks(dir: &InstanceDir, config: &Config) -> Result<Vec<Disk>, DriverError> {
    let root = Disk {
        path: raw(dir.disk(), "disk")?,
        serial: None,
    };
    let home = dir.path().parent().unwrap_or(Path::new("/"));
    let mut disks = vec![root];
    for disk in &config.additional_disks {
        let name = &disk.name;
        let path = home.join("_disks").join(name).join("datadisk");
        if !path.exists() {
            return Err(DriverError::refuse(
                "additionalDisks",
                format!(
                    "the disk {name:?} does not exist ({}): create it with `berth disk create {name}`",
                    path.display()
                ),
            ));
        }
        disks.push(Disk {
            path: raw(path, "additionalDisks")?,
            serial: Some(disk_serial(name)),
        });
    }
    Ok(disks)
}

/// Refuses a disk that is not raw: its snapshots would be lost if it were converted without a word.
fn raw(path: PathBuf, key: &str) -> Result<PathBuf, DriverError> {
    let disk = check::disk(&path, None)?;
    if disk.format == Format::Raw {
        return Ok(path);
    }
    let (shown, format) = (path.display(), disk.format);
    Err(DriverError::refuse(
        key,
        format!(
            "{shown} is {format}, and this driver takes raw disks only: convert it with \
             `qemu-img convert -O raw {shown} {shown}.raw && mv {shown}.raw {shown}` (snapshots in it are lost)"
        ),
    ))
}

fn shares(config: &Config) -> Vec<Share> {
    if config.mount_type != Some(MountType::Virtiofs) {
        return Vec::new();
    }
    let mounts = config.mounts.iter();
    mounts
        .map(|mount| Share {
            path: mount.location.clone(),
            tag: mount_tag(&mount.location, &mount.mount_point),
        })
        .collect()
}
