//! A path taken name by name: each directory is opened in the one before it without following, so no name that changes meanwhile
//! can lead out. Symlinks are read and their names walked like any others.

use std::collections::VecDeque;
use std::sync::Arc;

use rustix::fd::OwnedFd;
use rustix::fs::{CWD, Mode, OFlags, openat, readlinkat};
use rustix::io::{Errno, Result};

use super::{Directory, Last, Links, SEARCH};

/// Most symlinks on one way, as in the kernel.
const MAX_LINKS: usize = 40;

/// Most directories on one way, where each is held open until the end. The client chooses how deep it goes.
const MAX_DEPTH: usize = 256;

/// Where a walk begins, and what it may do.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Start<'share> {
    pub(crate) top: &'share Arc<OwnedFd>,
    /// Names of the shared directory on the host: absolute links that begin with one lead beneath.
    pub(crate) names: &'share [Vec<u8>],
    pub(crate) links: Links,
}

/// Where a walk ended: a name that is no symlink, or is one that is not to be followed; it need not exist. The name is `.` when
/// the directory itself was meant.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) directory: Directory,
    pub(crate) name: Vec<u8>,
}

/// Walks `path`, which is relative.
pub(crate) fn walk(start: Start<'_>, path: &[u8], last: Last) -> Result<Found> {
    let mut walk = Walk {
        start,
        way: Vec::new(),
        ahead: VecDeque::new(),
        links: 0,
    };
    walk.push(path);
    while let Some(name) = walk.ahead.pop_front() {
        let is_last = walk.ahead.is_empty();
        match name.as_slice() {
            b"." => {}
            b".." => drop(walk.way.pop().ok_or(Errno::ACCESS)?),
            _ if is_last && (last == Last::Itself || !walk.follow(&name)?) => {
                let directory = walk.here();
                return Ok(Found { directory, name });
            }
            _ if is_last => {}
            _ => walk.enter(&name)?,
        }
    }
    Ok(Found {
        directory: walk.here(),
        name: b".".to_vec(),
    })
}

struct Walk<'share> {
    start: Start<'share>,
    /// The directories from the top to here: `..` goes back by them, never by what the file system says. Only the last one where no
    /// links are followed, since a client's path has no `..` of its own.
    way: Vec<Arc<OwnedFd>>,
    ahead: VecDeque<Vec<u8>>,
    links: usize,
}

impl Walk<'_> {
    fn here(&self) -> Directory {
        match self.way.last() {
            Some(directory) => Directory::Beneath(Arc::clone(directory)),
            None => Directory::Top(Arc::clone(self.start.top)),
        }
    }

    /// Puts a path before what is still ahead.
    fn push(&mut self, path: &[u8]) {
        let names = path.split(|byte| *byte == b'/');
        for name in names.rev().filter(|name| !name.is_empty()) {
            self.ahead.push_front(name.to_vec());
        }
    }

    /// Goes into a directory, or looks where a symlink leads.
    fn enter(&mut self, name: &[u8]) -> Result<()> {
        let flags = SEARCH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        match openat(self.here(), name, flags, Mode::empty()) {
            Ok(directory) => {
                if self.start.links == Links::Refuse {
                    // Without links, nothing leads back.
                    self.way.clear();
                } else if self.way.len() >= MAX_DEPTH {
                    return Err(Errno::NAMETOOLONG);
                }
                self.way.push(Arc::new(directory));
                Ok(())
            }
            Err(Errno::NOTDIR | Errno::LOOP) if self.follow(name)? => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// If the name is a symlink, puts its target ahead and returns true.
    fn follow(&mut self, name: &[u8]) -> Result<bool> {
        let target = match readlinkat(self.here(), name, Vec::new()) {
            Ok(target) => target.into_bytes(),
            Err(Errno::INVAL | Errno::NOENT) => return Ok(false),
            Err(error) => return Err(error),
        };
        self.links += 1;
        if self.start.links == Links::Refuse || self.links > MAX_LINKS {
            return Err(Errno::LOOP);
        }
        if target.starts_with(b"/") {
            let beneath = self
                .start
                .names
                .iter()
                .find_map(|top| beneath(&target, top));
            let beneath = beneath.ok_or(Errno::ACCESS)?.to_vec();
            self.way.clear();
            self.push(&beneath);
        } else {
            self.push(&target);
        }
        Ok(true)
    }
}

/// What of an absolute path is left beneath a directory.
fn beneath<'path>(path: &'path [u8], top: &[u8]) -> Option<&'path [u8]> {
    let rest = path.strip_prefix(top)?;
    (rest.is_empty() || rest.starts_with(b"/") || top.ends_with(b"/")).then_some(rest)
}

/// Opens the shared directory by its name on the host.
pub(crate) fn open_top(directory: &std::path::Path) -> Result<OwnedFd> {
    let flags = SEARCH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, directory, flags, Mode::empty())
}
