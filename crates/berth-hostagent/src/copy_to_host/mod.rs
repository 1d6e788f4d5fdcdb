//! `copyToHost`: files of the guest on the host, at the end of a start.
//!
//! The guest chooses what a file holds and no more: not where it is written (`sys::Folder`), nor how much of the host's disk it takes.

mod place;

use std::path::PathBuf;
use std::time::Duration;

use berth_config::model::CopyToHost;
use berth_ssh::exec::{ExecError, Output, Script};
use berth_ssh::session::Session;

use crate::agent::HostAgent;
use crate::error::chain;
use crate::phases::Causes;
use place::{Place, PlaceError, Staged};

/// How long one file may take.
const COPY: Duration = Duration::from_secs(600);
/// How long removing one may take, on a file system that does not answer.
const REMOVE: Duration = Duration::from_secs(5);

const AS_USER: &str = "#!/bin/sh\nexport LC_ALL=C\nexec cat -- \"$FILE\"\n";
const AS_ROOT: &str = "#!/bin/sh\nexec sudo -n env LC_ALL=C cat -- \"$FILE\"\n";

/// Copies what the configuration asks for, in its order; what cannot be copied is a cause of degradation.
pub(crate) async fn begin(agent: &HostAgent) -> Causes {
    let config = agent.config();
    let writable = config.mounts.iter().filter(|mount| mount.writable);
    let guests: Vec<PathBuf> = writable.map(|mount| mount.location.clone()).collect();
    // Whether or not anything gets copied, as an earlier life may have been killed.
    for rule in config
        .copy_to_host
        .iter()
        .filter(|rule| rule.delete_on_stop)
    {
        delete_on_stop(agent, rule, guests.clone());
    }
    let mut causes = Causes::new();
    for (index, rule) in config.copy_to_host.iter().enumerate() {
        let temporary = format!(".berth-{}-{index}.tmp", agent.name);
        let copied = match agent.live.session.get() {
            Some(session) if agent.logged_in() => copy(session, rule, &temporary, &guests).await,
            _ => Err(ExecError::NotConnected.into()),
        };
        let (from, to) = (&rule.guest, rule.host.display());
        match copied {
            Ok(Copied::Whole) => tracing::info!(from, %to, "copied to the host"),
            Ok(Copied::Missing) => tracing::info!(from, "not copied to the host: there is none"),
            Err(why) => causes.push(format!(
                "copyToHost[{index}]: {from:?} of the guest was not copied to {to}: {}",
                chain(&why)
            )),
        }
    }
    causes
}

/// How a copy ended well.
#[derive(Debug, PartialEq, Eq)]
enum Copied {
    Whole,
    /// The guest has no such file, which the rule allows.
    Missing,
}

/// Why a file was not copied.
#[derive(Debug, thiserror::Error)]
enum CopyError {
    #[error(transparent)]
    Place(#[from] PlaceError),
    #[error(transparent)]
    Exec(#[from] ExecError),
    /// The guest cannot read it, in its own words.
    #[error("{0}")]
    Guest(String),
}

/// Copies one file: as the user, then as root where the user may not read it.
async fn copy(
    session: &Session,
    rule: &CopyToHost,
    temporary: &str,
    guests: &[PathBuf],
) -> Result<Copied, CopyError> {
    let place = Place::find(&rule.host, true, guests).await?;
    let mut staged = Staged::begin(place, temporary).await?;
    let mut output = read(session, rule, AS_USER, &mut staged).await?;
    if says(&output, "Permission denied") {
        staged.start_over().await?;
        output = read(session, rule, AS_ROOT, &mut staged).await?;
    }
    if output.success() {
        staged.commit().await?;
        return Ok(Copied::Whole);
    }
    if rule.skip_if_missing && says(&output, "No such file or directory") {
        return Ok(Copied::Missing);
    }
    Err(CopyError::Guest(output.describe()))
}

async fn read(
    session: &Session,
    rule: &CopyToHost,
    script: &str,
    staged: &mut Staged,
) -> Result<Output, ExecError> {
    let script = Script::new(script).with_env("FILE", &rule.guest);
    session
        .run_into(&script, &mut staged.file, staged.most, COPY)
        .await
}

/// Whether it failed with these words.
fn says(output: &Output, words: &str) -> bool {
    !output.success() && String::from_utf8_lossy(&output.stderr).contains(words)
}

/// Has the host's file removed when the agent stops.
fn delete_on_stop(agent: &HostAgent, rule: &CopyToHost, guests: Vec<PathBuf>) {
    let host = rule.host.clone();
    let what = format!("copyToHost: remove {}", host.display());
    agent.cleanups.register(what, REMOVE, move || async move {
        match Place::find(&host, false, &guests).await {
            Ok(place) => place.remove().await,
            Err(why) if why.is_missing() => Ok(()),
            Err(why) => Err(why),
        }
        .map_err(|why| chain(&why))
    });
}

#[cfg(all(test, unix))]
mod tests;
