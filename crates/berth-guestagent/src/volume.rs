//! The cidata volume: mounting it, and reading `boot.json`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use berth_link::boot::{BOOT_SPEC_VERSION, BootSpec};
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};

use crate::boot::step_log::StepLog;
use crate::files::{Attributes, FileError, ensure_directory, read_text};
use crate::guest::Guest;
use crate::programs::{Command, Output, ProgramError};
use crate::watch::{ANY, WaitError, Watcher};

/// What the host asks for.
const BOOT_SPEC: &str = "boot.json";

/// Label of the file system.
const LABEL: &str = "cidata";

/// For root only, and executable, whatever the modes in the volume say.
const OPTIONS: &str = "ro,exec,overriderockperm,mode=0700,dmode=0700,uid=0";

/// How long the device may take to appear.
const LIMIT: Duration = Duration::from_mins(1);

/// Why there is nothing to apply.
#[derive(Debug, thiserror::Error)]
pub(crate) enum VolumeError {
    /// A file could not be read or made.
    #[error(transparent)]
    File(#[from] FileError),
    /// The device did not appear.
    #[error(transparent)]
    Wait(#[from] WaitError),
    /// The mount program could not be run.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The volume has no `boot.json`.
    #[error("{} is missing: the cidata volume is not berth's", .0.display())]
    Missing(PathBuf),
    /// `boot.json` is broken.
    #[error("could not understand {}", path.display())]
    Garbage {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and column.
        #[source]
        source: serde_json::Error,
    },
    /// `boot.json` is for another agent.
    #[error(
        "{} has version {version}, and this guest agent understands {BOOT_SPEC_VERSION}: start the instance again with the berth that belongs to its agent",
        path.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
}

/// Mounts the volume at `directory`, if it is not mounted, and reads what the host asks for.
///
/// The volume of another host agent is not kept mounted: Lima's boot script mounts it at the same place, and gives up if it is
/// mounted there.
pub(crate) async fn open(guest: &Guest, directory: &Path) -> Result<BootSpec, VolumeError> {
    if directory.join(BOOT_SPEC).exists() {
        return read(directory);
    }
    mount(guest, directory).await?;
    let spec = read(directory);
    if matches!(spec, Err(VolumeError::Missing(_))) {
        unmount(guest, directory).await?;
    }
    spec
}

/// Reads what the host asks for from a mounted volume.
pub(crate) fn read(directory: &Path) -> Result<BootSpec, VolumeError> {
    let path = directory.join(BOOT_SPEC);
    let Some(text) = read_text(&path)? else {
        return Err(VolumeError::Missing(path));
    };
    parse(&text, path)
}

/// The version comes first: what a later version means is not to be guessed.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

fn parse(text: &str, path: PathBuf) -> Result<BootSpec, VolumeError> {
    let garbage = |path, source| VolumeError::Garbage { path, source };
    match serde_json::from_str(text) {
        Ok(Versioned { version }) if version != BOOT_SPEC_VERSION => {
            Err(VolumeError::Version { path, version })
        }
        Err(source) => Err(garbage(path, source)),
        Ok(_) => serde_json::from_str(text).map_err(|source| garbage(path, source)),
    }
}

/// Mounts by label, when the device comes.
///
/// By the guest's own mount program: it knows labels without udev, and a guest may have its own idea of where the volume is.
async fn mount(guest: &Guest, directory: &Path) -> Result<(), VolumeError> {
    let what = "the volume labelled cidata";
    let failed = |source| WaitError::Watch {
        what: what.to_owned(),
        source,
    };
    ensure_directory(directory, Attributes::root(0o700))?;
    let log = StepLog::new(guest, LABEL);
    let deadline = Instant::now() + LIMIT;
    let mut watcher = Watcher::new().map_err(failed)?;
    // Where udev names devices by their labels, nothing else is worth an attempt.
    let device = if guest.has("/run/udev") {
        guest.path("/dev/disk/by-label").join(LABEL)
    } else {
        guest.path("/dev").join(ANY)
    };
    let devices = [device];
    loop {
        watcher.cover(&devices).map_err(failed)?;
        let command = Command::new("mount")
            .args(["-t", "iso9660", "-o", OPTIONS, "LABEL=cidata"])
            .arg(directory);
        let mounted = guest
            .programs
            .run(&command, Output::Log(log.open()?))
            .await?;
        // cloud-init's own command may have been faster.
        if mounted.code == 0 || directory.join(BOOT_SPEC).exists() {
            return Ok(());
        }
        let changed = timeout_at(deadline, watcher.changed()).await;
        changed
            .map_err(|_| WaitError::TimedOut {
                what: format!(
                    "{what} (mount says: {})",
                    log.tail("").lines().last().unwrap_or("nothing")
                ),
                limit: LIMIT,
            })?
            .map_err(failed)?;
    }
}

async fn unmount(guest: &Guest, directory: &Path) -> Result<(), VolumeError> {
    let log = StepLog::new(guest, LABEL);
    let command = Command::new("umount").arg(directory);
    let finished = guest
        .programs
        .run(&command, Output::Log(log.open()?))
        .await?;
    if finished.code != 0 {
        tracing::warn!(
            "{} stays mounted, which is in Lima's way: umount says: {}",
            directory.display(),
            log.tail("").lines().last().unwrap_or("nothing")
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::chain;
    use crate::boot::testing::Scene;

    fn why(text: &str) -> String {
        chain(&parse(text, "/mnt/lima-cidata/boot.json".into()).unwrap_err())
    }

    #[test]
    fn what_the_host_writes_is_read() {
        let spec = Scene::new().spec;
        let text = serde_json::to_string_pretty(&spec).unwrap();
        assert_eq!(parse(&text, PathBuf::new()).unwrap(), spec);
    }

    #[test]
    fn garbage_is_named_with_its_place() {
        let file = "could not understand /mnt/lima-cidata/boot.json: ";
        assert_eq!(
            why("\0\0"),
            format!("{file}expected value at line 1 column 1")
        );
        assert!(why("{\"version\": 1}").starts_with(&format!("{file}missing field `instance`")));
        assert!(why("{\"version\": 99, \"new\": 1}").contains("has version 99"));
        assert!(why("").starts_with(&format!("{file}EOF")));
    }

    #[test]
    fn a_volume_of_somebody_else_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let why = read(dir.path()).unwrap_err().to_string();
        assert!(
            why.ends_with("/boot.json is missing: the cidata volume is not berth's"),
            "{why}"
        );
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_mounted_volume_is_not_mounted_again() {
        let scene = Scene::new();
        let text = serde_json::to_string(&scene.spec).unwrap();
        scene.write("/mnt/lima-cidata/boot.json", &text);
        let spec = open(&scene.guest, &scene.path("/mnt/lima-cidata"))
            .await
            .unwrap();
        assert_eq!(spec, scene.spec);
        assert_eq!(scene.ran(), Vec::<String>::new());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_volume_of_somebody_else_is_left_to_them() {
        let scene = Scene::new();
        let directory = scene.path("/mnt/lima-cidata");
        let why = open(&scene.guest, &directory).await.unwrap_err();
        assert!(matches!(why, VolumeError::Missing(_)), "{why}");
        let ran = scene.ran();
        assert!(ran[0].starts_with("mount -t iso9660 "), "{ran:?}");
        assert_eq!(ran[1..], [format!("umount {}", directory.display())]);
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn a_device_that_never_comes_is_named() {
        let scene = Scene::new();
        scene.answer("mount", 1, "mount: can't find LABEL=cidata.\n");
        let why = open(&scene.guest, &scene.path("/mnt/lima-cidata"))
            .await
            .unwrap_err()
            .to_string();
        assert_eq!(
            why,
            "waited 60 s for the volume labelled cidata (mount says: mount: can't find LABEL=cidata.)"
        );
    }
}
