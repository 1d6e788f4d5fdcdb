//! Additional disks, and who uses them.
//!
//! A disk is locked by a link `in_use_by` to the directory of the instance, as Lima does it. The link ends with the VM: it is
//! removed by its owner only, and one whose owner has no process left is nobody's.

use std::io;
use std::path::{Path, PathBuf};

use crate::dir::InstanceDir;
use crate::pids::Processes;
use crate::sys;

/// `$LIMA_HOME/_disks/NAME`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskDir(PathBuf);

/// A disk cannot be locked or unlocked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DiskLockError {
    /// Another instance uses it.
    #[error("disk {disk:?} is in use by instance {owner:?}; stop that instance first")]
    InUse {
        /// Name of the disk.
        disk: String,
        /// Name of the instance.
        owner: String,
    },
    /// There is no such disk.
    #[error("disk {disk:?} does not exist; make it with `limactl disk create {disk} --size SIZE`")]
    Missing {
        /// Name of the disk.
        disk: String,
    },
    /// A disk of this name is there already.
    #[error("disk {disk:?} already exists ({})", .path.display())]
    Exists {
        /// Name of the disk.
        disk: String,
        /// Its directory.
        path: PathBuf,
    },
    /// A file operation failed.
    #[error("cannot {verb} {}", .path.display())]
    Io {
        /// What was being done.
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl DiskDir {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    /// The directory itself.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Its data, qcow2 or raw.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.0.join("datadisk")
    }

    /// The lock: a link to the directory of the instance that uses it.
    #[must_use]
    pub fn in_use_by(&self) -> PathBuf {
        self.0.join("in_use_by")
    }

    /// The instance that the lock names, living or not.
    pub fn owner(&self) -> Result<Option<InstanceDir>, DiskLockError> {
        let path = self.in_use_by();
        match std::fs::read_link(&path) {
            Ok(owner) => Ok(Some(InstanceDir::new(owner))),
            Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(DiskLockError::Io {
                verb: "read",
                path,
                source,
            }),
        }
    }

    /// Locks the disk for an instance. Locking again is fine; a lock whose owner has no process left is taken over.
    pub fn lock(&self, instance: &InstanceDir) -> Result<(), DiskLockError> {
        let _guard = self.guard()?;
        let link = self.in_use_by();
        if let Some(owner) = self.owner()? {
            if owner == *instance {
                return Ok(());
            }
            if Processes::look(&owner, None).any() {
                return Err(DiskLockError::InUse {
                    disk: name(&self.0),
                    owner: name(owner.path()),
                });
            }
            tracing::warn!(
                disk = name(&self.0),
                owner = name(owner.path()),
                "taking over the lock of an instance that does not run"
            );
            std::fs::remove_file(&link).map_err(|source| self.error("remove", source))?;
        }
        sys::symlink(instance.path(), &link).map_err(|source| self.error("create", source))
    }

    /// Unlocks the disk if this instance owns the lock, and returns whether it did.
    pub fn unlock(&self, instance: &InstanceDir) -> Result<bool, DiskLockError> {
        let _guard = self.guard()?;
        if self.owner()?.as_ref() != Some(instance) {
            return Ok(false);
        }
        std::fs::remove_file(self.in_use_by()).map_err(|source| self.error("remove", source))?;
        Ok(true)
    }

    /// The instance that uses the disk now: the lock names it, and it has a process.
    pub fn user(&self) -> Result<Option<InstanceDir>, DiskLockError> {
        let owner = self.owner()?;
        Ok(owner.filter(|owner| Processes::look(owner, None).any()))
    }

    /// Makes the directory of a disk that is to be, for its owner's eyes only. It must not be there.
    pub fn make(&self) -> Result<(), DiskLockError> {
        if let Some(parent) = self.0.parent() {
            std::fs::create_dir_all(parent).map_err(|source| self.error_of("create", source))?;
        }
        sys::create_private_dir(&self.0).map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => DiskLockError::Exists {
                disk: name(&self.0),
                path: self.0.clone(),
            },
            _ => self.error_of("create", source),
        })
    }

    /// Does `work` while nobody can lock the disk, which nobody uses.
    pub async fn unused<T>(&self, work: impl Future<Output = T>) -> Result<T, DiskLockError> {
        let _guard = self.guard()?;
        self.must_be_unused()?;
        Ok(work.await)
    }

    /// Removes a disk that nobody uses, and all it holds.
    pub fn remove(&self) -> Result<(), DiskLockError> {
        let _guard = self.guard()?;
        self.must_be_unused()?;
        std::fs::remove_dir_all(&self.0).map_err(|source| self.error_of("remove", source))
    }

    /// Removes the lock of an instance that has no process left; returns whether there was one.
    pub fn release(&self) -> Result<bool, DiskLockError> {
        let _guard = self.guard()?;
        self.must_be_unused()?;
        if self.owner()?.is_none() {
            return Ok(false);
        }
        std::fs::remove_file(self.in_use_by()).map_err(|source| self.error("remove", source))?;
        Ok(true)
    }

    fn must_be_unused(&self) -> Result<(), DiskLockError> {
        match self.user()? {
            None => Ok(()),
            Some(owner) => Err(DiskLockError::InUse {
                disk: name(&self.0),
                owner: name(owner.path()),
            }),
        }
    }

    fn error_of(&self, verb: &'static str, source: io::Error) -> DiskLockError {
        DiskLockError::Io {
            verb,
            path: self.0.clone(),
            source,
        }
    }

    /// Keeps others of us out while the owner is looked at and changed.
    fn guard(&self) -> Result<impl Sized + use<>, DiskLockError> {
        sys::lock_directory(&self.0).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => DiskLockError::Missing {
                disk: name(&self.0),
            },
            _ => DiskLockError::Io {
                verb: "lock",
                path: self.0.clone(),
                source,
            },
        })
    }

    fn error(&self, verb: &'static str, source: io::Error) -> DiskLockError {
        DiskLockError::Io {
            verb,
            path: self.in_use_by(),
            source,
        }
    }
}

fn name(path: &Path) -> String {
    path.file_name()
        .unwrap_or(path.as_os_str())
        .to_string_lossy()
        .into_owned()
}
