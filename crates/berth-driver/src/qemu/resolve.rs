//! From a configuration to a [`Plan`]: everything is decided here, and nothing is run.

use std::path::{Path, PathBuf};

use berth_config::mac;
use berth_config::model::{Arch, Config, GuestOs, MountType};
use berth_config::platform::{HostOs, HostPlatform};
use berth_image::check;
use berth_instance::dir::InstanceDir;

use crate::device_names::{disk_serial, mount_tag};
use crate::error::DriverError;
use crate::programs;
use crate::qemu::accel::{self, Accel, Hardware};
use crate::qemu::defaults::check_cpu;
use crate::qemu::files;
use crate::qemu::firmware::Search;
use crate::qemu::plan::{
    Audio, DataDisk, DirectKernel, DiskFile, Display, Nic, NicBackend, NinePShare, Plan, Reconnect,
    Shares, SoundCard, VirtiofsShare,
};
use crate::qemu::probe::{Capabilities, Version};
use crate::qemu::program::Program;

/// What a plan is made from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Inputs<'a> {
    pub(super) name: &'a str,
    pub(super) dir: &'a InstanceDir,
    pub(super) config: &'a Config,
    pub(super) host: &'a HostPlatform,
    pub(super) env: &'a [(String, String)],
    pub(super) program: &'a Program,
    pub(super) capabilities: &'a Capabilities,
}

/// A plan, and what a user should know about it.
#[derive(Debug)]
pub(super) struct Resolved {
    pub(super) plan: Plan,
    pub(super) warnings: Vec<String>,
}

impl Inputs<'_> {
    /// Decides everything. Reads headers of disks and looks for files; makes only the copy of the UEFI variables.
    pub(super) fn resolve(
        self,
        hardware: impl FnOnce() -> Hardware,
    ) -> Result<Resolved, DriverError> {
        let mut warnings = Vec::new();
        let accel = self.accel(hardware, &mut warnings)?;
        let firmware = Search {
            config: self.config,
            host: self.host,
            program: self.program,
            dir: self.dir,
        };
        let windows_guest = self.config.os == GuestOs::Windows;
        let plan = Plan {
            program: self.program.clone(),
            given: self.program.given(),
            name: self.name.to_owned(),
            dir: self.dir.clone(),
            arch: self.config.arch,
            windows_guest,
            memory: self.memory(accel, &mut warnings),
            cpus: self.config.cpus,
            cpu: self.cpu(accel)?,
            accel,
            firmware: firmware.resolve()?,
            disk: disk_file(&self.dir.disk(), Some(&self.dir.base_disk()))?,
            discs: self
                .dir
                .iso()
                .exists()
                .then(|| self.dir.iso())
                .into_iter()
                .collect(),
            data_disks: self.data_disks()?,
            cidata: Some(self.dir.cidata_iso()),
            kernel: self.kernel()?,
            tpm: self.config.tpm.then(|| self.dir.swtpm_sock()),
            nics: self.nics()?,
            audio: self.audio(&mut warnings),
            display: self.display(),
            shares: self.shares(),
        };
        for option in &plan.given {
            tracing::info!(
                option,
                "QEMU_SYSTEM_* gives this option; berth's own value for it is left out."
            );
        }
        Ok(Resolved { plan, warnings })
    }

    /// `BERTH_QEMU_ACCEL`, else `vmOpts.qemu.accel`, else what the host can.
    fn accel(
        self,
        hardware: impl FnOnce() -> Hardware,
        warnings: &mut Vec<String>,
    ) -> Result<Accel, DriverError> {
        const VARIABLE: &str = "BERTH_QEMU_ACCEL";
        let known = &self.capabilities.accels;
        let has = |accel: Accel| known.is_empty() || known.contains(accel.as_str());
        let by_env = programs::get(self.env, VARIABLE).filter(|value| !value.is_empty());
        let by_config = self
            .config
            .vm_opts
            .qemu
            .as_ref()
            .and_then(|qemu| qemu.accel.as_deref());
        let wanted = by_env
            .map(|value| (VARIABLE, value))
            .or(by_config.map(|value| ("vmOpts.qemu.accel", value)));
        if let Some((key, value)) = wanted {
            let refuse = |why: String| DriverError::Unsupported {
                key: key.to_owned(),
                why,
            };
            let accel: Accel = value.parse().map_err(refuse)?;
            if has(accel) {
                return Ok(accel);
            }
            let path = self.program.path.display();
            return Err(refuse(format!(
                "{path} was built without the accelerator {accel}"
            )));
        }
        let (accel, warning) = accel::choose(self.host, self.config.arch, hardware);
        warnings.extend(warning);
        if has(accel) {
            return Ok(accel);
        }
        let path = self.program.path.display();
        warnings.push(format!(
            "{path} was built without {accel}: the VM runs without acceleration, and slowly"
        ));
        Ok(Accel::Tcg)
    }

    fn cpu(self, accel: Accel) -> Result<String, DriverError> {
        let arch = self.config.arch;
        let wanted = self
            .config
            .vm_opts
            .qemu
            .as_ref()
            .and_then(|qemu| qemu.cpu_type.get(&arch));
        let cpu = wanted.cloned().unwrap_or_else(|| {
            accel::default_cpu(self.host, arch, accel, self.capabilities.host_cpu_allowed)
        });
        check_cpu(&cpu, &self.capabilities.cpus, arch)?;
        Ok(cpu)
    }

    /// macOS before 12.4 on Apple chips gives a VM no more than 3 GiB.
    fn memory(self, accel: Accel, warnings: &mut Vec<String>) -> u64 {
        const LIMIT: u64 = 3 << 30;
        let bytes = self.config.memory.bytes();
        let limited = self.host.os == HostOs::Darwin
            && self.config.arch == Arch::Aarch64
            && accel == Accel::Hvf
            && Version::parse(&self.host.os_version)
                .is_some_and(|version| version < Version(12, 4, 0));
        if limited && bytes > LIMIT {
            warnings
                .push("memory is limited to 3GiB: macOS before 12.4 gives a VM no more".to_owned());
            return LIMIT;
        }
        bytes
    }

    fn data_disks(self) -> Result<Vec<DataDisk>, DriverError> {
        let home = self.dir.path().parent().unwrap_or(Path::new("/"));
        self.config
            .additional_disks
            .iter()
            .map(|disk| {
                let path = home.join("_disks").join(&disk.name).join("datadisk");
                if !path.exists() {
                    let name = &disk.name;
                    return Err(DriverError::Unsupported {
                        key: "additionalDisks".to_owned(),
                        why: format!("the disk {name:?} does not exist ({}): create it with `limactl disk create {name}`", path.display()),
                    });
                }
                Ok(DataDisk {
                    file: disk_file(&path, None)?,
                    serial: disk_serial(&disk.name),
                })
            })
            .collect()
    }

    fn kernel(self) -> Result<DirectKernel, DriverError> {
        let cmdline = self.dir.kernel_cmdline();
        let existing = |path: PathBuf| path.exists().then_some(path);
        Ok(DirectKernel {
            kernel: existing(self.dir.kernel()),
            cmdline: existing(cmdline)
                .map(|path| std::fs::read_to_string(&path).map_err(DriverError::io("read", &path)))
                .transpose()?,
            initrd: existing(self.dir.initrd()),
        })
    }

    fn nics(self) -> Result<Vec<Nic>, DriverError> {
        let first = Nic {
            index: 0,
            backend: NicBackend::User,
            mac: mac::first_nic(&self.host.machine_id, self.dir.path()),
        };
        let mut nics = vec![first];
        for (index, network) in self.config.networks.iter().enumerate() {
            // Validation refuses every other kind.
            let Some(socket) = &network.socket else {
                continue;
            };
            if !self.capabilities.netdevs.contains("stream") {
                return Err(DriverError::Unsupported {
                    key: format!("networks[{index}].socket"),
                    why: "needs QEMU 7.2 or later (`-netdev stream`): install a newer QEMU"
                        .to_owned(),
                });
            }
            nics.push(Nic {
                index: index + 1,
                backend: NicBackend::Stream {
                    socket: socket.clone(),
                    reconnect: self.reconnect(),
                },
                mac: network.mac_address.clone(),
            });
        }
        Ok(nics)
    }

    fn reconnect(self) -> Reconnect {
        let version = self.capabilities.version_or_oldest();
        if version >= Version(9, 2, 0) {
            Reconnect::Milliseconds
        } else if version >= Version(8, 0, 0) {
            Reconnect::Seconds
        } else {
            Reconnect::Never
        }
    }

    fn audio(self, warnings: &mut Vec<String>) -> Audio {
        let audio = &self.config.audio;
        let driver = match (audio.device.as_str(), self.host.os) {
            ("" | "none", _) => return Audio::None,
            ("default", HostOs::Darwin) => "coreaudio",
            ("default", HostOs::Linux) => "pa",
            ("default", HostOs::Windows) => "dsound",
            ("default", HostOs::Other) => "oss",
            (device, _) => device,
        };
        let mut card = SoundCard::Hda;
        if audio.interface == "virtio" {
            if self.capabilities.version_or_oldest() >= Version(8, 2, 0) {
                card = SoundCard::Virtio;
            } else {
                warnings.push(
                    "audio.interface: \"virtio\" needs QEMU 8.2 or later; \"hda\" is used"
                        .to_owned(),
                );
            }
        }
        Audio::Card {
            driver: driver.to_owned(),
            card,
        }
    }

    fn display(self) -> Display {
        match self.config.video.display.as_str() {
            "" | "none" => Display::None,
            "vnc" => Display::Vnc(self.config.video.vnc.display.clone()),
            other => Display::Other(other.to_owned()),
        }
    }

    fn shares(self) -> Shares {
        let mounts = self.config.mounts.iter();
        let tag =
            |mount: &berth_config::model::Mount| mount_tag(&mount.location, &mount.mount_point);
        match self.config.mount_type {
            Some(MountType::NineP) if !self.config.mounts.is_empty() => Shares::NineP(
                mounts
                    .map(|mount| NinePShare {
                        tag: tag(mount),
                        path: mount.location.clone(),
                        security_model: mount.nine_p.security_model.clone(),
                        writable: mount.writable,
                    })
                    .collect(),
            ),
            Some(MountType::Virtiofs) if !self.config.mounts.is_empty() => Shares::Virtiofs(
                mounts
                    .enumerate()
                    .map(|(index, mount)| VirtiofsShare {
                        tag: tag(mount),
                        socket: files::virtiofsd_socket(self.dir, index),
                        queue_size: mount.virtiofs.queue_size.unwrap_or(1024),
                        directory: mount.location.clone(),
                        writable: mount.writable,
                    })
                    .collect(),
            ),
            _ => Shares::None,
        }
    }
}

/// A disk that was checked: self-contained, and of a format that is spelled out.
fn disk_file(path: &Path, base: Option<&Path>) -> Result<DiskFile, DriverError> {
    let disk = check::disk(path, base)?;
    Ok(DiskFile {
        path: disk.path,
        format: disk.format,
    })
}
