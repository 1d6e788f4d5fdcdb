//! What must be there before an agent can start an instance: the guest agent, the image, the disk.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use berth_config::model::Config;
use berth_driver::driver::{Driver, DriverContext, StopLadder};
use berth_driver::image_files;
use berth_image::error::ImageError;
use berth_image::fetch::{FetchSettings, Fetcher, Proxies, Source};
use berth_image::progress::Watch;
use berth_image::select::fetch_first;
use berth_instance::dir::InstanceDir;
use tokio::sync::watch;

use crate::context::{Context, Host};
use crate::guest_agent::{self, GuestAgentError};
use crate::progress::Display;

/// What the agent is told on its command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Prepared {
    /// Guest agent to install.
    pub(crate) guest_agent: Option<PathBuf>,
    /// Archive of nerdctl to install.
    pub(crate) nerdctl_archive: Option<PathBuf>,
    /// Whether the driver shows a window.
    pub(crate) run_gui: bool,
}

/// Prepares an instance. For one that is prepared already this reads a few files and runs nothing.
pub(crate) async fn prepare(
    context: &Context,
    host: &Host,
    dir: &InstanceDir,
    config: Config,
    guest_agent: Option<&Path>,
) -> anyhow::Result<Prepared> {
    let exe = std::env::current_exe().context("cannot find this program's own file")?;
    let guest_agent = guest_agent::find(&config, guest_agent, &context.env, &exe)?;
    let config = Arc::new(config);
    let driver = make_driver(context, host, dir, Arc::clone(&config)).await?;
    let guest_agent = match guest_agent {
        Some(path) if !driver.has_agent_carrier() => Some(lima_agent(path, host, &config, &exe)?),
        agent => agent,
    };
    for warning in driver.validate()? {
        tracing::warn!("{warning}");
    }
    let display = Display::new(&context.display, context.interactive);
    let proxies = Proxies::from_env(context.env.pairs());
    let fetcher = Fetcher::new(FetchSettings::new(host.cache_dir.clone(), proxies));
    let is_there = driver.holds_system().await?;
    if !is_there.unwrap_or_else(|| has_disk_or_image(dir)) {
        fetch_image(&fetcher, &config, dir, &display).await?;
    }
    let step = display.step("Preparing the disk");
    driver.prepare_disk().await?;
    step.done();
    let run_gui = driver.info().features.can_run_gui;
    let_go(driver.as_ref()).await?;
    Ok(Prepared {
        guest_agent,
        nerdctl_archive: fetch_nerdctl(&fetcher, &config, &display).await?,
        run_gui,
    })
}

/// A driver that is a process of its own ends here: the agent starts its own.
async fn let_go(driver: &dyn Driver) -> anyhow::Result<()> {
    const QUIT: Duration = Duration::from_secs(10);
    let (_patience, hurry) = watch::channel(false);
    let ladder = StopLadder {
        power_down: Duration::ZERO,
        quit: QUIT,
        hurry,
    };
    Ok(driver.stop(ladder).await?)
}

/// Lima's guest agent instead of ours, for a driver that cannot reach ours. One that was named is taken as it is.
fn lima_agent(
    agent: PathBuf,
    host: &Host,
    config: &Config,
    exe: &Path,
) -> Result<PathBuf, GuestAgentError> {
    if guest_agent::is_limas(&agent) {
        return Ok(agent);
    }
    let driver = host.external_drivers.find(config.vm_type.as_str());
    let driver = driver.map(|found| found.path.as_path());
    guest_agent::find_limas(config, exe, driver)
}

async fn make_driver(
    context: &Context,
    host: &Host,
    dir: &InstanceDir,
    config: Arc<Config>,
) -> anyhow::Result<Box<dyn Driver>> {
    let name = dir.path().file_name().unwrap_or_default();
    let context = DriverContext {
        name: name.to_string_lossy().into_owned(),
        dir: dir.clone(),
        config,
        platform: Arc::clone(&host.platform),
        env: Arc::clone(context.env.pairs()),
    };
    let driver = berth_driver::create_driver(context, &host.cache_dir, &host.external_drivers);
    Ok(driver.await?)
}

/// Any of them means that the image was fetched, by us or by Lima, before 2.1 or since.
fn has_disk_or_image(dir: &InstanceDir) -> bool {
    let files = [dir.disk(), dir.diff_disk(), dir.iso(), dir.image()];
    files.iter().any(|path| path.exists())
}

async fn fetch_image(
    fetcher: &Fetcher,
    config: &Arc<Config>,
    dir: &InstanceDir,
    display: &Display,
) -> anyhow::Result<()> {
    let (fetcher, config, files) = (fetcher.clone(), Arc::clone(config), image_files(dir));
    fetching(display, move |watch| {
        fetch_first(&fetcher, &config.images, config.arch, &files, watch)
    })
    .await
}

/// Fetches the archive if containerd is wanted and the configuration names one for the guest's architecture.
async fn fetch_nerdctl(
    fetcher: &Fetcher,
    config: &Arc<Config>,
    display: &Display,
) -> anyhow::Result<Option<PathBuf>> {
    let containerd = &config.containerd;
    let archive = containerd
        .archives
        .iter()
        .find(|archive| archive.arch == config.arch);
    let Some(archive) = archive
        .filter(|_| containerd.system || containerd.user)
        .cloned()
    else {
        return Ok(None);
    };
    let fetcher = fetcher.clone();
    let archive = fetching(display, move |watch| {
        let digest = archive.digest.as_deref().map(str::parse).transpose()?;
        let source = Source {
            location: &archive.location,
            digest: digest.as_ref(),
        };
        fetcher.fetch(source, watch)
    });
    Ok(Some(archive.await?))
}

/// Runs a fetch on a thread that may block. Dropping the future ends the fetch at its next report.
async fn fetching<T: Send + 'static>(
    display: &Display,
    fetch: impl FnOnce(&mut Watch<'_>) -> Result<T, ImageError> + Send + 'static,
) -> anyhow::Result<T> {
    let unwanted = StopOnDrop::default();
    let stop = Arc::clone(&unwanted.0);
    let mut lines = display.fetches();
    let fetched = tokio::task::spawn_blocking(move || {
        fetch(&mut |progress| {
            lines.show(progress);
            if stop.load(Ordering::Relaxed) {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        })
    });
    Ok(fetched.await.context("the fetch ended early")??)
}

/// Tells a thread that nobody waits for it any more.
#[derive(Default)]
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
