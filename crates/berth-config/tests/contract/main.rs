//! What the rest of berth may expect of configurations.

mod reading;
mod resolving;
mod templates;
mod validating;

use std::path::{Path, PathBuf};

use berth_config::model::Arch;
use berth_config::platform::{HostOs, HostPlatform};
use berth_config::resolve::ExternalDrivers;
use berth_config::size::Size;
use berth_config::version::LimaVersion;
use berth_config::yaml::load;
use berth_config::{ConfigError, Problem, ResolveContext, Resolved, Sources, resolve};

/// A Linux host with eight CPUs and 6 GiB.
fn linux() -> HostPlatform {
    HostPlatform {
        os: HostOs::Linux,
        arch: Arch::X8664,
        os_version: String::new(),
        cpus: 8,
        memory: Size::from_bytes(6 << 30),
        home: PathBuf::from("/home/jane"),
        user: "jane".to_owned(),
        user_comment: "Jane\u{7} Doe".to_owned(),
        uid: 501,
        machine_id: "0123456789abcdef".to_owned(),
        timezone: "Europe/Berlin".to_owned(),
        temp_dir: PathBuf::from("/var/tmp"),
    }
}

/// An instance `a.b` that is made now.
fn context(platform: &HostPlatform) -> ResolveContext<'_> {
    ResolveContext {
        platform,
        instance_name: "a.b",
        instance_dir: Path::new("/lima/a.b"),
        lima_home: Path::new("/lima"),
        created_by: LimaVersion::current(),
        external_drivers: ExternalDrivers::default(),
    }
}

fn sources(default: &str, instance: &str, over: &str) -> Sources {
    let read = |text: &str, file: &str| load(text, file).expect(file);
    Sources {
        default: read(default, "default.yaml"),
        instance: read(instance, "lima.yaml"),
        over: read(over, "override.yaml"),
    }
}

fn resolve_on(platform: &HostPlatform, yaml: &str) -> Result<Resolved, ConfigError> {
    resolve(&sources("", yaml, ""), &context(platform))
}

/// Resolves a document that must resolve.
fn resolved(yaml: &str) -> Resolved {
    resolve_on(&linux(), yaml).expect(yaml)
}

/// The lines that people see.
fn lines(problems: &[Problem]) -> Vec<String> {
    problems.iter().map(Problem::to_string).collect()
}

/// What resolution and validation refuse of a document.
fn refusals(yaml: &str) -> Vec<String> {
    let platform = linux();
    match resolve_on(&platform, yaml) {
        Ok(resolved) => lines(&berth_config::validate(&resolved, &context(&platform))),
        Err(ConfigError::Invalid { problems }) => lines(&problems),
        Err(other) => panic!("{other}"),
    }
}
