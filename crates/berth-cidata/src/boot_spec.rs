//! `boot.json`: the configuration in the words that berth's guest agent understands.

use std::collections::BTreeMap;
use std::net::IpAddr;

use berth_config::model::{Config, MountType, Provision, ProvisionMode};
use berth_link::boot::{
    BOOT_SPEC_VERSION, BootSpec, BootUser, GuestDisk, GuestMount, GuestProvision, HostResolverSpec,
    RosettaSpec,
};

use crate::devices::{device_mount, disk_serial, mount_tag, mount_type_word};
use crate::files::{NERDCTL_ARCHIVE, provision_path};
use crate::input::Input;
use crate::network::{name_servers, nics};
use crate::user_data::{ROSETTA_TAG, ca_certificates};

/// Name by which the guest knows the host.
pub(crate) const HOST_NAME: &str = "host.lima.internal";

/// Renders `boot.json`.
pub(crate) fn boot_json(input: &Input<'_>, env: &BTreeMap<String, String>) -> String {
    let json = serde_json::to_string_pretty(&boot_spec(input, env));
    json.expect("strings, numbers and maps with string keys are JSON") + "\n"
}

fn boot_spec(input: &Input<'_>, env: &BTreeMap<String, String>) -> BootSpec {
    let config = input.config;
    let containerd = input.nerdctl_archive.is_some();
    BootSpec {
        version: BOOT_SPEC_VERSION,
        instance: input.name.to_owned(),
        instance_id: input.instance_id.to_owned(),
        hostname: input.hostname.to_owned(),
        vm_type: config.vm_type.as_str().to_owned(),
        plain: config.plain,
        user: BootUser {
            name: config.user.name.clone(),
            uid: config.user.uid,
            comment: config.user.comment.clone(),
            home: config.user.home.clone(),
            shell: config.user.shell.clone(),
            passwordless_sudo: config.user.passwordless_sudo,
        },
        authorized_keys: input.authorized_keys.to_vec(),
        host_keys: input.host_keys.to_vec(),
        nics: if input.lima.no_cloud_init {
            // Whoever starts such a guest names its interfaces.
            Vec::new()
        } else {
            nics(config, input.mac)
        },
        dns: name_servers(config, &input.subnet, input.host_dns)
            .iter()
            .map(ToString::to_string)
            .collect(),
        host_resolver: host_resolver(input),
        hosts: input
            .subnet
            .gateway
            .map(|gateway| (HOST_NAME.to_owned(), gateway.to_string()))
            .into_iter()
            .collect(),
        timezone: config.timezone.clone(),
        env: env.clone(),
        param: config.param.clone(),
        ca_certs: ca_certificates(input),
        ca_remove_defaults: config.ca_certs.remove_defaults,
        mounts: guest_mounts(input),
        mount_type: mount_type(input).unwrap_or_default().to_owned(),
        disks: config
            .additional_disks
            .iter()
            .map(|disk| GuestDisk {
                name: disk.name.clone(),
                serial: disk_serial(&disk.name),
                format: disk.format,
                fs_type: disk.fs_type.clone(),
                fs_args: disk.fs_args.clone(),
            })
            .collect(),
        provision: (0..)
            .zip(&config.provision)
            .filter_map(guest_provision)
            .collect(),
        skip_default_dependencies: skips_default_dependencies(input),
        upgrade_packages: config.upgrade_packages,
        containerd_system: config.containerd.system,
        containerd_user: config.containerd.user,
        containerd_archive: if containerd { NERDCTL_ARCHIVE } else { "" }.to_owned(),
        guest_install_prefix: config.guest_install_prefix.clone(),
        make_user: input.lima.no_cloud_init,
        ssh_port: input.ssh_port,
        early_sshd: !config.plain && !has_boot_scripts(config),
        rosetta: input.lima.rosetta_enabled.then(|| RosettaSpec {
            tag: ROSETTA_TAG.to_owned(),
            binfmt: input.lima.rosetta_binfmt,
        }),
        debug: input.debug,
    }
}

/// Where the guest's questions go, while the name server that it is told is the user network's.
fn host_resolver(input: &Input<'_>) -> Option<HostResolverSpec> {
    let ports = input.dns_ports?;
    let servers = name_servers(input.config, &input.subnet, input.host_dns);
    let (Some(IpAddr::V4(address)), Some(IpAddr::V4(host))) =
        (input.subnet.dns, input.subnet.gateway)
    else {
        return None;
    };
    servers
        .contains(&address.into())
        .then_some(HostResolverSpec {
            address,
            host,
            udp_port: ports.udp,
            tcp_port: ports.tcp,
        })
}

/// Scripts of mode `boot` run in cloud-init, and may have something to say about logins.
fn has_boot_scripts(config: &Config) -> bool {
    let mut modes = config.provision.iter().map(|entry| entry.mode);
    modes.any(|mode| mode == ProvisionMode::Boot)
}

/// The word for the mount type, when there are mounts.
pub(crate) fn mount_type(input: &Input<'_>) -> Option<&'static str> {
    let mount_type = input.config.mount_type?;
    (!input.config.mounts.is_empty()).then(|| mount_type_word(mount_type))
}

/// Whether any entry asks to leave out the packages that are installed by default.
pub(crate) fn skips_default_dependencies(input: &Input<'_>) -> bool {
    input
        .config
        .provision
        .iter()
        .any(|entry| entry.skip_default_dependency_resolution)
}

fn guest_mounts(input: &Input<'_>) -> Vec<GuestMount> {
    let Some(mount_type) = input.config.mount_type else {
        return Vec::new();
    };
    let mounts = input.config.mounts.iter();
    mounts
        .map(|mount| {
            let device = device_mount(mount, mount_type);
            let tag = match mount_type {
                // WSL knows drives by their paths.
                MountType::Wsl2 => mount.location.display().to_string(),
                _ => mount_tag(&mount.location, &mount.mount_point),
            };
            let (tag, fs_type, options) = match device {
                Some((fs_type, options)) => (tag, fs_type.to_owned(), options),
                None => Default::default(),
            };
            GuestMount {
                tag,
                mount_point: mount.mount_point.clone(),
                fs_type,
                options,
            }
        })
        .collect()
}

/// `None` for what does not run from the volume.
fn guest_provision((index, entry): (u32, &Provision)) -> Option<GuestProvision> {
    Some(GuestProvision {
        index,
        mode: volume_mode(entry.mode)?.to_owned(),
        file: provision_path(index, entry.mode)?,
        path: entry.path.clone(),
        owner: entry.owner.clone(),
        permissions: entry.permissions.clone(),
        overwrite: entry.overwrite,
        format: entry.format.clone(),
    })
}

/// Word for the modes whose texts lie in the volume.
pub(crate) fn volume_mode(mode: ProvisionMode) -> Option<&'static str> {
    match mode {
        ProvisionMode::System => Some("system"),
        ProvisionMode::User => Some("user"),
        ProvisionMode::Data => Some("data"),
        ProvisionMode::Dependency => Some("dependency"),
        ProvisionMode::Yq => Some("yq"),
        ProvisionMode::Boot | ProvisionMode::Ansible => None,
    }
}
