//! The shared directory, and finding what is beneath it.

use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustix::fd::{AsFd as _, OwnedFd};
use rustix::fs::{Mode, OFlags, fstat, openat};
use rustix::io::{Errno, Result};

use crate::path::SharePath;
use crate::sys::walk::{Found, Start, open_top, walk};
use crate::sys::{Directory, Effort, Kernel, Last, Links, Object};

/// A shared directory.
#[derive(Debug)]
pub(crate) struct Tree {
    directory: PathBuf,
    links: Links,
    by_kernel: bool,
    top: RwLock<Arc<Top>>,
}

/// The directory as it was last opened.
#[derive(Debug)]
struct Top {
    descriptor: Arc<OwnedFd>,
    /// As the host names it, and without symlinks: absolute links that begin so lead beneath.
    names: Vec<Vec<u8>>,
    kernel: Kernel,
}

impl Top {
    fn open(directory: &Path, by_kernel: bool) -> Result<Self> {
        let descriptor = open_top(directory)?;
        let real = std::fs::canonicalize(directory).ok();
        let names = [Some(directory.to_path_buf()), real];
        let names = names
            .into_iter()
            .flatten()
            .filter(|name| name.is_absolute());
        Ok(Self {
            kernel: if by_kernel {
                Kernel::probe(descriptor.as_fd())
            } else {
                Kernel::none()
            },
            names: names
                .map(|name| name.as_os_str().as_bytes().to_vec())
                .collect(),
            descriptor: Arc::new(descriptor),
        })
    }

    /// Whether somebody has removed it.
    fn is_gone(&self) -> bool {
        fstat(&self.descriptor).is_ok_and(|stat| stat.st_nlink == 0)
    }

    fn start(&self, links: Links) -> Start<'_> {
        Start {
            top: &self.descriptor,
            names: &self.names,
            links,
        }
    }
}

impl Tree {
    /// Opens the directory.
    pub(crate) fn open(directory: PathBuf, links: Links, by_kernel: bool) -> Result<Self> {
        let top = RwLock::new(Arc::new(Top::open(&directory, by_kernel)?));
        Ok(Self {
            directory,
            links,
            by_kernel,
            top,
        })
    }

    fn top(&self) -> Arc<Top> {
        Arc::clone(&self.top.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// What the client's path means when it asks for what a link leads to.
    fn last(&self, last: Last) -> Last {
        match self.links {
            Links::Follow => last,
            Links::Refuse => Last::Itself,
        }
    }

    /// Does something beneath the shared directory; once more beneath the new one if the old one was removed.
    fn beneath<T>(&self, act: impl Fn(&Top) -> Result<T>) -> Result<T> {
        let top = self.top();
        match act(&top) {
            Err(Errno::NOENT) if top.is_gone() => {
                let new = Arc::new(Top::open(&self.directory, self.by_kernel)?);
                *self.top.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&new);
                act(&new)
            }
            done => done,
        }
    }

    /// Finds an object.
    pub(crate) fn object(&self, path: &SharePath, last: Last) -> Result<Object> {
        let last = self.last(last);
        self.beneath(|top| {
            let (beneath, path) = (top.descriptor.as_fd(), path.relative());
            match top
                .kernel
                .object(beneath, path, (self.links, last), Effort::Full)
            {
                Some(found) => found,
                None => Object::at(&walk(top.start(self.links), path, last)?),
            }
        })
    }

    /// Finds an object if that needs no waiting; `None` if it could.
    pub(crate) fn cached_object(&self, path: &SharePath, last: Last) -> Option<Result<Object>> {
        let (top, last) = (self.top(), self.last(last));
        if !top.kernel.has_cached() {
            return None;
        }
        let (beneath, path) = (top.descriptor.as_fd(), path.relative());
        let found = top
            .kernel
            .object(beneath, path, (self.links, last), Effort::Cached)?;
        match found {
            Err(Errno::NOENT) if top.is_gone() => None,
            found => Some(found),
        }
    }

    /// Whether the kernel answers from its caches.
    pub(crate) fn has_cached(&self) -> bool {
        self.top().kernel.has_cached()
    }

    /// Finds the directory in which a path is a name. The shared directory itself is in none.
    pub(crate) fn parent(&self, path: &SharePath) -> Result<Found> {
        let (parent, name) = path.split().ok_or(Errno::BUSY)?;
        let directory = self.beneath(|top| self.directory(top, parent))?;
        Ok(Found {
            directory,
            name: name.to_vec(),
        })
    }

    fn directory(&self, top: &Top, path: &[u8]) -> Result<Directory> {
        if path == b"." {
            if top.is_gone() {
                return Err(Errno::NOENT);
            }
            return Ok(Directory::Top(Arc::clone(&top.descriptor)));
        }
        let beneath = top.descriptor.as_fd();
        if let Some(found) = top.kernel.directory(beneath, path, self.links) {
            return found.map(|found| Directory::Beneath(Arc::new(found)));
        }
        // A name that must be a directory is walked into by one that says so.
        let path = [path, b"/."].concat();
        Ok(walk(top.start(self.links), &path, Last::Target)?.directory)
    }

    /// Creates a file; fails if there is anything of that name.
    pub(crate) fn create(&self, path: &SharePath, flags: OFlags, mode: Mode) -> Result<OwnedFd> {
        let flags = flags
            | OFlags::CREATE
            | OFlags::EXCL
            | OFlags::NOFOLLOW
            | OFlags::NOCTTY
            | OFlags::CLOEXEC;
        let (parent, name) = path.split().ok_or(Errno::EXIST)?;
        self.beneath(|top| {
            let (beneath, path) = (top.descriptor.as_fd(), path.relative());
            if let Some(created) = top.kernel.create(beneath, path, (flags, mode), self.links) {
                return created;
            }
            openat(self.directory(top, parent)?, name, flags, mode)
        })
    }
}
