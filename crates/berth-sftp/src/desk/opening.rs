//! Opening files and directories. Nothing else is ever opened: a FIFO would wait for its other end, a device may do anything.

use std::sync::{Arc, Mutex};

use rustix::fd::OwnedFd;
use rustix::fs::{FileType, OFlags, Stat, fstat};
use rustix::io::{Errno, Result};

use super::Desk;
use super::changes::for_file;
use crate::handles::{Handle, OpenDirectory, OpenFile, Room};
use crate::path::SharePath;
use crate::sys::{Last, Listing, Object, identity, is_local, permissions as mode_of};
use crate::wire::request::OpenMode;

/// How often a file that comes and goes is tried to be opened.
const TRIES: usize = 8;

impl Desk {
    /// Opens or creates a file; returns the name of its handle.
    pub(super) fn open_file(
        &self,
        path: &SharePath,
        mode: OpenMode,
        permissions: Option<u32>,
    ) -> Result<u64> {
        if mode.changes() {
            self.check_writable()?;
        }
        let room = self.handles.reserve().ok_or(Errno::MFILE)?;
        let flags = flags_of(mode);
        if !mode.create {
            let (file, stat) = self.open_existing(path, flags)?;
            return Ok(fill(room, file, &stat, mode.write));
        }
        let permissions = for_file(mode_of(permissions.unwrap_or(0o666)));
        for _ in 0..TRIES {
            match self.tree.create(path, flags, permissions) {
                Err(Errno::EXIST) if !mode.exclusive => {}
                created => {
                    let created = created?;
                    let stat = fstat(&created)?;
                    return Ok(fill(room, created, &stat, mode.write));
                }
            }
            match self.open_existing(path, flags) {
                Err(Errno::NOENT) => {}
                opened => {
                    let (file, stat) = opened?;
                    return Ok(fill(room, file, &stat, mode.write));
                }
            }
        }
        Err(Errno::NOENT)
    }

    fn open_existing(&self, path: &SharePath, flags: OFlags) -> Result<(OwnedFd, Stat)> {
        let object = self.tree.object(path, Last::Target)?;
        let stat = seen_as(&object, FileType::RegularFile)?;
        Ok((object.open(flags, &stat)?, stat))
    }

    /// Opens a file for reading; `None` if that could have to wait.
    pub(super) fn open_cached(&self, path: &SharePath) -> Result<Option<u64>> {
        let Some(object) = self.tree.cached_object(path, Last::Target) else {
            return Ok(None);
        };
        let object = object?;
        let stat = seen_as(&object, FileType::RegularFile)?;
        let room = self.handles.reserve().ok_or(Errno::MFILE)?;
        // Without waiting for somebody who holds a lease on it.
        match object.open(OFlags::RDONLY | OFlags::NONBLOCK, &stat) {
            Err(Errno::AGAIN) => Ok(None),
            opened => {
                let file = OpenFile {
                    descriptor: opened?,
                    id: identity(&stat),
                    writable: false,
                    local: true,
                };
                Ok(Some(room.fill(Handle::File(Arc::new(file)))))
            }
        }
    }

    /// Opens a directory; returns the name of its handle.
    pub(super) fn open_directory(&self, path: &SharePath) -> Result<u64> {
        let room = self.handles.reserve().ok_or(Errno::MFILE)?;
        let object = self.tree.object(path, Last::Target)?;
        let (listing, id) = open_listing(&object)?;
        let local = self.tree.has_cached() && is_local(listing.descriptor());
        Ok(fill_directory(room, listing, id, local))
    }

    /// The same; `None` if that could have to wait.
    pub(super) fn open_directory_cached(&self, path: &SharePath) -> Result<Option<u64>> {
        let Some(object) = self.tree.cached_object(path, Last::Target) else {
            return Ok(None);
        };
        let room = self.handles.reserve().ok_or(Errno::MFILE)?;
        let (listing, id) = open_listing(&object?)?;
        Ok(Some(fill_directory(room, listing, id, true)))
    }
}

fn open_listing(object: &Object) -> Result<(Listing, (u64, u64))> {
    let stat = seen_as(object, FileType::Directory)?;
    let directory = object.open(OFlags::RDONLY | OFlags::DIRECTORY, &stat)?;
    Ok((Listing::new(directory)?, identity(&stat)))
}

fn fill_directory(room: Room<'_>, listing: Listing, id: (u64, u64), local: bool) -> u64 {
    let listing = Mutex::new(listing);
    room.fill(Handle::Directory(Arc::new(OpenDirectory {
        listing,
        id,
        local,
    })))
}

/// Names an open file.
fn fill(room: Room<'_>, descriptor: OwnedFd, stat: &Stat, writable: bool) -> u64 {
    let local = is_local(&descriptor);
    let id = identity(stat);
    room.fill(Handle::File(Arc::new(OpenFile {
        descriptor,
        id,
        writable,
        local,
    })))
}

/// What an object is, which must be of a kind.
pub(super) fn seen_as(object: &Object, wanted: FileType) -> Result<Stat> {
    let stat = object.stat()?;
    match FileType::from_raw_mode(stat.st_mode) {
        kind if kind == wanted => Ok(stat),
        FileType::Symlink => Err(Errno::LOOP),
        FileType::Directory => Err(Errno::ISDIR),
        _ if wanted == FileType::Directory => Err(Errno::NOTDIR),
        _ => Err(Errno::ACCESS),
    }
}

fn flags_of(mode: OpenMode) -> OFlags {
    let mut flags = match (mode.read, mode.write) {
        (true, true) => OFlags::RDWR,
        (false, true) => OFlags::WRONLY,
        _ => OFlags::RDONLY,
    };
    flags.set(OFlags::APPEND, mode.append);
    flags.set(OFlags::TRUNC, mode.truncate);
    flags
}
