//! Finding UEFI firmware, and giving each instance its own variables.

use std::fs::File;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use berth_config::model::{Arch, Config, FileSource, VmType};
use berth_config::platform::HostPlatform;
use berth_image::digest::Digest;
use berth_image::error::ImageError;
use berth_image::fetch::{Fetcher, Packing, Source};
use berth_image::progress::Progress;
use berth_image::staged::Staged;
use berth_instance::dir::InstanceDir;

use crate::error::DriverError;
use crate::qemu::arch;
use crate::qemu::plan::Firmware;
use crate::qemu::program::Program;

/// Firmware code, and the template of the variables that belong to it, if one is known.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pair {
    code: PathBuf,
    template: Option<PathBuf>,
}

/// Places of firmware in distributions: code, then the template of its variables.
fn system_pairs(guest: Arch) -> &'static [(&'static str, &'static str)] {
    match guest {
        Arch::X8664 => &[
            (
                "/usr/share/edk2/x64/OVMF_CODE.4m.fd",
                "/usr/share/edk2/x64/OVMF_VARS.4m.fd",
            ),
            (
                "/usr/share/OVMF/OVMF_CODE.fd",
                "/usr/share/OVMF/OVMF_VARS.fd",
            ),
            (
                "/usr/share/OVMF/OVMF_CODE_4M.fd",
                "/usr/share/OVMF/OVMF_VARS_4M.fd",
            ),
            (
                "/usr/share/edk2/ovmf/OVMF_CODE.fd",
                "/usr/share/edk2/ovmf/OVMF_VARS.fd",
            ),
            ("/usr/share/qemu/ovmf-x86_64.bin", ""),
            ("/usr/share/qemu/ovmf-x86_64-4m.bin", ""),
        ],
        Arch::Aarch64 => &[
            (
                "/usr/share/edk2/aarch64/QEMU_CODE.fd",
                "/usr/share/edk2/aarch64/QEMU_VARS.fd",
            ),
            (
                "/usr/share/AAVMF/AAVMF_CODE.fd",
                "/usr/share/AAVMF/AAVMF_VARS.fd",
            ),
            ("/usr/share/qemu-efi-aarch64/QEMU_EFI.fd", ""),
        ],
        Arch::Armv7l => &[
            (
                "/usr/share/edk2/arm/QEMU_CODE.fd",
                "/usr/share/edk2/arm/QEMU_VARS.fd",
            ),
            (
                "/usr/share/AAVMF/AAVMF32_CODE.fd",
                "/usr/share/AAVMF/AAVMF32_VARS.fd",
            ),
        ],
        Arch::Riscv64 => &[
            (
                "/usr/share/qemu-efi-riscv64/RISCV_VIRT_CODE.fd",
                "/usr/share/qemu-efi-riscv64/RISCV_VIRT_VARS.fd",
            ),
            (
                "/usr/share/edk2/riscv/RISCV_VIRT_CODE.fd",
                "/usr/share/edk2/riscv/RISCV_VIRT_VARS.fd",
            ),
        ],
        Arch::Ppc64le | Arch::S390x => &[],
    }
}

/// Places of the firmware that comes with QEMU itself: in the user's home, then beside the executable.
fn bundled_pairs(guest: Arch, host: &HostPlatform, program: &Program) -> Vec<Pair> {
    let (code, vars) = match guest {
        Arch::X8664 => ("x86_64", "i386"),
        Arch::Aarch64 => ("aarch64", "arm"),
        Arch::Armv7l => ("arm", "arm"),
        Arch::Riscv64 => ("riscv", "riscv"),
        Arch::Ppc64le | Arch::S390x => return Vec::new(),
    };
    let beside = program.path.parent().unwrap_or(Path::new("/"));
    let mut dirs = vec![host.home.join(".local/share/qemu")];
    if let Some(prefix) = beside.parent() {
        dirs.push(prefix.join("share/qemu"));
    }
    dirs.push(beside.join("share"));
    dirs.into_iter()
        .map(|dir| Pair {
            code: dir.join(format!("edk2-{code}-code.fd")),
            template: Some(dir.join(format!("edk2-{vars}-vars.fd"))),
        })
        .collect()
}

/// Whether the guest starts from UEFI in flash, and a warning when `firmware.legacyBIOS` means nothing for it.
pub(super) fn wants_flash(config: &Config) -> (bool, Option<String>) {
    let flash = arch::has_flash(config.arch);
    if !config.firmware.legacy_bios {
        return (flash, None);
    }
    if arch::has_legacy_bios(config.arch) {
        return (false, None);
    }
    let warning = "firmware.legacyBIOS is ignored: this architecture has no legacy BIOS".to_owned();
    (flash, Some(warning))
}

/// Where firmware is looked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Search<'a> {
    pub(super) config: &'a Config,
    pub(super) host: &'a HostPlatform,
    pub(super) program: &'a Program,
    pub(super) dir: &'a InstanceDir,
}

impl<'a> Search<'a> {
    /// The firmware for the VM, with the instance's copy of the variables made if it is missing.
    pub(super) fn resolve(self) -> Result<Firmware, DriverError> {
        if !wants_flash(self.config).0 {
            return Ok(Firmware::BuiltIn);
        }
        let pair = self.find().ok_or_else(|| self.missing())?;
        let vars = self.variables(&pair)?;
        Ok(Firmware::Flash {
            code: pair.code,
            vars,
        })
    }

    /// Whether firmware is there, or could be downloaded.
    pub(super) fn check(self) -> Result<(), DriverError> {
        let fine = !wants_flash(self.config).0
            || self.find().is_some()
            || self.downloads().next().is_some();
        if fine { Ok(()) } else { Err(self.missing()) }
    }

    fn find(self) -> Option<Pair> {
        let own = Pair {
            code: self.dir.efi_code(),
            template: None,
        };
        let system = system_pairs(self.config.arch)
            .iter()
            .map(|(code, vars)| Pair {
                code: PathBuf::from(code),
                template: (!vars.is_empty()).then(|| PathBuf::from(vars)),
            });
        std::iter::once(own)
            .chain(bundled_pairs(self.config.arch, self.host, self.program))
            .chain(system)
            .find(|pair| pair.code.is_file())
    }

    /// Entries of `firmware.images` that fit.
    fn downloads(self) -> impl Iterator<Item = &'a FileSource> {
        let arch = self.config.arch;
        self.config
            .firmware
            .images
            .iter()
            .filter(|image| {
                image
                    .vm_type
                    .as_ref()
                    .is_none_or(|kind| *kind == VmType::Qemu)
            })
            .map(|image| &image.file)
            .filter(move |file| file.arch == arch)
    }

    /// Whether [`Search::download`] has something to do.
    pub(super) fn needs_download(self) -> bool {
        wants_flash(self.config).0
            && !self.dir.efi_code().is_file()
            && self.downloads().next().is_some()
    }

    /// Fetches the first of `firmware.images` that can be had. Blocks. Failures are warnings: the system's firmware is left.
    /// `stop` ends it.
    pub(super) fn download(self, fetcher: &Fetcher, stop: &AtomicBool) {
        for file in self.downloads() {
            match self.download_one(file, fetcher, stop) {
                Ok(()) | Err(ImageError::Cancelled { .. }) => return,
                Err(error) => {
                    tracing::warn!(location = file.location, %error, "Firmware cannot be had.");
                }
            }
        }
    }

    fn download_one(
        self,
        file: &FileSource,
        fetcher: &Fetcher,
        stop: &AtomicBool,
    ) -> Result<(), ImageError> {
        let digest = file
            .digest
            .as_deref()
            .map(str::parse::<Digest>)
            .transpose()?;
        let source = Source {
            location: &file.location,
            digest: digest.as_ref(),
        };
        let watch = &mut |_: &Progress<'_>| {
            if stop.load(Ordering::Relaxed) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        fetcher.fetch_to(source, &self.dir.efi_code(), Packing::Unpack, watch)
    }

    /// The instance's variables: made from the template once, and again when they have another size than the template, which
    /// means that they belong to other firmware.
    fn variables(self, pair: &Pair) -> Result<Option<PathBuf>, DriverError> {
        let vars = self.dir.efi_vars();
        let size = |path: &Path| std::fs::metadata(path).ok().map(|meta| meta.len());
        let Some((template, wanted)) = pair
            .template
            .as_ref()
            .and_then(|path| Some((path, size(path)?)))
        else {
            let own = pair.code == self.dir.efi_code() && vars.is_file();
            return Ok(own.then_some(vars));
        };
        if size(&vars) != Some(wanted) {
            copy(template, &vars)?;
        }
        Ok(Some(vars))
    }

    fn missing(self) -> DriverError {
        let hint = match self.config.arch {
            Arch::X8664 => {
                "install it (Debian, Ubuntu: `apt install ovmf`; Fedora: `dnf install edk2-ovmf`), or set `firmware.legacyBIOS: true`"
            }
            Arch::Aarch64 => {
                "install it (Debian, Ubuntu: `apt install qemu-efi-aarch64`; Fedora: `dnf install edk2-aarch64`)"
            }
            Arch::Armv7l => "install it (Debian, Ubuntu: `apt install qemu-efi-arm`)",
            _ => "install it (Debian, Ubuntu: `apt install qemu-efi-riscv64`)",
        };
        DriverError::Unsupported {
            key: "firmware".to_owned(),
            why: format!(
                "no UEFI firmware was found for the guest: {hint}, or name one in `firmware.images`"
            ),
        }
    }
}

fn copy(template: &Path, to: &Path) -> Result<(), DriverError> {
    let staged = Staged::new(to)?;
    let failed = |verb, path: &Path| {
        let path = path.to_owned();
        move |source| DriverError::Io { verb, path, source }
    };
    let mut source = File::open(template).map_err(failed("open", template))?;
    let mut target = staged.create()?;
    std::io::copy(&mut source, &mut target).map_err(failed("write", staged.path()))?;
    drop(target);
    Ok(staged.commit()?)
}
