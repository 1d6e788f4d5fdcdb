//! From three documents to one configuration: merge, defaults, templates.

mod guest;
mod images;
mod machine;
mod mounts;
mod networks;
mod params;
mod ports;
mod provision;
mod report;
mod user;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::{Error as WordError, StrDeserializer};

use crate::model::{Arch, Config, GuestOs, User};
use crate::platform::HostPlatform;
use crate::problem::{ConfigError, Problem};
use crate::render::{NO_VALUE, Variables};
use crate::schema::LimaYaml;
use crate::sources::{Origins, Sources};
use crate::version::LimaVersion;

pub(crate) use images::is_absolute;
use report::Report;

/// What resolution must know besides the documents.
#[derive(Debug, Clone, Copy)]
pub struct ResolveContext<'a> {
    /// The host.
    pub platform: &'a HostPlatform,
    /// The instance's name.
    pub instance_name: &'a str,
    /// The instance's directory, absolute, whether it exists or not.
    pub instance_dir: &'a Path,
    /// `$LIMA_HOME`, absolute.
    pub lima_home: &'a Path,
    /// Who made the instance: [`LimaVersion::of_existing_instance`] if it exists, else [`LimaVersion::current`].
    pub created_by: LimaVersion,
    /// Lima's external drivers on this machine, which `vmType` may name.
    pub external_drivers: ExternalDrivers<'a>,
}

/// Which external drivers there are, and where they were looked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct ExternalDrivers<'a> {
    /// Their names.
    pub names: &'a [String],
    /// Directories and programs that were looked at.
    pub searched: &'a [PathBuf],
}

/// A configuration without anything left to decide.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The configuration.
    pub config: Config,
    /// What is odd but harmless: unknown keys, broken templates, deprecated keys.
    pub warnings: Vec<Problem>,
    /// Where each value was written.
    pub origins: Origins,
}

/// Merges the documents, fills in every default and renders every template.
///
/// # Errors
///
/// [`ConfigError::Invalid`] if a value has no meaning at all (an unknown architecture, a port of 70000); it then lists all
/// such values, and what [`crate::validate()`] has to say about the rest. What can be expressed but must not be started is
/// not refused here, so that an instance whose file has become invalid can still be listed and stopped.
pub fn resolve(sources: &Sources, ctx: &ResolveContext<'_>) -> Result<Resolved, ConfigError> {
    let mut resolver = Resolver {
        sources,
        ctx,
        report: Report::new(sources),
    };
    let config = resolver.config();
    resolver.report.finish(config, ctx)
}

/// The work in progress: sections read the documents and leave remarks.
struct Resolver<'a> {
    sources: &'a Sources,
    ctx: &'a ResolveContext<'a>,
    report: Report<'a>,
}

/// The variables of both sides.
struct Templates {
    guest: Variables,
    host: Variables,
}

impl Resolver<'_> {
    fn config(&mut self) -> Config {
        let os = self.os();
        let arch = self.arch();
        let param = self.params();
        let user = self.user(os, &param);
        let templates = self.templates(&user, &param);
        let mut config = Config {
            minimum_lima_version: self.sources.instance.yaml.minimum_lima_version.clone(),
            vm_type: self.vm_type(arch),
            vm_opts: self.vm_opts(),
            os_opts: self.sources.overlaid(|yaml| yaml.os_opts.as_ref()),
            os,
            arch,
            images: self.images(arch),
            cpus: self.cpus(),
            memory: self.memory(),
            disk: self.disk(),
            additional_disks: self.additional_disks(),
            mounts: self.mounts(&templates),
            mount_types_unsupported: self.mount_types_unsupported(),
            mount_type: self.mount_type(),
            mount_inotify: self.flag(|yaml| yaml.mount_inotify, false),
            ssh: self.ssh(),
            firmware: self.firmware(arch),
            audio: self.audio(),
            video: self.video(),
            provision: self.provision(os, &templates),
            upgrade_packages: self.flag(|yaml| yaml.upgrade_packages, false),
            containerd: self.containerd(os, arch),
            guest_install_prefix: self
                .text(|yaml| yaml.guest_install_prefix.as_deref())
                .unwrap_or_else(|| "/usr/local".to_owned()),
            probes: self.probes(&templates),
            port_forwards: self.port_forwards(&templates),
            copy_to_host: self.copy_to_host(&templates),
            message: self
                .sources
                .instance
                .yaml
                .message
                .clone()
                .unwrap_or_default(),
            networks: self.networks(),
            env: self.sources.overlaid(|yaml| Some(&yaml.env)),
            param,
            dns: self.dns(),
            host_resolver: self.host_resolver(),
            propagate_proxy_env: self.flag(|yaml| yaml.propagate_proxy_env, true),
            ca_certs: self.ca_certs(),
            plain: self.flag(|yaml| yaml.plain, false),
            timezone: self
                .text(|yaml| yaml.timezone.as_deref())
                .unwrap_or_else(|| self.ctx.platform.timezone.clone()),
            nested_virtualization: self.flag(|yaml| yaml.nested_virtualization, false),
            tpm: self.flag(|yaml| yaml.tpm, false),
            user,
        };
        self.refuse_unembedded_base();
        self.warn_of_ignored_keys();
        if config.plain {
            self.make_plain(&mut config);
        }
        config
    }

    fn templates(&self, user: &User, param: &BTreeMap<String, String>) -> Templates {
        let ctx = self.ctx;
        Templates {
            guest: Variables::guest(ctx.instance_name, user, param),
            host: Variables::host(
                ctx.instance_name,
                ctx.instance_dir,
                ctx.lima_home,
                ctx.platform,
                param,
            ),
        }
    }

    /// Takes out what a plain instance does not get.
    fn make_plain(&mut self, config: &mut Config) {
        let is_static: Vec<bool> = config
            .port_forwards
            .iter()
            .map(|rule| rule.is_static)
            .collect();
        self.report.retain("portForwards", |index| is_static[index]);
        config.port_forwards.retain(|rule| rule.is_static);
        config.mounts.clear();
        config.containerd.system = false;
        config.containerd.user = false;
        config.timezone.clear();
    }

    /// Refuses a document that is still a template: `base` is embedded when an instance is created.
    fn refuse_unembedded_base(&mut self) {
        if let Some(base) = self.sources.instance.yaml.base.first() {
            self.report.refuse(
                "base",
                format!(
                    "{:?} is not embedded: create the instance from the template anew",
                    base.url
                ),
            );
        }
    }

    /// Says which keys mean nothing in `default.yaml` and `override.yaml`.
    fn warn_of_ignored_keys(&mut self) {
        for loaded in [&self.sources.over, &self.sources.default] {
            for key in [
                "base",
                "minimumLimaVersion",
                "message",
                "cpuType",
                "rosetta",
            ] {
                if let Some(position) = loaded.outline.key(key) {
                    self.report.warnings.push(Problem {
                        key: key.to_owned(),
                        position: Some(position),
                        message:
                            "ignored in this file: only the instance's own lima.yaml may set it"
                                .to_owned(),
                    });
                }
            }
        }
    }

    fn flag(&self, get: impl Fn(&LimaYaml) -> Option<bool>, default: bool) -> bool {
        self.sources.highest(get).unwrap_or(default)
    }

    fn text(&self, get: impl Fn(&LimaYaml) -> Option<&str>) -> Option<String> {
        self.sources
            .highest(|yaml| get(yaml).map(ToOwned::to_owned))
    }

    /// Renders a template; a broken one is kept as it is, with a warning.
    fn render(&mut self, variables: &Variables, key: &str, text: &str) -> String {
        match variables.render(text) {
            Ok(rendered) => {
                if rendered.contains(NO_VALUE) && !text.contains(NO_VALUE) {
                    self.report.warn(
                        key,
                        "a template variable is unknown and renders as `<no value>`: check its name, or write `{{\"{{\"}}` for a literal `{{`",
                    );
                }
                rendered
            }
            Err(error) => {
                self.report
                    .warn(key, format!("the template is used unrendered: {error}"));
                text.to_owned()
            }
        }
    }

    /// Reads one of the words of an enumeration; refuses any other.
    fn word<T: for<'de> Deserialize<'de>>(&mut self, key: &str, text: &str) -> Option<T> {
        let word: StrDeserializer<'_, WordError> = text.into_deserializer();
        match T::deserialize(word) {
            Ok(value) => Some(value),
            Err(error) => {
                self.report.refuse(
                    key,
                    error
                        .to_string()
                        .replace("unknown variant", "unknown value"),
                );
                None
            }
        }
    }

    fn os(&mut self) -> GuestOs {
        match self.text(|yaml| yaml.os.as_deref()).as_deref() {
            None | Some("" | "default") => GuestOs::Linux,
            Some(word) => self.word("os", word).unwrap_or_default(),
        }
    }

    fn arch(&mut self) -> Arch {
        let host = self.ctx.platform.arch;
        match self.text(|yaml| yaml.arch.as_deref()).as_deref() {
            None | Some("" | "default") => host,
            Some(word) => self.word("arch", word).unwrap_or(host),
        }
    }
}
