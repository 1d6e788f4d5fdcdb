//! Linux: the kernel holds paths beneath (`openat2`), and objects are held by `O_PATH` descriptors: what was looked at is what is
//! opened or changed, whatever its name means by then, and looking at a FIFO or a device does nothing to it.

use std::io::IoSliceMut;
use std::os::fd::AsRawFd as _;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{
    AtFlags, CWD, FsWord, Gid, Mode, OFlags, RawDir, ResolveFlags, Stat, StatVfs, Timestamps, Uid,
    chmod, chownat, fstat, fstatfs, fstatvfs, fsync, openat, openat2, readlinkat, statat,
    utimensat,
};
use rustix::io::{Errno, ReadWriteFlags, Result, preadv2};

use super::walk::Found;
use super::{Effort, Last, Links};
use crate::wire::attributes::Attributes;

/// How directories on the way are opened.
pub(crate) const SEARCH: OFlags = OFlags::PATH;

/// What this kernel, on this file system, does by itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kernel {
    beneath: bool,
    cached: bool,
}

impl Kernel {
    /// Tries it at the shared directory.
    pub(crate) fn probe(top: BorrowedFd<'_>) -> Self {
        let beneath = |more: ResolveFlags| {
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS | more;
            let opened = openat2(top, ".", OFlags::PATH, Mode::empty(), resolve);
            matches!(opened, Ok(_) | Err(Errno::AGAIN))
        };
        let (always, cached) = (
            beneath(ResolveFlags::empty()),
            beneath(ResolveFlags::CACHED),
        );
        Self {
            beneath: always,
            cached: always && cached && is_local(top),
        }
    }

    /// Does nothing by itself.
    pub(crate) fn none() -> Self {
        Self {
            beneath: false,
            cached: false,
        }
    }

    /// Whether what is cached can be had without waiting.
    pub(crate) fn has_cached(self) -> bool {
        self.cached
    }

    fn resolve(links: Links, effort: Effort) -> ResolveFlags {
        let mut resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        resolve.set(ResolveFlags::NO_SYMLINKS, links == Links::Refuse);
        // What is mounted beneath may be a file system that asks a server for everything.
        let cached = ResolveFlags::CACHED | ResolveFlags::NO_XDEV;
        resolve.set(cached, effort == Effort::Cached);
        resolve
    }

    /// Finds an object. `None` if that needs a walk.
    pub(crate) fn object(
        self,
        top: BorrowedFd<'_>,
        path: &[u8],
        (links, last): (Links, Last),
        effort: Effort,
    ) -> Option<Result<Object>> {
        let mut flags = OFlags::PATH | OFlags::CLOEXEC;
        flags.set(OFlags::NOFOLLOW, last == Last::Itself);
        self.open(top, path, (flags, Mode::empty()), links, effort)
            .map(|found| found.map(Object))
    }

    /// Finds a directory. `None` if that needs a walk.
    pub(crate) fn directory(
        self,
        top: BorrowedFd<'_>,
        path: &[u8],
        links: Links,
    ) -> Option<Result<OwnedFd>> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        self.open(top, path, (flags, Mode::empty()), links, Effort::Full)
    }

    /// Creates a file that does not exist. `None` if that needs a walk.
    pub(crate) fn create(
        self,
        top: BorrowedFd<'_>,
        path: &[u8],
        how: (OFlags, Mode),
        links: Links,
    ) -> Option<Result<OwnedFd>> {
        self.open(top, path, how, links, Effort::Full)
    }

    fn open(
        self,
        top: BorrowedFd<'_>,
        path: &[u8],
        (flags, mode): (OFlags, Mode),
        links: Links,
        effort: Effort,
    ) -> Option<Result<OwnedFd>> {
        if !self.beneath {
            return None;
        }
        match openat2(top, path, flags, mode, Self::resolve(links, effort)) {
            // An absolute link, which may lead beneath all the same; names that move while they are looked at.
            Err(Errno::XDEV | Errno::AGAIN) => None,
            opened => Some(opened),
        }
    }
}

/// Whether a file system answers from memory when it has the answer there. Others may ask a server each time.
pub(crate) fn is_local(top: impl AsFd) -> bool {
    const EXT: FsWord = 0xef53;
    const XFS: FsWord = 0x5846_5342;
    const BTRFS: FsWord = 0x9123_683e;
    const TMPFS: FsWord = 0x0102_1994;
    const OVERLAYFS: FsWord = 0x794c_7630;
    const F2FS: FsWord = 0xf2f5_2010;
    const BCACHEFS: FsWord = 0xca45_1a4e;
    const LOCAL: [FsWord; 7] = [EXT, XFS, BTRFS, TMPFS, OVERLAYFS, F2FS, BCACHEFS];
    fstatfs(top).is_ok_and(|status| LOCAL.contains(&status.f_type))
}

/// What a path named when it was looked at.
#[derive(Debug)]
pub(crate) struct Object(OwnedFd);

impl Object {
    /// What a walk has found.
    pub(crate) fn at(found: &Found) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(
            &found.directory,
            found.name.as_slice(),
            flags,
            Mode::empty(),
        )
        .map(Self)
    }

    pub(crate) fn stat(&self) -> Result<Stat> {
        fstat(&self.0)
    }

    pub(crate) fn space(&self) -> Result<StatVfs> {
        fstatvfs(&self.0)
    }

    pub(crate) fn read_link(&self) -> Result<Vec<u8>> {
        // Of what is no symlink, the kernel says that its name, which is empty, does not exist.
        let target = readlinkat(&self.0, "", Vec::new());
        target
            .map(std::ffi::CString::into_bytes)
            .map_err(|error| match error {
                Errno::NOENT => Errno::INVAL,
                other => other,
            })
    }

    /// Opens it, which must have been seen to be a regular file or a directory.
    pub(crate) fn open(&self, flags: OFlags, _seen: &Stat) -> Result<OwnedFd> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOCTTY;
        openat(CWD, self.name().as_str(), flags, Mode::empty())
    }

    pub(crate) fn set_mode(&self, mode: Mode) -> Result<()> {
        chmod(self.name().as_str(), mode)
    }

    pub(crate) fn set_owner(&self, user: Option<Uid>, group: Option<Gid>) -> Result<()> {
        chownat(&self.0, "", user, group, AtFlags::EMPTY_PATH)
    }

    pub(crate) fn set_times(&self, times: &Timestamps) -> Result<()> {
        match utimensat(&self.0, "", times, AtFlags::EMPTY_PATH) {
            // Before Linux 5.8. Then a symlink's own times cannot be set.
            Err(Errno::INVAL) => utimensat(CWD, self.name().as_str(), times, AtFlags::empty()),
            done => done,
        }
    }

    /// The kernel's own name of it, which leads to it and to nothing else.
    fn name(&self) -> String {
        format!("/proc/self/fd/{}", self.0.as_raw_fd())
    }
}

/// Asks for errors that a file system of another machine tells only when a file is closed, which nobody hears of who just drops it.
pub(crate) fn flush_before_close(file: impl AsFd) -> Result<()> {
    if is_local(&file) {
        return Ok(());
    }
    match fsync(file) {
        // It has no such thing.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::ROFS) => Ok(()),
        flushed => flushed,
    }
}

/// Reads what is cached; `None` if the disk would have to be waited for.
pub(crate) fn read_cached(file: impl AsFd, buffer: &mut [u8], offset: u64) -> Option<usize> {
    let mut buffers = [IoSliceMut::new(buffer)];
    preadv2(file, &mut buffers, offset, ReadWriteFlags::NOWAIT).ok()
}

/// The entries of an open directory; its place in it is the kernel's.
#[derive(Debug)]
pub(crate) struct Listing(OwnedFd);

/// Room for entries as the kernel writes them, in bytes. An entry in a reply is at most twice as long as the kernel's, so a reply
/// stays below the 128 KiB that `sshfs` accepts.
const ENTRIES: usize = 48 * 1024;

impl Listing {
    #[allow(clippy::unnecessary_wraps, reason = "elsewhere it may fail")]
    pub(crate) fn new(directory: OwnedFd) -> Result<Self> {
        Ok(Self(directory))
    }

    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Hands on the next entries, or none if they are gone meanwhile. False at the end.
    pub(crate) fn next(&mut self, mut each: impl FnMut(&[u8], Attributes)) -> Result<bool> {
        let mut room: Vec<u8> = Vec::with_capacity(ENTRIES);
        let itself = attributes(&fstat(&self.0)?);
        let mut entries = RawDir::new(&self.0, room.spare_capacity_mut());
        loop {
            let Some(entry) = entries.next() else {
                return Ok(false);
            };
            let entry = entry?;
            let name = entry.file_name();
            match name.to_bytes() {
                // What is above the share is nobody's business, so `..` looks like the directory.
                b"." | b".." => each(name.to_bytes(), itself),
                // Removed meanwhile, or not to be looked at: it has no attributes.
                bytes => {
                    if let Ok(stat) = statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW) {
                        each(bytes, attributes(&stat));
                    }
                }
            }
            if entries.is_buffer_empty() {
                return Ok(true);
            }
        }
    }
}

/// Permissions of a client, who may name any bits. A program of the host's user for others to run (set-user-ID) is not for a guest
/// to make.
pub(crate) fn permissions(bits: u32) -> Mode {
    Mode::from_raw_mode(bits & 0o3777)
}

/// As they travel. What does not fit is at its end: times before 1970, and after 2106.
pub(crate) fn attributes(stat: &Stat) -> Attributes {
    let seconds = |time: i64| u32::try_from(time.max(0)).unwrap_or(u32::MAX);
    Attributes {
        size: u64::try_from(stat.st_size).unwrap_or(0),
        uid: stat.st_uid,
        gid: stat.st_gid,
        mode: stat.st_mode,
        accessed: seconds(stat.st_atime),
        modified: seconds(stat.st_mtime),
    }
}

/// What is the same for the same file under all its names.
pub(crate) fn identity(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}
