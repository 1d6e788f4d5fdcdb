//! What the guest image is made of. Its hash names the image in the cache.

use std::fmt::Write as _;

use anyhow::{Result, bail};
use sha2::{Digest, Sha256};

/// Debian release of the guest.
pub(crate) const SUITE: &str = "bookworm";

/// What cloud images of Debian carry, as far as host agent and guest agent meet it.
const PACKAGES: &[&str] = &[
    "ca-certificates",
    "cloud-guest-utils",
    "cloud-init",
    "curl",
    "dbus",
    "e2fsprogs",
    "fuse3",
    "iproute2",
    "iptables",
    "kmod",
    "libnss-resolve",
    "netplan.io",
    "openssh-server",
    "procps",
    "python3",
    "rsync",
    "sshfs",
    "sudo",
    "systemd-resolved",
    "systemd-sysv",
    "udev",
];

/// What of the kernel's modules is not unpacked: drivers of devices that no VM has, three quarters of them.
const NO_MODULES_OF: &[&str] = &[
    "drivers/gpu",
    "drivers/hwmon",
    "drivers/iio",
    "drivers/infiniband",
    "drivers/media",
    "drivers/mmc",
    "drivers/mtd",
    "drivers/net/ethernet",
    "drivers/net/wireless",
    "drivers/platform",
    "drivers/staging",
    "drivers/usb",
    "sound",
];

/// Runs before the packages are configured.
pub(crate) const BEFORE_PACKAGES: &str = include_str!("../../image/before-packages.sh");
/// Runs when they are installed.
pub(crate) const AFTER_PACKAGES: &str = include_str!("../../image/after-packages.sh");

/// Size of the root disk; sparse.
pub(crate) const DISK_SIZE: &str = "2G";

/// Raised when the assembly itself (not one of the values here) changes what is built.
const FORMAT: u32 = 3;

/// Processor of the machine, and so of the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arch {
    /// `x86_64`.
    X86_64,
    /// `aarch64`.
    Aarch64,
}

impl Arch {
    /// The processor that this program was built for.
    pub(crate) fn native() -> Result<Self> {
        match std::env::consts::ARCH {
            "x86_64" => Ok(Self::X86_64),
            "aarch64" => Ok(Self::Aarch64),
            other => bail!("guest images are built for x86_64 and aarch64, not for {other}"),
        }
    }

    /// Name in `lima.yaml`, in Rust target names and in QEMU's binaries.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    /// Not the one for clouds, which has no 9p.
    fn kernel_package(self) -> &'static str {
        match self {
            Self::X86_64 => "linux-image-amd64",
            Self::Aarch64 => "linux-image-arm64",
        }
    }

    /// What the kernel is told. Mitigations and self-tests cost seconds under emulation and protect nobody in a test guest.
    pub(crate) fn kernel_command_line(self) -> &'static str {
        match self {
            Self::X86_64 => {
                "root=/dev/vda rw console=ttyS0 net.ifnames=0 mitigations=off cryptomgr.notests no_timer_check tsc=reliable"
            }
            Self::Aarch64 => {
                "root=/dev/vda rw console=ttyAMA0 net.ifnames=0 mitigations=off cryptomgr.notests"
            }
        }
    }
}

/// Everything that decides what an image contains, except the day's package versions.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Recipe {
    /// The guest's processor.
    pub(crate) arch: Arch,
}

impl Recipe {
    /// Packages for mmdebstrap's `--include`.
    pub(crate) fn packages(self) -> String {
        let mut all = vec![self.arch.kernel_package()];
        all.extend(PACKAGES);
        all.join(",")
    }

    /// The recipe as text; kept beside the image.
    pub(crate) fn text(self) -> String {
        format!(
            "format {FORMAT}\nsuite {SUITE}\narch {}\npackages {}\nno modules of {}\ndisk {DISK_SIZE}\ncommand line {}\n{BEFORE_PACKAGES}{AFTER_PACKAGES}",
            self.arch.name(),
            self.packages(),
            NO_MODULES_OF.join(","),
            self.arch.kernel_command_line(),
        )
    }

    /// Names the image in the cache.
    pub(crate) fn hash(self) -> String {
        let digest = Sha256::digest(self.text());
        digest.iter().take(8).fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        })
    }
}

/// Options for dpkg in the guest's tree.
pub(crate) fn dpkg_options() -> impl Iterator<Item = String> {
    NO_MODULES_OF
        .iter()
        .map(|directory| format!("path-exclude=/lib/modules/*/kernel/{directory}/*"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_depends_on_the_processor() {
        let hash = |arch| Recipe { arch }.hash();
        assert_eq!(hash(Arch::X86_64).len(), 16);
        assert_eq!(hash(Arch::X86_64), hash(Arch::X86_64));
        assert_ne!(hash(Arch::X86_64), hash(Arch::Aarch64));
    }
}
