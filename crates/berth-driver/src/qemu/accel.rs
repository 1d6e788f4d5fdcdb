//! Which accelerator, and with it which CPU model, a VM gets.

use std::fmt;
use std::str::FromStr;

use berth_config::model::Arch;
use berth_config::platform::{HostOs, HostPlatform};

/// QEMU's accelerators.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accel {
    /// Linux.
    Kvm,
    /// macOS.
    Hvf,
    /// Windows.
    Whpx,
    /// NetBSD and `DragonFly`.
    Nvmm,
    /// None: QEMU translates every instruction.
    Tcg,
}

impl Accel {
    const ALL: [Self; 5] = [Self::Kvm, Self::Hvf, Self::Whpx, Self::Nvmm, Self::Tcg];

    /// QEMU's name.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Hvf => "hvf",
            Self::Whpx => "whpx",
            Self::Nvmm => "nvmm",
            Self::Tcg => "tcg",
        }
    }
}

impl fmt::Display for Accel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Accel {
    type Err = String;

    fn from_str(word: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|accel| accel.as_str() == word)
            .ok_or_else(|| format!("{word:?} is no accelerator: use kvm, hvf, whpx, nvmm or tcg"))
    }
}

/// What this machine's processor and kernel offer to a guest of its own architecture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hardware {
    /// It works.
    Usable,
    /// It does not, for this reason.
    Unusable(String),
}

/// The accelerator for a guest, and a warning when it is slower than one would expect.
///
/// Only guests of the host's own architecture are accelerated. `hardware` is asked only for those.
pub(super) fn choose(
    host: &HostPlatform,
    guest: Arch,
    hardware: impl FnOnce() -> Hardware,
) -> (Accel, Option<String>) {
    let native = match host.os {
        HostOs::Linux => Accel::Kvm,
        HostOs::Darwin => Accel::Hvf,
        HostOs::Windows => Accel::Whpx,
        HostOs::Other => Accel::Nvmm,
    };
    if host.arch != guest {
        return (Accel::Tcg, None);
    }
    match hardware() {
        Hardware::Usable => (native, None),
        Hardware::Unusable(why) => {
            let warning = format!(
                "{native} cannot be used ({why}): the VM runs without acceleration, and slowly"
            );
            (Accel::Tcg, Some(warning))
        }
    }
}

/// The default CPU model of `-cpu`.
///
/// `host_cpu_allowed`: false on Apple chips with SME, where QEMU cannot pass the host's CPU through.
pub(super) fn default_cpu(
    host: &HostPlatform,
    guest: Arch,
    accel: Accel,
    host_cpu_allowed: bool,
) -> String {
    let passes_through = matches!(host.os, HostOs::Linux | HostOs::Darwin) && host_cpu_allowed;
    let mut cpu = if host.arch == guest && accel != Accel::Tcg && passes_through {
        "host"
    } else if host.os == HostOs::Windows && guest == Arch::X8664 && host.arch == guest {
        "qemu64"
    } else {
        "max"
    }
    .to_owned();
    if host.os == HostOs::Darwin && guest == Arch::X8664 {
        cpu.push_str(",-avx512vl,-pdpe1gb");
    }
    cpu
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::platform;

    #[test]
    fn only_native_guests_are_accelerated() {
        let usable = || Hardware::Usable;
        for (os, want) in [
            (HostOs::Linux, Accel::Kvm),
            (HostOs::Darwin, Accel::Hvf),
            (HostOs::Windows, Accel::Whpx),
            (HostOs::Other, Accel::Nvmm),
        ] {
            let host = platform(os, Arch::X8664);
            assert_eq!(choose(&host, Arch::X8664, usable), (want, None));
            let never = || unreachable!("nobody asks the hardware for a foreign guest");
            assert_eq!(choose(&host, Arch::Aarch64, never), (Accel::Tcg, None));
        }
    }

    #[test]
    fn unusable_hardware_is_said_aloud() {
        let host = platform(HostOs::Linux, Arch::X8664);
        let broken = || Hardware::Unusable("no vmx or svm".to_owned());
        let (accel, warning) = choose(&host, Arch::X8664, broken);
        assert_eq!(accel, Accel::Tcg);
        assert!(
            warning
                .unwrap()
                .contains("kvm cannot be used (no vmx or svm)")
        );
    }

    #[test]
    fn cpu_models() {
        use Arch::{Aarch64, Riscv64, X8664};
        for (os, host, guest, accel, allowed, want) in [
            (HostOs::Linux, X8664, X8664, Accel::Kvm, true, "host"),
            (HostOs::Linux, X8664, X8664, Accel::Tcg, true, "max"),
            (HostOs::Linux, X8664, Riscv64, Accel::Tcg, true, "max"),
            (HostOs::Darwin, Aarch64, Aarch64, Accel::Hvf, true, "host"),
            (HostOs::Darwin, Aarch64, Aarch64, Accel::Hvf, false, "max"),
            (
                HostOs::Darwin,
                X8664,
                X8664,
                Accel::Hvf,
                true,
                "host,-avx512vl,-pdpe1gb",
            ),
            (
                HostOs::Darwin,
                Aarch64,
                X8664,
                Accel::Tcg,
                true,
                "max,-avx512vl,-pdpe1gb",
            ),
            (HostOs::Windows, X8664, X8664, Accel::Whpx, true, "qemu64"),
            (HostOs::Windows, X8664, Aarch64, Accel::Tcg, true, "max"),
        ] {
            let platform = platform(os, host);
            assert_eq!(
                default_cpu(&platform, guest, accel, allowed),
                want,
                "{os:?} {guest:?}"
            );
        }
    }

    #[test]
    fn overrides_must_be_known() {
        assert_eq!("tcg".parse(), Ok(Accel::Tcg));
        assert!("KVM".parse::<Accel>().unwrap_err().contains("use kvm"));
    }
}
