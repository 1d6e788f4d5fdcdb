//! Waiting for files to appear, change or go, by inotify.

use std::collections::BTreeSet;
use std::ffi::{CStr, OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, timeout_at};

use crate::sys::when_readable;

/// What of a directory's entries wakes a wait.
const CHANGES: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::CLOSE_WRITE);

/// Why a wait ended without what it waited for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WaitError {
    /// It did not come in time.
    #[error("waited {} s for {what}", limit.as_secs())]
    TimedOut {
        /// What was waited for.
        what: String,
        /// How long.
        limit: Duration,
    },
    /// The kernel gives no events.
    #[error("could not watch for {what}")]
    Watch {
        /// What was waited for.
        what: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// A wait for something that files tell.
#[derive(Debug, Clone)]
pub(crate) struct Wait<'a> {
    /// What is waited for, for the error.
    pub(crate) what: &'a str,
    /// Changes of these files are asked about. They need not exist, nor their directories; one named [`ANY`] is all of a directory.
    pub(crate) paths: &'a [PathBuf],
    /// How long at most.
    pub(crate) limit: Duration,
    /// Ask this often, too: only for what the files do not tell reliably.
    pub(crate) tick: Option<Duration>,
}

impl Wait<'_> {
    /// Waits until `check` gives a value, asking it now and after each change.
    pub(crate) async fn until<T>(
        self,
        mut check: impl FnMut() -> Option<T>,
    ) -> Result<T, WaitError> {
        let failed = |source| WaitError::Watch {
            what: self.what.to_owned(),
            source,
        };
        let deadline = Instant::now() + self.limit;
        let mut watcher = Watcher::new().map_err(failed)?;
        loop {
            watcher.cover(self.paths).map_err(failed)?;
            if let Some(found) = check() {
                return Ok(found);
            }
            let next = self
                .tick
                .map_or(deadline, |tick| deadline.min(Instant::now() + tick));
            match timeout_at(next, watcher.changed()).await {
                Ok(changed) => changed.map_err(failed)?,
                Err(_) if next < deadline => {}
                Err(_) => {
                    return Err(WaitError::TimedOut {
                        what: self.what.to_owned(),
                        limit: self.limit,
                    });
                }
            }
        }
    }
}

/// In place of a file's name: any file of the directory.
pub(crate) const ANY: &str = "*";

/// An inotify instance.
#[derive(Debug)]
pub(crate) struct Watcher {
    fd: AsyncFd<OwnedFd>,
    /// Names on the way to the watched files. Others in the same directories are not worth asking about: `/run` and `/etc` are
    /// busy while a guest boots.
    names: BTreeSet<OsString>,
}

impl Watcher {
    /// Makes one that watches nothing yet.
    pub(crate) fn new() -> io::Result<Self> {
        let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        Ok(Self {
            fd: when_readable(fd)?,
            names: BTreeSet::new(),
        })
    }

    /// Watches the directory of each path, or the nearest one above it that exists.
    pub(crate) fn cover(&mut self, paths: &[PathBuf]) -> io::Result<()> {
        for path in paths {
            self.names.extend(path.iter().map(OsStr::to_owned));
            // What appears between the look and the watch would be missed, so look again.
            loop {
                let directory = nearest_directory(path);
                match inotify::add_watch(self.fd.get_ref(), directory, CHANGES) {
                    Ok(_) | Err(Errno::NOENT | Errno::NOTDIR) => {}
                    Err(why) => return Err(why.into()),
                }
                if nearest_directory(path) == directory {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Watches what is written to one file.
    pub(crate) fn cover_writes(&self, file: &Path) -> io::Result<()> {
        inotify::add_watch(self.fd.get_ref(), file, WatchFlags::MODIFY)?;
        Ok(())
    }

    /// Waits for a change of what is watched.
    pub(crate) async fn changed(&self) -> io::Result<()> {
        loop {
            let mut ready = self.fd.readable().await?;
            match ready.try_io(|_| self.read_events()) {
                Ok(Ok(false)) | Err(_) => {}
                Ok(changed) => return changed.map(drop),
            }
        }
    }

    /// Takes what the kernel has, and tells whether any of it concerns the watched files.
    fn read_events(&self) -> io::Result<bool> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(self.fd.get_ref(), &mut buffer);
        let mut concerns = false;
        loop {
            let event = events.next()?;
            // Without a name it is a file watched itself, or the kernel could not keep all events.
            concerns |= event.file_name().is_none_or(|name| self.is_watched(name));
            if events.is_buffer_empty() {
                return Ok(concerns);
            }
        }
    }

    fn is_watched(&self, name: &CStr) -> bool {
        let name = OsStr::from_bytes(name.to_bytes());
        self.names.contains(name) || self.names.contains(OsStr::new(ANY))
    }
}

/// The directory that holds `path`, or the nearest one above it that exists.
fn nearest_directory(path: &Path) -> &Path {
    path.ancestors()
        .skip(1)
        .find(|above| above.is_dir())
        .unwrap_or(Path::new("/"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const HANG: Duration = Duration::from_secs(30);

    fn wait(paths: &[PathBuf], limit: Duration) -> Wait<'_> {
        Wait {
            what: "the file",
            paths,
            limit,
            tick: None,
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn sees_a_file_whose_directories_appear_one_by_one() {
        let dir = tempfile::tempdir().unwrap();
        let paths = [dir.path().join("a/b/c")];
        let seen = wait(&paths, HANG).until(|| fs::read_to_string(&paths[0]).ok());
        let made = async {
            fs::create_dir(dir.path().join("a")).unwrap();
            tokio::task::yield_now().await;
            fs::create_dir(dir.path().join("a/b")).unwrap();
            tokio::task::yield_now().await;
            fs::write(&paths[0], "here").unwrap();
        };
        let (seen, ()) = tokio::join!(seen, made);
        assert_eq!(seen.unwrap(), "here");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn other_files_wake_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let mut watcher = Watcher::new().unwrap();
        watcher.cover(&[dir.path().join("mine")]).unwrap();
        fs::write(dir.path().join("other"), "").unwrap();
        assert!(!watcher.read_events().unwrap());
        fs::write(dir.path().join("mine"), "").unwrap();
        assert!(watcher.read_events().unwrap());
        watcher.cover(&[dir.path().join(ANY)]).unwrap();
        fs::write(dir.path().join("other"), "").unwrap();
        assert!(watcher.read_events().unwrap());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn sees_a_file_go() {
        let dir = tempfile::tempdir().unwrap();
        let paths = [dir.path().join("nologin")];
        fs::write(&paths[0], "").unwrap();
        let gone = wait(&paths, HANG).until(|| (!paths[0].exists()).then_some(()));
        let removed = async { fs::remove_file(&paths[0]).unwrap() };
        let (gone, ()) = tokio::join!(gone, removed);
        gone.unwrap();
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn says_what_it_waited_for_and_how_long() {
        let dir = tempfile::tempdir().unwrap();
        let paths = [dir.path().join("never")];
        let error = wait(&paths, Duration::from_secs(7))
            .until(|| None::<()>)
            .await
            .unwrap_err();
        assert_eq!(error.to_string(), "waited 7 s for the file");
    }

    #[tokio::test(flavor = "current_thread", start_paused = true)]
    async fn a_tick_asks_again_without_any_event() {
        let mut asked = 0;
        let asking = Wait {
            tick: Some(Duration::from_millis(100)),
            ..wait(&[], HANG)
        };
        asking
            .until(|| {
                asked += 1;
                (asked == 5).then_some(())
            })
            .await
            .unwrap();
    }
}
