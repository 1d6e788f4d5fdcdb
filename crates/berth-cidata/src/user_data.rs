//! cloud-init's `user-data`.
//!
//! With berth's agent cloud-init does what only it can do on a first boot: user, keys, root partition, and installing the
//! agent. Without it, it does what Lima lets it do, and a boot script from the volume does the rest.

use std::fmt::Write as _;

use berth_config::model::{MountType, ProvisionMode, User};

use crate::devices::{device_mount, mount_tag};
use crate::input::{AgentKind, Input};
use crate::network::name_servers;
use crate::yaml::Yaml;

/// Volume identifier by which cloud-init and the guest find the volume.
pub(crate) const LABEL: &str = "cidata";

/// virtiofs tag of Rosetta's directory (`berth-driver` shares it under this name).
pub(crate) const ROSETTA_TAG: &str = "vz-rosetta";

/// Where the guest mounts the volume.
const MOUNT_POINT: &str = "/mnt/lima-cidata";

/// For root only, and executable whatever the modes in the volume say.
const MOUNT_OPTIONS: &str = "ro,exec,overriderockperm,mode=0700,dmode=0700,uid=0";

/// Where cloud-init looks for scripts of each boot. The same name as Lima's, so that a guest has only one of the two.
const LAUNCHER: &str = "/var/lib/cloud/scripts/per-boot/00-lima.boot.sh";

type Keys = Vec<(String, Yaml)>;

/// What a rendered user-data is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// For the guest.
    Volume,
    /// For people to read: no private keys, no scripts, nothing of how the volume is put to use.
    Reference,
}

/// Renders the document.
pub(crate) fn user_data(input: &Input<'_>, purpose: Purpose) -> String {
    let mut keys: Keys = vec![(
        "growpart".to_owned(),
        Yaml::map([
            ("mode", Yaml::text("auto")),
            ("devices", Yaml::texts(["/"])),
        ]),
    )];
    keys.push(("users".to_owned(), Yaml::Seq(vec![user(input)])));
    if !matches!(input.agent, AgentKind::Berth(_)) {
        system_settings(input, &mut keys);
    }
    if purpose == Purpose::Volume {
        host_keys(input, &mut keys);
        boot_hooks(input, &mut keys);
    }
    format!("#cloud-config\n{}", Yaml::Map(keys).render())
}

fn user(input: &Input<'_>) -> Yaml {
    let User {
        name,
        comment,
        home,
        shell,
        uid,
        passwordless_sudo,
    } = &input.config.user;
    let sudo = if *passwordless_sudo {
        "ALL=(ALL) NOPASSWD:ALL"
    } else {
        "ALL=(ALL) ALL"
    };
    let mut keys = vec![
        ("name", Yaml::text(name)),
        ("uid", Yaml::Int((*uid).into())),
    ];
    if !comment.is_empty() {
        keys.push(("gecos", Yaml::text(comment)));
    }
    keys.extend([
        ("homedir", Yaml::text(home)),
        ("shell", Yaml::text(shell)),
        ("sudo", Yaml::text(sudo)),
        ("lock_passwd", Yaml::Bool(*passwordless_sudo)),
        (
            "ssh_authorized_keys",
            Yaml::texts(input.authorized_keys.iter().map(|key| key.trim())),
        ),
    ]);
    Yaml::map(keys)
}

/// Hands over the host keys, and keeps cloud-init from deleting what it did not make.
fn host_keys(input: &Input<'_>, keys: &mut Keys) {
    if input.host_keys.is_empty() {
        return;
    }
    let pairs = input.host_keys.iter().flat_map(|key| {
        [
            (format!("{}_private", key.kind), Yaml::text(&key.private)),
            (
                format!("{}_public", key.kind),
                Yaml::text(key.public.trim()),
            ),
        ]
    });
    keys.push(("ssh_deletekeys".to_owned(), Yaml::Bool(false)));
    keys.push(("ssh_keys".to_owned(), Yaml::map(pairs)));
}

/// What berth's agent would apply at each boot, left to cloud-init where that agent is missing.
fn system_settings(input: &Input<'_>, keys: &mut Keys) {
    let config = input.config;
    if config.upgrade_packages {
        for name in [
            "package_update",
            "package_upgrade",
            "package_reboot_if_required",
        ] {
            keys.push((name.to_owned(), Yaml::Bool(true)));
        }
    }
    let mounts = fstab_lines(input);
    if !mounts.is_empty() {
        keys.push(("mounts".to_owned(), Yaml::Seq(mounts)));
    }
    if !config.timezone.is_empty() {
        keys.push(("timezone".to_owned(), Yaml::text(&config.timezone)));
    }
    let servers = name_servers(config, &input.subnet, input.host_dns);
    if !servers.is_empty() {
        let servers = Yaml::texts(servers.iter().map(ToString::to_string));
        keys.push(("manage_resolv_conf".to_owned(), Yaml::Bool(true)));
        keys.push((
            "resolv_conf".to_owned(),
            Yaml::map([("nameservers", servers)]),
        ));
    }
    let certificates = ca_certificates(input);
    let remove = config.ca_certs.remove_defaults;
    if remove || !certificates.is_empty() {
        let mut section = vec![("remove_defaults", Yaml::Bool(remove))];
        if !certificates.is_empty() {
            section.push(("trusted", Yaml::texts(certificates)));
        }
        keys.push(("ca_certs".to_owned(), Yaml::map(section)));
    }
}

/// One `mounts` entry for each share that is a device, and Rosetta's.
fn fstab_lines(input: &Input<'_>) -> Vec<Yaml> {
    let line = |tag: &str, at: &str, fs_type: &str, options: &str| {
        Yaml::texts([tag, at, fs_type, options, "0", "0"])
    };
    let mut lines = Vec::new();
    if input.lima.rosetta_enabled {
        lines.push(line(
            ROSETTA_TAG,
            "/mnt/lima-rosetta",
            "virtiofs",
            "defaults",
        ));
    }
    let mount_type = input.config.mount_type.unwrap_or(MountType::ReverseSshfs);
    for mount in &input.config.mounts {
        if let Some((fs_type, options)) = device_mount(mount, mount_type) {
            let tag = mount_tag(&mount.location, &mount.mount_point);
            lines.push(line(
                &tag,
                &mount.mount_point,
                fs_type,
                &format!("{options},nofail"),
            ));
        }
    }
    lines
}

/// Certificates of `caCerts`, one PEM text each, without empty lines.
pub(crate) fn ca_certificates(input: &Input<'_>) -> Vec<String> {
    let all = input.ca_files.iter().chain(&input.config.ca_certs.certs);
    all.map(|text| {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        lines.fold(String::new(), |mut pem, line| {
            writeln!(pem, "{line}").expect("a string takes all");
            pem
        })
    })
    .filter(|pem| !pem.is_empty())
    .collect()
}

/// What starts the work in the guest, then the configuration's own boot scripts.
fn boot_hooks(input: &Input<'_>, keys: &mut Keys) {
    let mut commands = Vec::new();
    if matches!(input.agent, AgentKind::Berth(_)) {
        commands.push(Yaml::texts([
            "sh",
            "-c",
            &install_agent(input.lima.vsock_port),
        ]));
    } else {
        let launcher = Yaml::map([
            ("path", Yaml::text(LAUNCHER)),
            ("owner", Yaml::text("root:root")),
            ("permissions", Yaml::text("0755")),
            ("content", Yaml::text(launch_boot_script())),
        ]);
        keys.push(("write_files".to_owned(), Yaml::Seq(vec![launcher])));
    }
    commands.extend(boot_scripts(input));
    if !commands.is_empty() {
        keys.push(("bootcmd".to_owned(), Yaml::Seq(commands)));
    }
}

fn mount_volume() -> String {
    format!(
        "mnt={MOUNT_POINT}\n\
         if ! grep -q \" $mnt \" /proc/mounts; then\n\
         \x20 mkdir -p -m 0700 \"$mnt\"\n\
         \x20 mount -t iso9660 -o {MOUNT_OPTIONS} LABEL={LABEL} \"$mnt\" || exit 1\n\
         fi\n"
    )
}

/// The agent's `install` compares itself with what is installed, and does not wait for what it starts. Its way to the host is a
/// virtio-serial port unless it is told otherwise.
fn install_agent(vsock_port: u32) -> String {
    let port = match vsock_port {
        0 => String::new(),
        port => format!(" --port=vsock:{port}"),
    };
    format!(
        "{}exec \"$mnt/{}\" install{port}\n",
        mount_volume(),
        crate::files::BERTH_AGENT
    )
}

fn launch_boot_script() -> String {
    format!(
        "#!/bin/sh\n{}export LIMA_CIDATA_MNT=\"$mnt\"\nexec \"$mnt/{}\"\n",
        mount_volume(),
        crate::files::BOOT_SCRIPT
    )
}

/// Scripts of mode `boot`, each in a shell of its own: cloud-init runs all of `bootcmd` as one script, and an `exit` in one
/// would end the rest.
fn boot_scripts<'a>(input: &'a Input<'_>) -> impl Iterator<Item = Yaml> + 'a {
    let config = input.config;
    let boot = |mode| mode == ProvisionMode::Boot;
    let scripts = config
        .provision
        .iter()
        .filter(move |entry| boot(entry.mode));
    scripts.map(|entry| {
        let mut words = vec!["env".to_owned()];
        words.extend(config.param.iter().map(|(k, v)| format!("PARAM_{k}={v}")));
        words.extend(["sh".to_owned(), "-c".to_owned(), entry.script.clone()]);
        Yaml::texts(words)
    })
}
