//! Linux: waiting for a path to come or go, by inotify.
#![allow(unsafe_code, reason = "the only place of this crate")]

use std::ffi::{OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// What of a directory's entries may make a path come or go.
const CHANGES: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF);

/// Where the kernel gives no events (out of watches, a network file system), the path is looked at this often.
const LOOK: Duration = Duration::from_secs(10);

/// Wakes when a path may have come or gone.
#[derive(Debug)]
pub(crate) struct PathWatch {
    path: PathBuf,
    names: Vec<OsString>,
    inotify: Option<AsyncFd<OwnedFd>>,
}

impl PathWatch {
    pub(crate) fn new(path: &Path) -> Self {
        let mut watch = Self {
            path: path.to_path_buf(),
            names: path.iter().map(OsStr::to_owned).collect(),
            inotify: None,
        };
        watch.arm();
        watch
    }

    /// Waits until it is worth looking again. What happened since the last call is not missed.
    pub(crate) async fn changed(&mut self) {
        if self.events().await.is_err() {
            self.inotify = None;
            tokio::time::sleep(LOOK).await;
        }
        self.arm();
    }

    /// Watches every directory on the way to the path that exists.
    fn arm(&mut self) {
        let armed = || -> io::Result<AsyncFd<OwnedFd>> {
            let fd = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
            for directory in self.path.ancestors().skip(1) {
                // One that is missing is watched for through its parent.
                let _ = inotify::add_watch(&fd, directory, CHANGES);
            }
            // SAFETY: the descriptor is moved into the AsyncFd, which deregisters it before it closes it; an OwnedFd always
            // gives the same descriptor.
            Ok(unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }?)
        };
        if let Ok(armed) = armed() {
            self.inotify = Some(armed);
        }
    }

    async fn events(&self) -> io::Result<()> {
        let inotify = self.inotify.as_ref();
        let inotify = inotify.ok_or(io::ErrorKind::Unsupported)?;
        loop {
            let mut ready = inotify.readable().await?;
            match ready.try_io(|fd| self.read(fd.get_ref())) {
                Ok(Ok(false)) | Err(_) => {}
                Ok(concerns) => return concerns.map(drop),
            }
        }
    }

    /// Takes what the kernel has, and tells whether any of it concerns the path.
    fn read(&self, fd: &OwnedFd) -> io::Result<bool> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(fd, &mut buffer);
        let mut concerns = false;
        loop {
            let event = events.next()?;
            // Without a name, it is a directory on the way itself, or too much happened.
            concerns |= event.file_name().is_none_or(|name| {
                let name = OsStr::from_bytes(name.to_bytes());
                self.names.iter().any(|known| known == name)
            });
            if events.is_buffer_empty() {
                return Ok(concerns);
            }
        }
    }
}
