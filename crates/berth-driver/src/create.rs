//! Choosing the driver.

use std::path::Path;

use berth_config::model::VmType;
use berth_config::platform::{HostOs, HostPlatform};
use berth_instance::dir::InstanceDir;
use berth_process::identity::ProcessIdentity;

use crate::driver::{Driver, DriverContext, StopLadder};
use crate::error::DriverError;
use crate::external;
use crate::external::client::{ExternalDriver, Limits};
use crate::external::discovery::ExternalDrivers;
use crate::kit::{self, Flavour, KitDriver};
use crate::krunkit::Krunkit;
use crate::qemu::{self, QemuDriver};
use crate::vz::Vz;
use crate::wsl2::{self, Wsl2Driver};

/// Makes the driver that `vmType` of the configuration names. Runs nothing and writes nothing, unless it is an external one, which
/// is started to be asked.
///
/// `cache_dir`: `lima` in the user's cache directory, for downloads and for what was learned about programs.
pub async fn create_driver(
    context: DriverContext,
    cache_dir: &Path,
    external: &ExternalDrivers,
) -> Result<Box<dyn Driver>, DriverError> {
    let VmType::External(name) = &context.config.vm_type else {
        return create_internal(context, cache_dir);
    };
    let Some(found) = external.find(name).cloned() else {
        return Err(DriverError::refuse("vmType", unknown(name, external)));
    };
    // In a box of its own: what every other start carries along stays small.
    let driver = Box::pin(ExternalDriver::open(context, found, Limits::default()));
    Ok(Box::new(driver.await?))
}

/// Makes one of berth's own drivers. Runs nothing and writes nothing.
pub(crate) fn create_internal(
    context: DriverContext,
    cache_dir: &Path,
) -> Result<Box<dyn Driver>, DriverError> {
    let vm_type = context.config.vm_type.clone();
    if let Some(why) = refusal(&vm_type, &context.platform) {
        return Err(DriverError::refuse("vmType", why));
    }
    match flavour(vm_type.as_str()) {
        Some(flavour) => Ok(Box::new(KitDriver::new(context, flavour))),
        None if vm_type == VmType::Wsl2 => Ok(Box::new(Wsl2Driver::new(context))),
        None => Ok(Box::new(QemuDriver::new(context, cache_dir)?)),
    }
}

/// Ends a VM whose agent is gone, by the driver and the identity that the agent recorded, and removes the files of its life.
///
/// `env`: as in [`DriverContext`].
pub async fn stop_orphan(
    driver: &str,
    dir: &InstanceDir,
    identity: &ProcessIdentity,
    steps: &StopLadder,
    env: &[(String, String)],
) -> Result<(), DriverError> {
    if let VmType::External(name) = VmType::from(driver.to_owned()) {
        return external::client::stop_orphan(&name, dir, identity, steps).await;
    }
    match flavour(driver) {
        Some(flavour) => kit::stop_orphan(flavour, dir, identity, steps).await,
        None if driver == wsl2::NAME => wsl2::stop_orphan(dir, identity, steps, env).await,
        None => qemu::stop_orphan(dir, identity, steps).await,
    }
}

/// Ends what is left of a VM whose process was killed, where that is not the same.
pub async fn end_killed(dir: &InstanceDir, env: &[(String, String)]) -> Result<(), DriverError> {
    if wsl2::has_distribution(dir) {
        wsl2::end(dir, env).await?;
    }
    Ok(())
}

/// Removes what is kept of an instance outside of its directory, which is to be deleted: WSL's registration of a distribution.
/// Whatever the configuration says now.
pub async fn forget(dir: &InstanceDir, env: &[(String, String)]) -> Result<(), DriverError> {
    if wsl2::has_distribution(dir) {
        wsl2::delete(dir, env).await?;
    }
    Ok(())
}

/// The drivers that are a program of vfkit's kind.
fn flavour(driver: &str) -> Option<&'static dyn Flavour> {
    match driver {
        "vz" => Some(&Vz),
        "krunkit" => Some(&Krunkit),
        _ => None,
    }
}

/// Why this host cannot run such VMs at all.
fn refusal(vm_type: &VmType, host: &HostPlatform) -> Option<String> {
    let word = vm_type.as_str();
    match vm_type {
        VmType::Vz | VmType::Krunkit if host.os != HostOs::Darwin => Some(format!(
            "{word:?} needs macOS, and this host runs {}: use \"qemu\"",
            system(host.os)
        )),
        VmType::Krunkit if host.arch != berth_config::model::Arch::Aarch64 => Some(format!(
            "{word:?} needs a Mac with an Apple chip: use \"vz\" or \"qemu\""
        )),
        VmType::Vz | VmType::Krunkit => {
            const OLDEST: u32 = 13;
            let version = &host.os_version;
            kit::major(version)
                .is_some_and(|major| major < OLDEST)
                .then(|| {
                    format!("{word:?} needs macOS {OLDEST} or later, and this host has {version}")
                })
        }
        VmType::Wsl2 if host.os != HostOs::Windows => Some(format!(
            "{word:?} needs Windows, and this host runs {}: use \"qemu\"",
            system(host.os)
        )),
        VmType::External(_) => Some(format!("{word:?} is no driver of berth's own")),
        VmType::Qemu | VmType::Wsl2 => None,
    }
}

fn unknown(name: &str, external: &ExternalDrivers) -> String {
    let places = external
        .searched()
        .iter()
        .map(|place| place.display().to_string());
    let places: Vec<String> = places.collect();
    format!(
        "no driver {name:?}: an external one is a program lima-driver-{name}, looked for in {}",
        places.join(", ")
    )
}

fn system(os: HostOs) -> &'static str {
    match os {
        HostOs::Linux => "Linux",
        HostOs::Darwin => "macOS",
        HostOs::Windows => "Windows",
        HostOs::Other => "another system",
    }
}

#[cfg(test)]
mod tests {
    use berth_config::model::Arch;

    use super::*;
    use crate::testing::platform;

    fn refused(word: &str, os: HostOs, arch: Arch, version: &str) -> Option<String> {
        let host = HostPlatform {
            os_version: version.to_owned(),
            ..platform(os, arch)
        };
        refusal(&VmType::from(word.to_owned()), &host)
    }

    #[test]
    fn a_host_that_cannot_run_an_engine_says_why() {
        for (word, os, arch, version, why) in [
            (
                "vz",
                HostOs::Linux,
                Arch::X8664,
                "",
                "needs macOS, and this host runs Linux",
            ),
            (
                "vz",
                HostOs::Darwin,
                Arch::X8664,
                "12.6",
                "needs macOS 13 or later, and this host has 12.6",
            ),
            (
                "krunkit",
                HostOs::Windows,
                Arch::Aarch64,
                "",
                "needs macOS, and this host runs Windows",
            ),
            (
                "krunkit",
                HostOs::Darwin,
                Arch::X8664,
                "15.1",
                "needs a Mac with an Apple chip",
            ),
            (
                "wsl2",
                HostOs::Linux,
                Arch::X8664,
                "",
                "needs Windows, and this host runs Linux",
            ),
            (
                "mine",
                HostOs::Linux,
                Arch::X8664,
                "",
                "\"mine\" is no driver of berth's own",
            ),
        ] {
            let found = refused(word, os, arch, version).unwrap_or_default();
            assert!(found.contains(why), "{word} on {os:?}: {found}");
        }
    }

    #[test]
    fn every_host_has_an_engine() {
        for (word, os, arch, version) in [
            ("qemu", HostOs::Linux, Arch::X8664, ""),
            ("qemu", HostOs::Windows, Arch::X8664, ""),
            ("vz", HostOs::Darwin, Arch::X8664, "13.0"),
            ("vz", HostOs::Darwin, Arch::Aarch64, ""),
            ("krunkit", HostOs::Darwin, Arch::Aarch64, "26.0.1"),
            ("wsl2", HostOs::Windows, Arch::Aarch64, ""),
        ] {
            assert_eq!(refused(word, os, arch, version), None, "{word} on {os:?}");
        }
    }
}
