//! The command line of scp.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::Context as _;
use tempfile::NamedTempFile;

use super::guest::Guest;
use super::{Job, Told};

/// scp with a configuration that knows all instances of the job.
pub(super) fn command(job: &Job, program: &Path, config: &Path) -> Command {
    let mut command = Command::new(program);
    command.arg("-F").arg(config);
    match job.told {
        Told::Errors => command.arg("-q"),
        // It shows a meter by itself.
        Told::Progress => &mut command,
        Told::Files => command.arg("-v"),
    };
    if job.recursive {
        command.arg("-r");
    }
    // Between two instances the bytes go through this computer: they do not know each other.
    command.arg("-3").arg("--");
    command.args(job.places().map(super::Place::argument));
    command
}

/// The configurations of several instances in one file, which vanishes with what is returned.
pub(super) fn joint_config(guests: &[Guest]) -> anyhow::Result<NamedTempFile> {
    let mut joint = NamedTempFile::new().context("cannot make a file for ssh's configuration")?;
    for guest in guests {
        let path = guest.dir.ssh_config();
        let config = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        joint
            .write_all(&config)
            .and_then(|()| joint.write_all(b"\n"))
            .with_context(|| format!("cannot write {}", joint.path().display()))?;
    }
    Ok(joint)
}
