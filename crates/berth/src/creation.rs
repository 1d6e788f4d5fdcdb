//! Making an instance from a template, or nothing.

use anyhow::Context as _;
use berth_config::name::InstanceName;
use berth_config::resolve::resolve;
use berth_config::template::Template;
use berth_config::version::{COMPATIBLE_LIMA_VERSION, LimaVersion};
use berth_config::{Sources, yaml};
use berth_instance::create::NewInstance;
use berth_instance::dir::InstanceDir;

use crate::context::{Context, Host};
use crate::instances;
use crate::prepare::{self, Prepared};
use crate::sys::{self, DirectoryLock};

/// An instance that was just made, while other starts of it are still kept out.
#[derive(Debug)]
pub(crate) struct Created {
    pub(crate) dir: InstanceDir,
    pub(crate) prepared: Prepared,
    pub(crate) alone: DirectoryLock,
}

/// Makes the instance and prepares it. When anything fails, or the future is dropped, nothing is left.
pub(crate) async fn create(
    context: &Context,
    host: &Host,
    name: &InstanceName,
    template: &Template,
    guest_agent: Option<&std::path::Path>,
) -> anyhow::Result<Created> {
    let dir = host.home.instance(name);
    let loaded = yaml::load(&template.text, &template.name)?;
    let sources = Sources::around(host.home.path(), loaded)?;
    let resolving = instances::resolve_context(host, &dir, LimaVersion::current());
    let config = instances::check_new(resolve(&sources, &resolving)?, &resolving)?;
    let new = NewInstance::create(
        &host.home,
        name,
        &template.text,
        COMPATIBLE_LIMA_VERSION,
        &host.platform,
    )?;
    let alone = sys::lock_directory(dir.path(), || {})
        .with_context(|| format!("cannot lock {}", dir.path().display()))?;
    let prepared = prepare::prepare(context, host, &dir, config, guest_agent).await?;
    Ok(Created {
        dir: new.keep(),
        prepared,
        alone,
    })
}
