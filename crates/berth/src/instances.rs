//! Instances on disk: their configuration and their state.

use std::time::Duration;

use berth_config::model::{Config, VmType};
use berth_config::name::InstanceName;
use berth_config::resolve::{ExternalDrivers, ResolveContext, Resolved, resolve};
use berth_config::sources::Sources;
use berth_config::version::LimaVersion;
use berth_config::{ConfigError, validate};
use berth_driver::external::inspect_status;
use berth_instance::dir::InstanceDir;
use berth_instance::inspect::{InspectContext, InspectError, Inspection, inspect};

use serde_json::{Map, Value};

use crate::context::Host;
use crate::failure::chain_in_one_line;
use crate::render::template::{InstanceTemplate, Unknown};

/// Reads the configuration of an instance, without checking whether it could be started.
pub(crate) fn load(host: &Host, dir: &InstanceDir) -> Result<Resolved, ConfigError> {
    let sources = Sources::read(host.home.path(), &dir.lima_yaml())?;
    resolve(&sources, &resolve_context(host, dir, created_by(dir)))
}

/// Reads the configuration of an instance and refuses what cannot be started.
///
/// Cautions go to the log; what is odd about the text itself is told by the agent, which reads it again.
pub(crate) fn load_for_start(host: &Host, dir: &InstanceDir) -> Result<Config, ConfigError> {
    let resolved = load(host, dir)?;
    check(resolved, &resolve_context(host, dir, created_by(dir)))
}

/// Refuses a configuration that cannot be started, and tells everything that is odd about one that can.
pub(crate) fn check_new(
    resolved: Resolved,
    context: &ResolveContext<'_>,
) -> Result<Config, ConfigError> {
    for warning in &resolved.warnings {
        tracing::warn!("{warning}");
    }
    check(resolved, context)
}

fn created_by(dir: &InstanceDir) -> LimaVersion {
    let version = std::fs::read_to_string(dir.lima_version()).ok();
    LimaVersion::of_existing_instance(version.as_deref())
}

fn check(resolved: Resolved, context: &ResolveContext<'_>) -> Result<Config, ConfigError> {
    let problems = validate(&resolved, context);
    if !problems.is_empty() {
        return Err(ConfigError::Invalid { problems });
    }
    for caution in berth_config::validate::cautions(&resolved, context) {
        tracing::warn!("{caution}");
    }
    Ok(resolved.config)
}

/// What a configuration is resolved against.
pub(crate) fn resolve_context<'a>(
    host: &'a Host,
    dir: &'a InstanceDir,
    created_by: LimaVersion,
) -> ResolveContext<'a> {
    let name = dir.path().file_name().and_then(|name| name.to_str());
    ResolveContext {
        platform: &host.platform,
        instance_name: name.unwrap_or_default(),
        instance_dir: dir.path(),
        lima_home: host.home.path(),
        created_by,
        external_drivers: ExternalDrivers {
            names: host.external_drivers.names(),
            searched: host.external_drivers.searched(),
        },
    }
}

/// Looks at one instance. Whatever is wrong with it is part of the result.
pub(crate) fn look(host: &Host, name: &str) -> Result<Inspection, InspectError> {
    let load_config = |dir: &InstanceDir| {
        load(host, dir)
            .map(|resolved| resolved.config)
            .map_err(|error| chain_in_one_line(&error))
    };
    let render_message = |message: &str, instance: &Inspection| {
        InstanceTemplate::parse(message, Unknown::NoValue)
            .and_then(|template| template.fill(&instance.to_json(&host.home, &host.platform)))
            .map_err(|error| chain_in_one_line(&error))
    };
    let context = InspectContext {
        platform: &host.platform,
        load_config: &load_config,
        render_message: &render_message,
        ask_driver: &|config, instance| ask_driver(host, config, instance),
    };
    inspect(&host.home, name, &context)
}

/// Asks an external driver for a status that pid files may not tell. One that is not there, or does not answer, is part of the
/// result, too.
fn ask_driver(
    host: &Host,
    config: &Config,
    instance: &Map<String, Value>,
) -> Option<Result<String, String>> {
    /// As long as an agent has.
    const LIMIT: Duration = Duration::from_secs(3);
    let VmType::External(name) = &config.vm_type else {
        return None;
    };
    let driver = host.external_drivers.find(name)?;
    let asked = inspect_status::ask(&driver.path, &Value::Object(instance.clone()), LIMIT);
    Some(asked.map_err(|error| chain_in_one_line(&error)))
}

/// Looks at an instance that must exist, by a name that a person wrote.
pub(crate) fn look_at_existing(host: &Host, name: &str) -> anyhow::Result<Inspection> {
    let name = InstanceName::parse(name)?;
    Ok(look(host, name.as_str())?)
}
