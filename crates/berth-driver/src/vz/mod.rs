//! Apple's Virtualization framework, through `vfkit` (<https://github.com/crc-org/vfkit>, `doc/usage.md` of v0.6.4).
//!
//! What vfkit cannot express is refused here and in `kit::checks`, and listed in `docs/drivers.md`.

use berth_config::model::{Arch, Config};
use berth_config::platform::HostPlatform;
use serde::Deserialize;

use crate::driver::DriverFeatures;
use crate::error::DriverError;
use crate::kit::{Boot, Flavour, Nic, Plan, Way, Words, major, pair};

/// Name under which Rosetta is shared with the guest. Lima's.
pub const ROSETTA_TAG: &str = "vz-rosetta";

/// First macOS with virtual machines in virtual machines.
const NESTED_SINCE: u32 = 15;

/// `vmOpts.vz`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct Options {
    /// Intel programs in ARM guests.
    pub(crate) rosetta: Rosetta,
    /// `raw` or `asif`.
    pub(crate) disk_image_format: Option<String>,
}

/// `vmOpts.vz.rosetta`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Rosetta {
    /// Shared with the guest.
    pub(crate) enabled: bool,
    /// Registered in the guest.
    pub(crate) binfmt: bool,
}

impl Options {
    /// Those of the configuration; the defaults where there are none, or where they make no sense, which is refused elsewhere.
    pub(crate) fn of(config: &Config) -> Self {
        Self::read(config).unwrap_or_default()
    }

    fn read(config: &Config) -> Result<Self, serde_json::Error> {
        match config.vm_opts.others.get("vz") {
            Some(value) => Self::deserialize(value),
            None => Ok(Self::default()),
        }
    }
}

/// The driver `vz`.
#[derive(Debug, Clone, Copy)]
pub struct Vz;

impl Flavour for Vz {
    fn name(&self) -> &'static str {
        "vz"
    }

    fn program(&self) -> &'static str {
        "vfkit"
    }

    fn install(&self) -> &'static str {
        "install it (`brew install vfkit`)"
    }

    fn has_hard_stop(&self) -> bool {
        true
    }

    fn forbidden_in_paths(&self) -> &'static [char] {
        &[',']
    }

    fn problems(&self, config: &Config, host: &HostPlatform) -> Vec<DriverError> {
        let checks = [
            options(config),
            display(config),
            nested(config, host, self.program()),
        ];
        checks.into_iter().filter_map(Result::err).collect()
    }

    fn warnings(&self, config: &Config, host: &HostPlatform) -> Vec<String> {
        let rosetta = Options::of(config).rosetta;
        let mut warnings = Vec::new();
        if rosetta.enabled && host.arch != Arch::Aarch64 {
            warnings
                .push("vmOpts.vz.rosetta is ignored: it is for Macs with an Apple chip".to_owned());
        }
        warnings
    }

    fn features(&self, config: &Config, host: &HostPlatform) -> DriverFeatures {
        let rosetta = Options::of(config).rosetta;
        let apple = host.arch == Arch::Aarch64;
        DriverFeatures {
            can_run_gui: config.video.display != "none",
            rosetta_enabled: apple && rosetta.enabled,
            rosetta_bin_fmt: apple && rosetta.enabled && rosetta.binfmt,
            supported_image_formats: vec!["raw".to_owned()],
            ..DriverFeatures::default()
        }
    }

    fn words(&self, plan: &Plan) -> Result<Words, DriverError> {
        let mut words = Words::of_size(plan);
        boot(&mut words, &plan.boot);
        disks(&mut words, plan);
        for nic in &plan.nics {
            interface(&mut words, nic);
        }
        words.vsock(plan);
        words.shares(plan);
        if plan.rosetta {
            words.plain_device(&format!("rosetta,mountTag={ROSETTA_TAG},install"));
        }
        words.plain_device("virtio-rng");
        words.plain_device("virtio-balloon");
        words.console(&plan.dir.serialv_log());
        if plan.display {
            words.plain_device("virtio-gpu,width=1920,height=1200");
            words.plain_device("virtio-input,keyboard");
            words.plain_device("virtio-input,pointing");
            words.flag("--gui");
        }
        if plan.nested {
            words.flag("--nested");
        }
        words.service(plan);
        Ok(words)
    }
}

fn boot(words: &mut Words, boot: &Boot) {
    let mut value = match boot {
        Boot::Efi { variables } => {
            let mut value = pair("efi,variable-store=", variables);
            value.push(",create");
            value
        }
        Boot::Linux { kernel, initrd, .. } => {
            let mut value = pair("linux,kernel=", kernel);
            if let Some(initrd) = initrd {
                value.push(pair(",initrd=", initrd));
            }
            value
        }
    };
    if let Boot::Linux { cmdline, .. } = boot {
        // The quotes are vfkit's, which splits at commas.
        value.push(format!(",cmdline=\"{cmdline}\""));
    }
    words.option("--bootloader", value);
}

fn disks(words: &mut Words, plan: &Plan) {
    for disk in &plan.disks {
        let mut value = pair("virtio-blk,path=", &disk.path);
        if let Some(serial) = &disk.serial {
            value.push(format!(",deviceId={serial}"));
        }
        words.option("--device", value);
    }
    if let Some(iso) = &plan.iso {
        words.device(&[&pair("usb-mass-storage,path=", iso), "readonly".as_ref()]);
    }
    words.device(&[&pair("virtio-blk,path=", &plan.cidata), "readonly".as_ref()]);
}

fn interface(words: &mut Words, nic: &Nic) {
    let mac = format!("mac={}", nic.mac);
    let way = match &nic.way {
        Way::Nat => "nat".into(),
        Way::Socket(path) => pair("unixSocketPath=", path),
    };
    words.device(&["virtio-net".as_ref(), &way, mac.as_ref()]);
}

fn options(config: &Config) -> Result<(), DriverError> {
    let options = Options::read(config);
    let options = options.map_err(|error| DriverError::refuse("vmOpts.vz", error.to_string()))?;
    match options.disk_image_format.as_deref() {
        None | Some("" | "raw") => Ok(()),
        Some(other) => Err(DriverError::refuse(
            "vmOpts.vz.diskImageFormat",
            format!("vfkit takes raw disks, and not {other:?}: use \"raw\""),
        )),
    }
}

fn display(config: &Config) -> Result<(), DriverError> {
    match config.video.display.as_str() {
        "" | "none" | "vz" | "default" => Ok(()),
        other => Err(DriverError::refuse(
            "video.display",
            format!("vfkit cannot show {other:?}: use \"default\" or \"none\""),
        )),
    }
}

/// Nested virtualization came with macOS 15, for some chips; the program knows which.
pub(crate) fn nested(
    config: &Config,
    host: &HostPlatform,
    program: &str,
) -> Result<(), DriverError> {
    let old = major(&host.os_version).is_some_and(|major| major < NESTED_SINCE);
    if config.nested_virtualization && old {
        return Err(DriverError::refuse(
            "nestedVirtualization",
            format!(
                "{program} needs macOS {NESTED_SINCE} for it, and this host has {}",
                host.os_version
            ),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
