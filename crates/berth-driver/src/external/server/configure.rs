//! From an instance's JSON to a driver of it, and back.

use std::sync::Arc;

use berth_config::model::Config;
use berth_config::resolve::{ResolveContext, resolve};
use berth_config::sources::Sources;
use berth_config::version::LimaVersion;
use berth_config::yaml;
use berth_image::error::with_causes;
use serde_json::{Value, json};

use super::ServerOptions;
use crate::driver::{Driver, DriverContext};
use crate::external::instance::Instance;

/// A driver, and what the instance said beside its configuration.
#[derive(Clone)]
pub(super) struct Configured {
    pub(super) driver: Arc<dyn Driver>,
    /// Where SSH is wanted on the host; 0: anywhere.
    pub(super) ssh_port: u16,
}

impl ServerOptions {
    /// Makes the driver of an instance, and completes the instance with what the driver fills in.
    pub(super) fn configure(&self, instance: &mut Instance) -> Result<Configured, String> {
        let config = self.resolve(instance.config())?;
        let driver = self.driver(instance.name(), config.clone())?;
        instance.note_changes(&config, driver.config());
        // Neither the name of the engine nor an empty one: the caller looks for this driver again by it.
        let mut completed = instance.config();
        completed["vmType"] = self.name.as_str().into();
        if completed["mountType"].is_null() {
            completed["mountType"] = json!(driver.config().mount_type);
        }
        instance.set("config", completed);
        instance.set("vmType", self.name.as_str().into());
        Ok(Configured {
            driver,
            ssh_port: instance.ssh_port(),
        })
    }

    /// A driver of an instance that is not known yet: it can only say what it is.
    pub(super) fn unconfigured(&self) -> Result<Arc<dyn Driver>, String> {
        let config = self.resolve(json!({"images": []}))?;
        self.driver("", config)
    }

    fn driver(&self, name: &str, config: Config) -> Result<Arc<dyn Driver>, String> {
        let of_directory = self.dir.path().file_name().unwrap_or_default();
        let name = match name {
            "" => of_directory.to_string_lossy().into_owned(),
            name => name.to_owned(),
        };
        let context = DriverContext {
            name,
            dir: self.dir.clone(),
            config: Arc::new(config),
            platform: Arc::clone(&self.platform),
            env: Arc::clone(&self.env),
        };
        let driver = (self.make)(context).map_err(|error| with_causes(&error))?;
        Ok(Arc::from(driver))
    }

    /// Reads a configuration like a `lima.yaml`: JSON is YAML, and every default that Lima leaves out is ours as well.
    fn resolve(&self, mut config: Value) -> Result<Config, String> {
        let Value::Object(keys) = &mut config else {
            return Err("config: it is no JSON object".to_owned());
        };
        keys.insert("vmType".to_owned(), self.engine.as_str().into());
        let loaded = yaml::load(&config.to_string(), "the instance's config");
        let sources = Sources {
            instance: loaded.map_err(|error| with_causes(&error))?,
            ..Sources::default()
        };
        let version = std::fs::read_to_string(self.dir.lima_version()).ok();
        let path = self.dir.path();
        let context = ResolveContext {
            platform: &self.platform,
            instance_name: path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default(),
            instance_dir: path,
            lima_home: path.parent().unwrap_or(path),
            created_by: LimaVersion::of_existing_instance(version.as_deref()),
            external_drivers: berth_config::resolve::ExternalDrivers::default(),
        };
        let resolved = resolve(&sources, &context).map_err(|error| with_causes(&error))?;
        for warning in &resolved.warnings {
            tracing::debug!("{warning}");
        }
        Ok(resolved.config)
    }
}
