//! `lima.env`: the configuration as shell variables, for the boot script and for provision scripts that were written for Lima.

use std::fmt::{Display, Write as _};

use berth_config::model::{Provision, ProvisionMode};

use crate::boot_spec::{mount_type, skips_default_dependencies};
use crate::devices::disk_serial;
use crate::error::CidataError;
use crate::files::NERDCTL_ARCHIVE;
use crate::input::Input;

/// Lines of `LIMA_CIDATA_NAME=value`, unquoted.
struct Lines(String);

impl Lines {
    fn set(&mut self, name: &str, value: impl Display) {
        writeln!(self.0, "LIMA_CIDATA_{name}={value}").expect("a string takes all");
    }

    /// `1` or nothing, as shell scripts test it.
    fn flag(&mut self, name: &str, value: bool) {
        self.set(name, if value { "1" } else { "" });
    }
}

/// Renders the file. Values of several lines are refused.
pub(crate) fn lima_env(input: &Input<'_>) -> Result<String, CidataError> {
    let mut lines = Lines(String::new());
    identity(input, &mut lines)?;
    mounts(input, &mut lines)?;
    disks(input, &mut lines)?;
    for (index, entry) in input.config.provision.iter().enumerate() {
        provision(index, entry, &mut lines)?;
    }
    packages(input, &mut lines);
    network(input, &mut lines);
    driver(input, &mut lines);
    Ok(lines.0)
}

fn identity(input: &Input<'_>, lines: &mut Lines) -> Result<(), CidataError> {
    let user = &input.config.user;
    lines.set("DEBUG", input.debug);
    lines.set("IID", input.instance_id);
    lines.set("NAME", input.name);
    lines.set("USER", one_line("user.name", &user.name)?);
    lines.set("UID", user.uid);
    lines.set("COMMENT", one_line("user.comment", &user.comment)?);
    lines.set("HOME", one_line("user.home", &user.home)?);
    lines.set("SHELL", one_line("user.shell", &user.shell)?);
    Ok(())
}

fn mounts(input: &Input<'_>, lines: &mut Lines) -> Result<(), CidataError> {
    let mounts = &input.config.mounts;
    let home = mounts
        .iter()
        .find(|mount| mount.location == input.host_home);
    lines.set(
        "HOSTHOME_MOUNTPOINT",
        home.map_or("", |mount| mount.mount_point.as_str()),
    );
    lines.set("MOUNTS", mounts.len());
    for (index, mount) in mounts.iter().enumerate() {
        let point = one_line("mounts[].mountPoint", &mount.mount_point)?;
        lines.set(&format!("MOUNTS_{index}_MOUNTPOINT"), point);
    }
    lines.set("MOUNTTYPE", mount_type(input).unwrap_or_default());
    Ok(())
}

fn disks(input: &Input<'_>, lines: &mut Lines) -> Result<(), CidataError> {
    let disks = &input.config.additional_disks;
    lines.set("DISKS", disks.len());
    for (index, (disk, letter)) in disks.iter().zip('b'..='z').enumerate() {
        let key = |name: &str| format!("DISK_{index}_{name}");
        let args = disk.fs_args.join(" ");
        lines.set(&key("NAME"), &disk.name);
        lines.set(&key("DEVICE"), format_args!("vd{letter}"));
        lines.set(&key("SERIAL"), disk_serial(&disk.name));
        lines.set(&key("FORMAT"), disk.format);
        lines.set(
            &key("FSTYPE"),
            one_line("additionalDisks[].fsType", &disk.fs_type)?,
        );
        lines.set(&key("FSARGS"), one_line("additionalDisks[].fsArgs", &args)?);
    }
    Ok(())
}

fn provision(index: usize, entry: &Provision, lines: &mut Lines) -> Result<(), CidataError> {
    let prefix = match entry.mode {
        ProvisionMode::Data => "DATAFILE",
        ProvisionMode::Yq => "YQ_PROVISION",
        _ => return Ok(()),
    };
    let key = |name: &str| format!("{prefix}_{index:08}_{name}");
    match entry.mode {
        ProvisionMode::Data => lines.set(&key("OVERWRITE"), entry.overwrite),
        _ => lines.set(
            &key("FORMAT"),
            one_line("provision[].format", &entry.format)?,
        ),
    }
    lines.set(&key("OWNER"), one_line("provision[].owner", &entry.owner)?);
    lines.set(&key("PATH"), one_line("provision[].path", &entry.path)?);
    lines.set(
        &key("PERMISSIONS"),
        one_line("provision[].permissions", &entry.permissions)?,
    );
    Ok(())
}

fn packages(input: &Input<'_>, lines: &mut Lines) {
    let config = input.config;
    lines.set("GUEST_INSTALL_PREFIX", &config.guest_install_prefix);
    lines.flag("UPGRADE_PACKAGES", config.upgrade_packages);
    lines.flag("CONTAINERD_USER", config.containerd.user);
    lines.flag("CONTAINERD_SYSTEM", config.containerd.system);
    if input.nerdctl_archive.is_some() {
        lines.set("CONTAINERD_ARCHIVE", NERDCTL_ARCHIVE);
    }
}

fn network(input: &Input<'_>, lines: &mut Lines) {
    let shown = |ip: Option<std::net::IpAddr>| ip.map(|ip| ip.to_string()).unwrap_or_default();
    lines.set(
        "SLIRP_DNS",
        shown(input.subnet.dns.or(input.subnet.gateway)),
    );
    lines.set("SLIRP_GATEWAY", shown(input.subnet.gateway));
    lines.set("SLIRP_IP_ADDRESS", shown(input.subnet.guest));
    let (udp, tcp) = input
        .dns_ports
        .map_or((0, 0), |ports| (ports.udp, ports.tcp));
    lines.set("UDP_DNS_LOCAL_PORT", udp);
    lines.set("TCP_DNS_LOCAL_PORT", tcp);
}

fn driver(input: &Input<'_>, lines: &mut Lines) {
    let (config, lima) = (input.config, &input.lima);
    lines.set("ROSETTA_ENABLED", lima.rosetta_enabled);
    lines.set("ROSETTA_BINFMT", lima.rosetta_binfmt);
    lines.flag(
        "SKIP_DEFAULT_DEPENDENCY_RESOLUTION",
        skips_default_dependencies(input),
    );
    lines.set("VMTYPE", config.vm_type.as_str());
    lines.set("VSOCK_PORT", lima.vsock_port);
    lines.set("VIRTIO_PORT", &lima.virtio_port);
    lines.flag("PLAIN", config.plain);
    lines.flag("NO_CLOUD_INIT", lima.no_cloud_init);
    lines.flag("PASSWORDLESS_SUDO", config.user.passwordless_sudo);
}

fn one_line<'a>(key: &str, value: &'a str) -> Result<&'a str, CidataError> {
    if value.contains(['\n', '\r', '\0']) {
        return Err(CidataError::config(key, "the value must be one line"));
    }
    Ok(value)
}
