//! Other unix systems: paths are walked, and an object is a directory and a name in it that is never followed.

use std::sync::Mutex;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    AtFlags, Dir, Gid, Mode, OFlags, Stat, StatVfs, Timestamps, Uid, chmodat, chownat, fstat,
    fstatvfs, openat, readlinkat, statat, utimensat,
};
use rustix::io::{Errno, Result};

use super::walk::Found;
use super::{Directory, Effort, Last, Links};
use crate::wire::attributes::Attributes;
use crate::wire::reply::Names;

/// How directories on the way are opened.
pub(crate) const SEARCH: OFlags = OFlags::RDONLY;

/// Nothing is left to the kernel.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kernel;

#[allow(clippy::unused_self, reason = "as on Linux")]
impl Kernel {
    pub(crate) fn probe(_top: BorrowedFd<'_>) -> Self {
        Self
    }

    pub(crate) fn none() -> Self {
        Self
    }

    pub(crate) fn has_cached(self) -> bool {
        false
    }

    pub(crate) fn object(
        self,
        _top: BorrowedFd<'_>,
        _path: &[u8],
        _how: (Links, Last),
        _effort: Effort,
    ) -> Option<Result<Object>> {
        None
    }

    pub(crate) fn directory(
        self,
        _top: BorrowedFd<'_>,
        _path: &[u8],
        _links: Links,
    ) -> Option<Result<OwnedFd>> {
        None
    }

    pub(crate) fn create(
        self,
        _top: BorrowedFd<'_>,
        _path: &[u8],
        _how: (OFlags, Mode),
        _links: Links,
    ) -> Option<Result<OwnedFd>> {
        None
    }
}

/// What a path names.
#[derive(Debug)]
pub(crate) struct Object {
    directory: Directory,
    name: Vec<u8>,
}

impl Object {
    /// What a walk has found.
    pub(crate) fn at(found: &Found) -> Result<Self> {
        let object = Self {
            directory: found.directory.clone(),
            name: found.name.clone(),
        };
        object.stat().map(|_| object)
    }

    pub(crate) fn stat(&self) -> Result<Stat> {
        statat(
            &self.directory,
            self.name.as_slice(),
            AtFlags::SYMLINK_NOFOLLOW,
        )
    }

    pub(crate) fn space(&self) -> Result<StatVfs> {
        fstatvfs(&self.directory)
    }

    pub(crate) fn read_link(&self) -> Result<Vec<u8>> {
        let target = readlinkat(&self.directory, self.name.as_slice(), Vec::new());
        target.map(std::ffi::CString::into_bytes)
    }

    /// Opens it, which must have been seen to be a regular file or a directory. Should it have become a FIFO since, this does not
    /// wait for its other end.
    pub(crate) fn open(&self, flags: OFlags, seen: &Stat) -> Result<OwnedFd> {
        let safe = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let opened = openat(
            &self.directory,
            self.name.as_slice(),
            flags | safe,
            Mode::empty(),
        )?;
        if identity(&fstat(&opened)?) != identity(seen) {
            return Err(Errno::AGAIN);
        }
        Ok(opened)
    }

    pub(crate) fn set_mode(&self, mode: Mode) -> Result<()> {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        chmodat(&self.directory, self.name.as_slice(), mode, flags)
    }

    pub(crate) fn set_owner(&self, user: Option<Uid>, group: Option<Gid>) -> Result<()> {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        let name = self.name.as_slice();
        chownat(&self.directory, name, user, group, flags)
    }

    pub(crate) fn set_times(&self, times: &Timestamps) -> Result<()> {
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        utimensat(&self.directory, self.name.as_slice(), times, flags)
    }
}

/// Nothing is known of a file system.
pub(crate) fn is_local(_file: impl AsFd) -> bool {
    false
}

/// A file system of another machine is not known as one.
#[allow(clippy::unnecessary_wraps, reason = "on Linux it may fail")]
pub(crate) fn flush_before_close(_file: impl AsFd) -> Result<()> {
    Ok(())
}

/// Nothing is known to be cached.
pub(crate) fn read_cached(_file: impl AsFd, _buffer: &mut [u8], _offset: u64) -> Option<usize> {
    None
}

/// The entries of an open directory.
#[derive(Debug)]
pub(crate) struct Listing {
    directory: OwnedFd,
    /// In a mutex only because the system's reader may not be shared, which nobody does.
    reader: Mutex<Dir>,
}

/// Bytes of entries in one reply; `sshfs` accepts 128 KiB.
const ENTRIES: usize = 96 * 1024;

impl Listing {
    pub(crate) fn new(directory: OwnedFd) -> Result<Self> {
        let reader = Mutex::new(Dir::read_from(&directory)?);
        Ok(Self { directory, reader })
    }

    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }

    /// Hands on the next entries, or none if they are gone meanwhile. False at the end.
    pub(crate) fn next(&mut self, mut each: impl FnMut(&[u8], Attributes)) -> Result<bool> {
        let itself = attributes(&fstat(&self.directory)?);
        let reader = self.reader.get_mut();
        let reader = reader.unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut room = ENTRIES;
        for entry in reader.by_ref() {
            let entry = entry?;
            let name = entry.file_name();
            match name.to_bytes() {
                // What is above the share is nobody's business, so `..` looks like the directory.
                b"." | b".." => each(name.to_bytes(), itself),
                bytes => {
                    if let Ok(stat) = statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                        each(bytes, attributes(&stat));
                    }
                }
            }
            room = room.saturating_sub(Names::cost(name.to_bytes()));
            if room < ENTRIES / 8 {
                return Ok(true);
            }
        }
        Ok(room < ENTRIES)
    }
}

/// Permissions of a client, who may name any bits. A program of the host's user for others to run (set-user-ID) is not for a guest
/// to make.
pub(crate) fn permissions(bits: u32) -> Mode {
    let [.., high, low] = (bits & 0o3777).to_be_bytes();
    Mode::from_raw_mode(u16::from_be_bytes([high, low]))
}

/// As they travel. What does not fit is at its end: times before 1970, and after 2106.
pub(crate) fn attributes(stat: &Stat) -> Attributes {
    let seconds = |time: i64| u32::try_from(time.max(0)).unwrap_or(u32::MAX);
    Attributes {
        size: u64::try_from(stat.st_size).unwrap_or(0),
        uid: stat.st_uid,
        gid: stat.st_gid,
        mode: u32::from(stat.st_mode),
        accessed: seconds(stat.st_atime),
        modified: seconds(stat.st_mtime),
    }
}

/// What is the same for the same file under all its names.
pub(crate) fn identity(stat: &Stat) -> (u64, u64) {
    (u64::from(stat.st_dev.cast_unsigned()), stat.st_ino)
}
