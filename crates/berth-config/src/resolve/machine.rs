//! The virtual machine itself: driver, CPUs, memory, disks, devices.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::model::{
    AdditionalDisk, Arch, Audio, Firmware, FirmwareImage, MountType, QemuOpts, Ssh, Video, VmOpts,
    VmType, Vnc,
};
use crate::platform::HostOs;
use crate::schema::LimaYaml;
use crate::size::Size;

use super::Resolver;

const GIB: u64 = 1 << 30;
const DEFAULT_MEMORY: u64 = 4 * GIB;
const DEFAULT_CPUS: u32 = 4;
const DEFAULT_DISK: u64 = 100 * GIB;

impl Resolver<'_> {
    pub(super) fn vm_type(&mut self, arch: Arch) -> VmType {
        match self.text(|yaml| yaml.vm_type.as_deref()) {
            Some(word) if !word.is_empty() && word != "default" => VmType::from(word),
            _ if arch != self.ctx.platform.arch => VmType::Qemu,
            _ if self.ctx.platform.os == HostOs::Darwin => VmType::Vz,
            _ => VmType::Qemu,
        }
    }

    /// Options by driver. A driver's options are replaced as a whole by a higher document's.
    pub(super) fn vm_opts(&mut self) -> VmOpts {
        let mut others = self.sources.overlaid(|yaml| yaml.vm_opts.as_ref());
        let qemu = others.remove("qemu").map(|value| self.qemu_opts(value));
        let qemu = self.with_deprecated_cpu_types(qemu);
        self.add_deprecated_rosetta(&mut others);
        VmOpts { qemu, others }
    }

    fn qemu_opts(&mut self, value: Value) -> QemuOpts {
        let mut unknown = Vec::new();
        let read = serde_ignored::deserialize(value, |path| {
            unknown.push(path.to_string().replace("?.", ""));
        });
        for key in unknown {
            self.report.warn(
                format!("vmOpts.qemu.{key}"),
                "unknown key, ignored: check the spelling",
            );
        }
        match read {
            Ok(opts) => Option::unwrap_or_default(opts),
            Err(error) => {
                let why = error.to_string();
                self.report.refuse(
                    "vmOpts.qemu",
                    why.replace("unknown variant", "unknown value"),
                );
                QemuOpts::default()
            }
        }
    }

    /// Adds the deprecated `cpuType`; what stands in `vmOpts.qemu.cpuType` wins.
    fn with_deprecated_cpu_types(&mut self, qemu: Option<QemuOpts>) -> Option<QemuOpts> {
        let deprecated = &self.sources.instance.yaml.cpu_type;
        if deprecated.values().all(String::is_empty) {
            return qemu;
        }
        self.report
            .warn("cpuType", "deprecated: write it as `vmOpts.qemu.cpuType`");
        let mut qemu = qemu.unwrap_or_default();
        for (arch, cpu_type) in deprecated {
            let key = format!("cpuType.{arch}");
            if let Some(arch) = self.word(&key, arch)
                && !cpu_type.is_empty()
            {
                let winner = qemu
                    .cpu_type
                    .entry(arch)
                    .or_insert_with(|| cpu_type.clone());
                if winner != cpu_type {
                    self.report.warn(
                        key,
                        format!("ignored: `vmOpts.qemu.cpuType` says {winner:?}"),
                    );
                }
            }
        }
        Some(qemu)
    }

    /// Adds the deprecated `rosetta`, which counts only if `vmOpts.vz.rosetta` says nothing.
    fn add_deprecated_rosetta(&mut self, others: &mut BTreeMap<String, Value>) {
        let deprecated = &self.sources.instance.yaml.rosetta;
        if deprecated.enabled.is_none() && deprecated.binfmt.is_none() {
            return;
        }
        self.report
            .warn("rosetta", "deprecated: write it as `vmOpts.vz.rosetta`");
        let vz = others
            .entry("vz".to_owned())
            .or_insert_with(|| Value::Object(serde_json::Map::new()));
        if let Some(vz) = vz.as_object_mut() {
            vz.entry("rosetta").or_insert_with(|| {
                serde_json::json!({
                    "enabled": deprecated.enabled.unwrap_or(false),
                    "binfmt": deprecated.binfmt.unwrap_or(false),
                })
            });
        }
    }

    pub(super) fn cpus(&mut self) -> u32 {
        let default = self.ctx.platform.cpus.clamp(1, DEFAULT_CPUS);
        match self.sources.highest(|yaml| yaml.cpus) {
            None | Some(0) => default,
            Some(cpus) => u32::try_from(cpus).unwrap_or_else(|_| {
                self.report.refuse(
                    "cpus",
                    format!("{cpus} is no number of CPUs: write 1 or more"),
                );
                default
            }),
        }
    }

    pub(super) fn memory(&mut self) -> Size {
        let default = DEFAULT_MEMORY.min(self.ctx.platform.memory.bytes() / 2);
        self.size("memory", |yaml| yaml.memory.as_deref(), default)
    }

    pub(super) fn disk(&mut self) -> Size {
        self.size("disk", |yaml| yaml.disk.as_deref(), DEFAULT_DISK)
    }

    /// The highest size; an empty one counts as none.
    fn size(&mut self, key: &str, get: impl Fn(&LimaYaml) -> Option<&str>, default: u64) -> Size {
        match self.text(get) {
            Some(text) if !text.is_empty() => self.parse_size(key, &text, default),
            _ => Size::from_bytes(default),
        }
    }

    pub(super) fn parse_size(&mut self, key: &str, text: &str, default: u64) -> Size {
        Size::parse(text).unwrap_or_else(|error| {
            self.report.refuse(key, error.to_string());
            Size::from_bytes(default)
        })
    }

    pub(super) fn additional_disks(&mut self) -> Vec<AdditionalDisk> {
        self.report
            .concatenate("additionalDisks", |yaml| &yaml.additional_disks)
            .into_iter()
            .map(|disk| AdditionalDisk {
                name: disk.name.clone(),
                format: disk.format.unwrap_or(true),
                fs_type: disk.fs_type.clone().unwrap_or_else(|| "ext4".to_owned()),
                fs_args: disk.fs_args.clone(),
            })
            .collect()
    }

    pub(super) fn mount_types_unsupported(&mut self) -> Vec<String> {
        self.report
            .concatenate("mountTypesUnsupported", |yaml| {
                &yaml.mount_types_unsupported
            })
            .into_iter()
            .cloned()
            .collect()
    }

    /// `None` leaves the choice to the driver.
    pub(super) fn mount_type(&mut self) -> Option<MountType> {
        match self.text(|yaml| yaml.mount_type.as_deref()).as_deref() {
            None | Some("" | "default") => None,
            Some(word) => self.word("mountType", word),
        }
    }

    pub(super) fn ssh(&mut self) -> Ssh {
        let local_port = self.sources.highest(|yaml| yaml.ssh.local_port);
        Ssh {
            local_port: Some(self.port("ssh.localPort", local_port)).filter(|port| *port != 0),
            load_dot_ssh_pub_keys: self.flag(|yaml| yaml.ssh.load_dot_ssh_pub_keys, false),
            forward_agent: self.flag(|yaml| yaml.ssh.forward_agent, false),
            forward_x11: self.flag(|yaml| yaml.ssh.forward_x11, false),
            forward_x11_trusted: self.flag(|yaml| yaml.ssh.forward_x11_trusted, false),
            over_vsock: self.sources.highest(|yaml| yaml.ssh.over_vsock),
        }
    }

    pub(super) fn firmware(&mut self, arch: Arch) -> Firmware {
        let entries = self
            .report
            .concatenate("firmware.images", |yaml| &yaml.firmware.images);
        let images = entries.into_iter().enumerate().map(|(index, image)| {
            let key = format!("firmware.images[{index}]");
            FirmwareImage {
                file: self.file(
                    &key,
                    image.location.as_deref(),
                    image.arch.as_deref(),
                    image.digest.as_deref(),
                    arch,
                ),
                vm_type: image
                    .vm_type
                    .as_ref()
                    .filter(|word| !word.is_empty())
                    .cloned()
                    .map(VmType::from),
            }
        });
        Firmware {
            images: images.collect(),
            legacy_bios: self.flag(|yaml| yaml.firmware.legacy_bios, false),
        }
    }

    pub(super) fn audio(&mut self) -> Audio {
        Audio {
            device: self
                .text(|yaml| yaml.audio.device.as_deref())
                .unwrap_or_default(),
            interface: self
                .text(|yaml| yaml.audio.interface.as_deref())
                .unwrap_or_default(),
        }
    }

    pub(super) fn video(&mut self) -> Video {
        Video {
            display: self
                .text(|yaml| yaml.video.display.as_deref())
                .filter(|display| !display.is_empty())
                .unwrap_or_else(|| "none".to_owned()),
            vnc: Vnc {
                display: self
                    .text(|yaml| yaml.video.vnc.display.as_deref())
                    .unwrap_or_default(),
            },
        }
    }
}
