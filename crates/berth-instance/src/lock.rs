//! Who is the agent of an instance: whoever holds the lock on `berth.lock`.
//!
//! The lock belongs to the open file and ends with the process, however it ends. So it cannot be stale, which a pid file can.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::{Path, PathBuf};

use crate::dir::InstanceDir;
use crate::sys;

/// How often we try again when only questions ([`InstanceLock::is_held`]), never an agent, are in the way.
const ATTEMPTS: u32 = 1000;

/// The right to be an instance's agent, until dropped.
#[derive(Debug)]
pub struct InstanceLock {
    file: File,
    path: PathBuf,
}

/// The lock was not acquired.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// Another agent holds it.
    #[error("another host agent{} holds {}", of(*.pid), .path.display())]
    Held {
        /// Pid of that agent, where it says.
        pid: Option<u32>,
        /// The lock file.
        path: PathBuf,
    },
    /// A file operation failed.
    #[error("cannot {verb} {}", .path.display())]
    Io {
        /// What was being done.
        verb: &'static str,
        /// The lock file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn of(pid: Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (pid {pid})"))
}

impl InstanceLock {
    /// Takes the lock, without waiting for another agent, and notes our pid in it.
    pub fn try_acquire(dir: &InstanceDir) -> Result<Self, LockError> {
        let path = dir.lock();
        let error = |verb| {
            let path = path.clone();
            move |source| LockError::Io { verb, path, source }
        };
        for _ in 0..ATTEMPTS {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false);
            let file = sys::open_mode(&mut options, 0o644)
                .open(&path)
                .map_err(error("open"))?;
            match file.try_lock() {
                Ok(()) if sys::same_file(&file, &path).map_err(error("look at"))? => {
                    let lock = Self {
                        file,
                        path: path.clone(),
                    };
                    lock.note_pid().map_err(error("write"))?;
                    return Ok(lock);
                }
                // The earlier agent removed it between our opening and locking.
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => match file.try_lock_shared() {
                    // Somebody only asked who holds it.
                    Ok(()) => {
                        unlock(&file, &path);
                        std::thread::yield_now();
                    }
                    Err(TryLockError::WouldBlock) => break,
                    Err(TryLockError::Error(why)) => return Err(error("lock")(why)),
                },
                Err(TryLockError::Error(why)) => return Err(error("lock")(why)),
            }
        }
        Err(LockError::Held {
            pid: read_pid(&path),
            path,
        })
    }

    /// Whether an agent lives, and its pid where it says. An instance without a lock file has none.
    pub fn is_held(dir: &InstanceDir) -> Result<Option<Holder>, LockError> {
        let path = dir.lock();
        let error = |verb, source| LockError::Io {
            verb,
            path: path.clone(),
            source,
        };
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(why) => return Err(error("open", why)),
        };
        match file.try_lock_shared() {
            Ok(()) => {
                unlock(&file, &path);
                Ok(None)
            }
            Err(TryLockError::WouldBlock) => Ok(Some(Holder {
                pid: read_pid(&path),
            })),
            Err(TryLockError::Error(why)) => Err(error("lock", why)),
        }
    }

    fn note_pid(&self) -> io::Result<()> {
        let mut file = &self.file;
        file.set_len(0)?;
        file.rewind()?;
        file.write_all(format!("{}\n", std::process::id()).as_bytes())
    }
}

/// A living agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    /// Its pid, where it says.
    pub pid: Option<u32>,
}

fn read_pid(path: &Path) -> Option<u32> {
    let mut text = String::new();
    File::open(path)
        .ok()?
        .take(32)
        .read_to_string(&mut text)
        .ok()?;
    text.trim().parse().ok()
}

/// Gives a lock back at once. Closing alone would not: a child that another thread starts at this very moment has the file open,
/// too, until its `exec`.
fn unlock(file: &File, path: &Path) {
    if let Err(why) = file.unlock() {
        tracing::warn!(path = %path.display(), error = %why, "cannot unlock a lock file");
    }
}

impl Drop for InstanceLock {
    fn drop(&mut self) {
        // While we still hold it: nobody else's file can be meant.
        if let Err(why) = std::fs::remove_file(&self.path)
            && why.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), error = %why, "cannot remove a lock file");
        }
        unlock(&self.file, &self.path);
    }
}
