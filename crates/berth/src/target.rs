//! Which instance the arguments of `start` and `create` mean, and which template a new one is made from.

use std::io::Read as _;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use berth_config::name::InstanceName;
use berth_config::template::{FetchError, Library, Locator, Template};
use berth_config::yaml::MAX_FILE_SIZE;
use berth_image::fetch::{FetchSettings, Fetcher, Proxies, Source};

use crate::context::{Context, Host};
use crate::environment::Environment;

const DEFAULT_INSTANCE: &str = "default";

/// What is to be started.
#[derive(Debug)]
pub(crate) enum Target {
    /// An instance that exists.
    Existing(InstanceName),
    /// One that is to be made.
    New {
        name: InstanceName,
        /// With its bases and scripts embedded.
        template: Template,
    },
}

impl Target {
    /// Reads the positional argument and `--name` as Lima does: a name means an instance, or a new one from the default
    /// template; everything else is a template, and its name is the instance's unless another is given.
    pub(crate) fn of(
        argument: Option<&str>,
        wanted_name: Option<&str>,
        context: &Context,
        host: &Host,
    ) -> anyhow::Result<Self> {
        let cwd = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
        let locator = match argument {
            Some(argument) => Locator::parse(argument, &cwd)?,
            None => Locator::Instance(InstanceName::parse(DEFAULT_INSTANCE)?),
        };
        ensure!(
            !(matches!(locator, Locator::Instance(_))
                && argument.is_some()
                && wanted_name.is_some()),
            "the instance is named twice: by the argument and by --name; name it once"
        );
        ensure!(
            !(locator == Locator::Stdin && context.global.interactive_demanded()),
            "--tty=true makes no sense with a template on standard input"
        );
        let name = name_of(&locator, wanted_name, host)?;
        if host.home.instance(&name).path().is_dir() {
            if !matches!(locator, Locator::Instance(_)) {
                tracing::info!("Using the existing instance {:?}", name.as_str());
            }
            return Ok(Self::Existing(name));
        }
        if matches!(locator, Locator::Instance(_)) && name.as_str() != DEFAULT_INSTANCE {
            tracing::warn!(
                "Instance {:?} does not exist: it is made from template:default",
                name.as_str()
            );
        }
        let template = read_template(&locator, context, host)?;
        Ok(Self::New { name, template })
    }
}

fn name_of(locator: &Locator, wanted: Option<&str>, host: &Host) -> anyhow::Result<InstanceName> {
    if let Some(name) = wanted {
        return Ok(InstanceName::parse(name)?);
    }
    let Some(proposed) = locator.proposed_name(host.platform.arch) else {
        bail!("a template on standard input has no name: give the instance one with --name");
    };
    InstanceName::parse(&proposed)
        .context("the template's name cannot be the instance's: give it one with --name")
}

/// Reads a template and makes it self-contained.
pub(crate) fn read_template(
    locator: &Locator,
    context: &Context,
    host: &Host,
) -> anyhow::Result<Template> {
    let directories = template_directories(&context.env, host);
    let fetch = |url: &str| fetch_text(url, context, host);
    let library = Library {
        directories: &directories,
        user_base: Some(&host.home.config_dir().join("base.yaml")),
        home: &host.platform.home,
        host_arch: host.platform.arch,
        fetch: &fetch,
    };
    let template = match locator {
        Locator::Stdin => Template::from_stdin(read_stdin()?),
        locator => library.read(locator)?,
    };
    Ok(library.embed(template)?)
}

/// `LIMA_TEMPLATES_PATH`, else the user's own and those installed beside this program.
fn template_directories(env: &Environment, host: &Host) -> Vec<PathBuf> {
    if let Some(list) = env
        .get("LIMA_TEMPLATES_PATH")
        .filter(|list| !list.is_empty())
    {
        return std::env::split_paths(list).collect();
    }
    let exe = std::env::current_exe().unwrap_or_default();
    let prefix = exe.parent().and_then(Path::parent);
    let installed = prefix.map(|prefix| {
        ["share/berth/templates", "share/lima/templates"].map(|place| prefix.join(place))
    });
    std::iter::once(host.home.templates_dir())
        .chain(installed.into_iter().flatten())
        .collect()
}

fn read_stdin() -> anyhow::Result<String> {
    let mut text = String::new();
    std::io::stdin()
        .take(MAX_FILE_SIZE + 1)
        .read_to_string(&mut text)
        .context("cannot read the template from standard input")?;
    ensure!(
        text.len() as u64 <= MAX_FILE_SIZE,
        "the template on standard input is larger than {MAX_FILE_SIZE} bytes"
    );
    Ok(text)
}

/// Fetches through the download cache, which asks the server each time whether the text has changed.
fn fetch_text(url: &str, context: &Context, host: &Host) -> Result<String, FetchError> {
    let proxies = Proxies::from_env(context.env.pairs());
    let fetcher = Fetcher::new(FetchSettings::new(host.cache_dir.clone(), proxies));
    let source = Source {
        location: url,
        digest: None,
    };
    // What is larger than a template can be is not downloaded to its end.
    let path = fetcher.fetch(source, &mut |progress| {
        if progress.done > MAX_FILE_SIZE {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })?;
    Ok(std::fs::read_to_string(path)?)
}
