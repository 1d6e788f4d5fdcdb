//! libkrun on Macs with an Apple chip, through `krunkit` (<https://github.com/containers/krunkit>, `docs/usage.md` of v1.2.1): the
//! guest gets the host's GPU for computing (Venus), and no window.
//!
//! krunkit has no network of its own: the first interface leads to a socket that somebody else serves, `networks[0]`'s.

use berth_config::model::Config;
use berth_config::platform::HostPlatform;

use crate::driver::DriverFeatures;
use crate::error::DriverError;
use crate::kit::{Boot, Flavour, Plan, Way, Words, pair};
use crate::vz::nested;

/// The largest memory that krunkit takes, in MiB.
const MEMORY_MAX: u64 = 61_440;
/// It counts CPUs in a byte.
const CPUS_MAX: u32 = 255;

/// The driver `krunkit`.
#[derive(Debug, Clone, Copy)]
pub struct Krunkit;

impl Flavour for Krunkit {
    fn name(&self) -> &'static str {
        "krunkit"
    }

    fn program(&self) -> &'static str {
        "krunkit"
    }

    fn install(&self) -> &'static str {
        "install it (`brew tap slp/krun && brew install krunkit`)"
    }

    fn has_hard_stop(&self) -> bool {
        false
    }

    fn forbidden_in_paths(&self) -> &'static [char] {
        &[',', '=']
    }

    fn problems(&self, config: &Config, host: &HostPlatform) -> Vec<DriverError> {
        let checks = [
            size(config),
            display(config),
            additional_disks(config),
            nested(config, host, self.program()),
        ];
        let checks = checks.into_iter().filter_map(Result::err);
        checks.chain(networks(config)).collect()
    }

    fn warnings(&self, config: &Config, _host: &HostPlatform) -> Vec<String> {
        let rosetta = config.vm_opts.others.contains_key("vz");
        let warning = rosetta.then(|| "vmOpts.vz is ignored: it is for `vmType: vz`".to_owned());
        warning.into_iter().collect()
    }

    fn features(&self, _config: &Config, _host: &HostPlatform) -> DriverFeatures {
        DriverFeatures {
            supported_image_formats: vec!["raw".to_owned()],
            ..DriverFeatures::default()
        }
    }

    /// The first of `networks` is what the default interface is elsewhere.
    fn first_way(&self, config: &mut Config) -> Way {
        if config.networks.is_empty() {
            return Way::Nat;
        }
        let network = config.networks.remove(0);
        network.socket.map_or(Way::Nat, Way::Socket)
    }

    fn words(&self, plan: &Plan) -> Result<Words, DriverError> {
        if !matches!(plan.boot, Boot::Efi { .. }) {
            let why = "krunkit starts from UEFI only: use an image without `kernel`";
            return Err(DriverError::refuse("images[].kernel", why));
        }
        if plan.iso.is_some() {
            let why = "krunkit has no drive for an installer: use an image of a disk";
            return Err(DriverError::refuse("images[].location", why));
        }
        let mut words = Words::of_size(plan);
        for path in plan
            .disks
            .iter()
            .map(|disk| &disk.path)
            .chain([&plan.cidata])
        {
            words.device(&[&pair("virtio-blk,path=", path), "format=raw".as_ref()]);
        }
        for nic in &plan.nics {
            // Validation refuses every other way.
            if let Way::Socket(socket) = &nic.way {
                let (socket, mac) = (pair("unixSocketPath=", socket), format!("mac={}", nic.mac));
                words.device(&["virtio-net".as_ref(), &socket, mac.as_ref()]);
            }
        }
        words.vsock(plan);
        words.shares(plan);
        words.plain_device("virtio-rng");
        words.console(&plan.dir.serialv_log());
        if plan.nested {
            words.flag("--nested");
        }
        words.service(plan);
        Ok(words)
    }
}

fn size(config: &Config) -> Result<(), DriverError> {
    if config.cpus > CPUS_MAX {
        let why = format!("krunkit takes {CPUS_MAX} CPUs at most");
        return Err(DriverError::refuse("cpus", why));
    }
    if config.memory.bytes() > MEMORY_MAX << 20 {
        let why = format!("krunkit takes {} GiB at most", MEMORY_MAX >> 10);
        return Err(DriverError::refuse("memory", why));
    }
    Ok(())
}

fn display(config: &Config) -> Result<(), DriverError> {
    match config.video.display.as_str() {
        "" | "none" => Ok(()),
        other => Err(DriverError::refuse(
            "video.display",
            format!("krunkit has no display, so not {other:?}: use \"none\", or `vmType: vz`"),
        )),
    }
}

/// There is no NAT, and without a socket there is no network at all.
fn networks(config: &Config) -> Vec<DriverError> {
    const WHY: &str = "krunkit has no network of its own: name the socket of a running gvproxy or vmnet-helper (`socket:`)";
    if config.networks.is_empty() {
        return vec![DriverError::refuse("networks", WHY)];
    }
    let networks = config.networks.iter().enumerate();
    networks
        .filter(|(_, network)| network.socket.is_none())
        .map(|(index, _)| DriverError::refuse(format!("networks[{index}].socket"), WHY))
        .collect()
}

/// libkrun makes the serial number of a disk up, so the guest could not tell them apart.
fn additional_disks(config: &Config) -> Result<(), DriverError> {
    if config.additional_disks.is_empty() {
        return Ok(());
    }
    let why = "krunkit gives a disk no name by which the guest could find it: use `vmType: vz`";
    Err(DriverError::refuse("additionalDisks", why))
}

#[cfg(test)]
mod tests;
