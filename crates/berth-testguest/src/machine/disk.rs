//! The guest's changes: a directory beside its disk, as long as it is the same disk.

use std::fs;
use std::os::fd::OwnedFd;
use std::os::linux::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

/// Added to the disk's name.
const SUFFIX: &str = ".berth-guest";

/// The changes of one guest, locked for as long as this lives.
#[derive(Debug)]
pub(super) struct Changes {
    path: PathBuf,
    _lock: OwnedFd,
}

impl Changes {
    /// Opens the changes of the guest with this disk; none yet when the disk is another than theirs.
    pub(super) fn open(disk: &Path) -> Result<Self> {
        let mut name = disk.as_os_str().to_owned();
        name.push(SUFFIX);
        let path = PathBuf::from(name);
        fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        let lock = lock(&path, disk)?;
        let owner = path.join("disk");
        let identity = identity(disk)?;
        if fs::read_to_string(&owner).unwrap_or_default() != identity {
            for name in ["upper", "work"] {
                make_empty(&path.join(name))?;
            }
            fs::write(&owner, identity).with_context(|| format!("write {}", owner.display()))?;
        }
        Ok(Self { path, _lock: lock })
    }

    /// The directory.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

fn lock(path: &Path, disk: &Path) -> Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(path, flags, Mode::empty())
        .with_context(|| format!("open {}", path.display()))?;
    match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(directory),
        Err(Errno::WOULDBLOCK) => bail!(
            "Failed to get \"write\" lock\nIs another process using the image [{}]?",
            disk.display()
        ),
        Err(error) => Err(error).with_context(|| format!("lock {}", path.display())),
    }
}

/// Tells one file from another that took its name.
fn identity(disk: &Path) -> Result<String> {
    let context = || format!("look at {}", disk.display());
    let metadata = fs::metadata(disk).with_context(context)?;
    let born = metadata
        .created()
        .map_or(String::new(), |time| format!("{time:?}"));
    Ok(format!(
        "{} {} {born}\n",
        metadata.st_dev(),
        metadata.st_ino()
    ))
}

fn make_empty(path: &Path) -> Result<()> {
    if path.exists() {
        fs::remove_dir_all(path).with_context(|| format!("remove {}", path.display()))?;
    }
    fs::create_dir(path).with_context(|| format!("create {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_stay_with_their_disk() {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("disk");
        fs::write(&disk, "a").unwrap();
        let mark = |changes: &Changes| changes.path().join("upper/mark");
        let first = Changes::open(&disk).unwrap();
        fs::write(mark(&first), "").unwrap();
        let busy = Changes::open(&disk).unwrap_err().to_string();
        assert!(busy.starts_with("Failed to get \"write\" lock"), "{busy}");
        drop(first);
        fs::write(&disk, "bb").unwrap();
        let again = Changes::open(&disk).unwrap();
        assert!(mark(&again).exists(), "written to, but the same disk");
        drop(again);
        let other = dir.path().join("other");
        fs::write(&other, "a").unwrap();
        fs::rename(&other, &disk).unwrap();
        assert!(
            !mark(&Changes::open(&disk).unwrap()).exists(),
            "another disk"
        );
    }

    #[test]
    fn a_disk_must_exist() {
        let dir = tempfile::tempdir().unwrap();
        let error = Changes::open(&dir.path().join("none")).unwrap_err();
        assert!(format!("{error:#}").contains("No such file"), "{error:#}");
    }
}
