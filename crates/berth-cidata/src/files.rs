//! The files of the cidata volume, from the configuration, by a pure function.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use berth_config::model::{GuestOs, ProvisionMode};

use crate::boot_spec::{boot_json, volume_mode};
use crate::environment::{etc_environment, guest_environment, param_env};
use crate::error::CidataError;
use crate::input::{AgentKind, Input};
use crate::lima_env::lima_env;
use crate::network::network_config;
use crate::user_data::{Purpose, user_data};
use crate::yaml::Yaml;

/// berth's guest agent in the volume.
pub const BERTH_AGENT: &str = "berth-guestagent";
/// Lima's guest agent in the volume.
pub const LIMA_AGENT: &str = "lima-guestagent";
/// What the guest runs at each boot where berth's agent does not.
pub const BOOT_SCRIPT: &str = "boot.sh";
/// The nerdctl archive in the volume.
pub const NERDCTL_ARCHIVE: &str = "nerdctl-full.tgz";
/// Public keys, for guests without cloud-init.
pub const AUTHORIZED_KEYS: &str = "ssh_authorized_keys";

/// Takes the place of [`BOOT_SCRIPT`] where berth's agent does the work: a guest that Lima once started still runs its launcher.
const NO_BOOT_SCRIPT: &str = "#!/bin/sh\n# berth's guest agent does this work.\nexit 0\n";

/// Where the bytes of one file come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// Made from the configuration.
    Text(String),
    /// A file of the host, streamed when the volume is written.
    File(PathBuf),
    /// A gzip file of the host, inflated when the volume is written.
    Gzip(PathBuf),
}

/// One file of the volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its bytes.
    pub source: Source,
    /// Whether it may be run (0755 instead of 0644).
    pub executable: bool,
}

/// The files of the volume by path (`provision.system/00000003`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Cidata {
    /// In the order of their paths, which makes the volume the same for the same input.
    pub entries: BTreeMap<String, Entry>,
    /// User-data for people to read: without private keys and scripts.
    pub reference: String,
}

impl Cidata {
    fn text(&mut self, path: &str, text: impl Into<String>) {
        self.add(path, Source::Text(text.into()), false);
    }

    fn script(&mut self, path: &str, text: impl Into<String>) {
        self.add(path, Source::Text(text.into()), true);
    }

    fn program(&mut self, path: &str, program: &Path) {
        let gzip = program
            .extension()
            .is_some_and(|extension| extension == "gz");
        let program = program.to_path_buf();
        let source = if gzip {
            Source::Gzip(program)
        } else {
            Source::File(program)
        };
        self.add(path, source, true);
    }

    fn add(&mut self, path: &str, source: Source, executable: bool) {
        self.entries
            .insert(path.to_owned(), Entry { source, executable });
    }
}

/// Builds the files of the volume. Touches nothing; the same input gives the same files.
///
/// Errors name the key of the configuration that cannot be handed to a guest.
pub fn build(input: &Input<'_>) -> Result<Cidata, CidataError> {
    check(input)?;
    let env = guest_environment(input.config, &input.proxies, input.subnet.gateway)?;
    let mut volume = Cidata {
        reference: user_data(input, Purpose::Reference),
        ..Cidata::default()
    };
    volume.text("meta-data", meta_data(input));
    volume.text("user-data", user_data(input, Purpose::Volume));
    volume.text("network-config", network_config(input));
    volume.text("etc_environment", etc_environment(&env));
    volume.text("param.env", param_env(&input.config.param)?);
    match &input.agent {
        AgentKind::Berth(program) => {
            volume.text("boot.json", boot_json(input, &env));
            volume.program(BERTH_AGENT, program);
            volume.script(BOOT_SCRIPT, NO_BOOT_SCRIPT);
        }
        AgentKind::Lima(program) => {
            volume.program(LIMA_AGENT, program);
            lima_style(input, &mut volume)?;
        }
        AgentKind::None => lima_style(input, &mut volume)?,
    }
    provision(input, &mut volume);
    for (path, text) in &input.driver_scripts {
        if path.contains('/') {
            volume.script(path, text);
        } else {
            volume.script(&format!("boot.Linux/{path}"), text);
        }
    }
    if let Some(archive) = &input.nerdctl_archive {
        volume.add(NERDCTL_ARCHIVE, Source::File(archive.clone()), false);
    }
    if input.lima.no_cloud_init {
        let lines = input
            .authorized_keys
            .iter()
            .map(|key| format!("{}\n", key.trim()));
        volume.text(AUTHORIZED_KEYS, lines.collect::<String>());
    }
    Ok(volume)
}

/// What the boot script needs.
fn lima_style(input: &Input<'_>, volume: &mut Cidata) -> Result<(), CidataError> {
    volume.text("lima.env", lima_env(input)?);
    volume.script(BOOT_SCRIPT, include_str!("../guest/boot.sh"));
    Ok(())
}

fn provision(input: &Input<'_>, volume: &mut Cidata) {
    for (index, entry) in (0..).zip(&input.config.provision) {
        if let Some(path) = provision_path(index, entry.mode) {
            let run = !matches!(entry.mode, ProvisionMode::Data | ProvisionMode::Yq);
            volume.add(&path, Source::Text(entry.script.clone()), run);
        }
    }
}

/// Where the text of a provision entry lies; `None` for modes that do not run from the volume.
pub(crate) fn provision_path(index: u32, mode: ProvisionMode) -> Option<String> {
    let mode = volume_mode(mode)?;
    Some(format!("provision.{mode}/{index:08}"))
}

fn meta_data(input: &Input<'_>) -> String {
    Yaml::map([
        ("instance-id", Yaml::text(input.instance_id)),
        ("local-hostname", Yaml::text(input.hostname)),
    ])
    .render()
}

/// Refuses what no guest can be given, before anything is written.
fn check(input: &Input<'_>) -> Result<(), CidataError> {
    let config = input.config;
    let user = &config.user;
    let refuse = |key: &str, why: String| Err(CidataError::config(key, why));
    if config.os != GuestOs::Linux {
        return refuse(
            "os",
            format!("{:?} guests are not supported yet: use Linux", config.os),
        );
    }
    if user.name == "root" || user.name.is_empty() {
        return refuse(
            "user.name",
            format!(
                "{:?} cannot be the user that berth makes: choose another name",
                user.name
            ),
        );
    }
    if user.uid == 0 {
        return refuse("user.uid", "0 is root: choose another number".to_owned());
    }
    if !user.home.starts_with('/') {
        return refuse("user.home", format!("{:?} is no absolute path", user.home));
    }
    for (index, mount) in config.mounts.iter().enumerate() {
        if !mount.mount_point.starts_with('/') {
            return refuse(
                &format!("mounts[{index}].mountPoint"),
                format!("{:?} is no absolute path in the guest", mount.mount_point),
            );
        }
    }
    Ok(())
}
