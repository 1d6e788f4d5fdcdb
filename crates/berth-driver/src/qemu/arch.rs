//! What differs between guest architectures on QEMU's command line.

use berth_config::model::Arch;

/// How the guest's first disk and network card are attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bus {
    Pci,
    /// IBM mainframes' channels.
    Ccw,
}

impl Bus {
    pub(super) fn of(arch: Arch) -> Self {
        match arch {
            Arch::S390x => Self::Ccw,
            _ => Self::Pci,
        }
    }

    /// Suffix of virtio device names.
    pub(super) fn suffix(self) -> &'static str {
        match self {
            Self::Pci => "pci",
            Self::Ccw => "ccw",
        }
    }
}

/// The architecture's name in `qemu-system-NAME`.
pub(super) fn binary_suffix(arch: Arch) -> &'static str {
    match arch {
        Arch::X8664 => "x86_64",
        Arch::Aarch64 => "aarch64",
        Arch::Armv7l => "arm",
        Arch::Ppc64le => "ppc64",
        Arch::Riscv64 => "riscv64",
        Arch::S390x => "s390x",
    }
}

/// Machine type whose CPUs `-cpu help` lists.
pub(super) fn machine(arch: Arch) -> &'static str {
    match arch {
        Arch::X8664 => "q35",
        Arch::Aarch64 | Arch::Armv7l | Arch::Riscv64 => "virt",
        Arch::Ppc64le => "pseries",
        Arch::S390x => "s390-ccw-virtio",
    }
}

/// Whether the machine starts from UEFI firmware in flash.
pub(super) fn has_flash(arch: Arch) -> bool {
    matches!(
        arch,
        Arch::X8664 | Arch::Aarch64 | Arch::Armv7l | Arch::Riscv64
    )
}

/// Whether `firmware.legacyBIOS` means something.
pub(super) fn has_legacy_bios(arch: Arch) -> bool {
    matches!(arch, Arch::X8664 | Arch::Armv7l)
}

/// Whether there is a second serial port, on PCI, besides the firmware's own.
pub(super) fn has_pci_serial(arch: Arch) -> bool {
    matches!(arch, Arch::Aarch64 | Arch::Armv7l)
}

/// TPM device, where there is one.
pub(super) fn tpm_device(arch: Arch) -> Option<&'static str> {
    match arch {
        Arch::X8664 => Some("tpm-crb"),
        Arch::Aarch64 | Arch::Armv7l | Arch::Riscv64 => Some("tpm-tis-device"),
        Arch::Ppc64le | Arch::S390x => None,
    }
}
