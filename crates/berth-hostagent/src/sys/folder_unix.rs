//! A directory of a Unix that is held open, and what can be done in it: names that change meanwhile lead nowhere else.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::{File, Permissions};
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Component, Path, PathBuf};

use rustix::fd::OwnedFd;
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, Stat, fstat, fstatvfs, fsync, mkdirat, open, openat,
    readlinkat, renameat, statat, unlinkat,
};
use rustix::io::Errno;

use super::{Entry, FolderError};

/// How directories on the way are opened.
#[cfg(target_os = "linux")]
const SEARCH: OFlags = OFlags::PATH;
#[cfg(not(target_os = "linux"))]
const SEARCH: OFlags = OFlags::RDONLY;

/// Most symbolic links on one way, as in the kernel.
const MAX_LINKS: usize = 40;

/// The open directory.
#[derive(Debug)]
pub(crate) struct Folder(OwnedFd);

impl Folder {
    /// Goes to an absolute path, and makes the directories that are missing, for their owner alone, if `make`.
    ///
    /// Symbolic links are followed as usual, but not beneath one of `guests`, the directories that the guest may write to: there
    /// they may lead wherever the guest wants.
    pub(crate) fn open(path: &Path, make: bool, guests: &[PathBuf]) -> Result<Self, FolderError> {
        let mut walk = Walk {
            here: open(
                "/",
                SEARCH | OFlags::DIRECTORY | OFlags::CLOEXEC,
                Mode::empty(),
            )
            .map_err(|why| FolderError::io(Path::new("/"), why))?,
            name: PathBuf::from("/"),
            ahead: VecDeque::new(),
            links: 0,
            guests: guests.iter().filter_map(|path| identity(path)).collect(),
            is_guests: false,
        };
        walk.push(path);
        while let Some(name) = walk.ahead.pop_front() {
            walk.enter(&name, make)?;
        }
        Ok(Self(walk.here))
    }

    /// Creates a file that does not exist yet, for writing.
    pub(crate) fn create(&self, name: &OsStr, mode: u32) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = File::from(openat(&self.0, name, flags, Mode::RUSR | Mode::WUSR)?);
        file.set_permissions(Permissions::from_mode(mode))?;
        Ok(file)
    }

    /// What a name stands for.
    pub(crate) fn look(&self, name: &OsStr) -> io::Result<Entry> {
        let found = match statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(found) => found,
            Err(Errno::NOENT) => return Ok(Entry::Nothing),
            Err(why) => return Err(why.into()),
        };
        Ok(match FileType::from_raw_mode(found.st_mode) {
            FileType::RegularFile => Entry::File {
                mode: permissions(&found),
            },
            _ => Entry::Other,
        })
    }

    /// Gives a file another name; what had it is replaced.
    pub(crate) fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        renameat(&self.0, from, &self.0, to)?;
        // Whoever may not read the directory cannot make its names durable, and has written the file all the same.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        if let Ok(readable) = openat(&self.0, ".", flags, Mode::empty()) {
            fsync(readable)?;
        }
        Ok(())
    }

    /// Removes a name, unless it is a directory's.
    pub(crate) fn remove(&self, name: &OsStr) -> io::Result<()> {
        Ok(unlinkat(&self.0, name, AtFlags::empty())?)
    }

    /// Bytes that the user may still write to the file system.
    pub(crate) fn room(&self) -> io::Result<u64> {
        let space = fstatvfs(&self.0)?;
        Ok(space.f_bavail.saturating_mul(space.f_frsize))
    }
}

#[allow(
    clippy::useless_conversion,
    reason = "modes are narrower on other systems"
)]
fn permissions(found: &Stat) -> u32 {
    u32::from(found.st_mode) & 0o777
}

/// What tells two directories apart, whatever they are called.
type Identity = (u64, u64);

fn identity(path: &Path) -> Option<Identity> {
    let found = std::fs::metadata(path).ok()?;
    Some((found.dev(), found.ino()))
}

struct Walk {
    here: OwnedFd,
    /// For people.
    name: PathBuf,
    ahead: VecDeque<OsString>,
    links: usize,
    guests: Vec<Identity>,
    /// Whether the guest may write here.
    is_guests: bool,
}

impl Walk {
    /// Puts a path before what is still ahead.
    fn push(&mut self, path: &Path) {
        for part in path.components().rev() {
            match part {
                Component::Normal(name) => self.ahead.push_front(name.to_owned()),
                Component::ParentDir => self.ahead.push_front(OsString::from("..")),
                _ => {}
            }
        }
    }

    fn enter(&mut self, name: &OsStr, make: bool) -> Result<(), FolderError> {
        if name == ".." && self.is_guests {
            return Err(FolderError::Link(self.name.join(name)));
        }
        let flags = SEARCH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let open = || openat(&self.here, name, flags, Mode::empty());
        let opened = match open() {
            Err(Errno::NOENT) if make => match mkdirat(&self.here, name, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => open(),
                Err(why) => Err(why),
            },
            opened => opened,
        };
        match opened {
            Ok(directory) => {
                self.here = directory;
                self.name.push(name);
                self.notice_guests()
            }
            Err(Errno::NOTDIR | Errno::LOOP) => self.follow(name),
            Err(why) => Err(FolderError::io(&self.name.join(name), why)),
        }
    }

    fn notice_guests(&mut self) -> Result<(), FolderError> {
        let found = fstat(&self.here).map_err(|why| FolderError::io(&self.name, why))?;
        #[allow(
            clippy::unnecessary_cast,
            clippy::cast_sign_loss,
            reason = "device numbers have another type elsewhere, with the same bits"
        )]
        let here = (found.st_dev as u64, found.st_ino as u64);
        self.is_guests |= self.guests.contains(&here);
        Ok(())
    }

    /// Puts the target of a symbolic link ahead.
    fn follow(&mut self, name: &OsStr) -> Result<(), FolderError> {
        let path = self.name.join(name);
        let target = match readlinkat(&self.here, name, Vec::new()) {
            Ok(target) => PathBuf::from(OsString::from_vec(target.into_bytes())),
            Err(Errno::INVAL) => return Err(FolderError::io(&path, Errno::NOTDIR)),
            Err(why) => return Err(FolderError::io(&path, why)),
        };
        if self.is_guests {
            return Err(FolderError::Link(path));
        }
        self.links += 1;
        if self.links > MAX_LINKS {
            return Err(FolderError::io(&path, Errno::LOOP));
        }
        if target.as_os_str().as_bytes().starts_with(b"/") {
            let flags = SEARCH | OFlags::DIRECTORY | OFlags::CLOEXEC;
            self.here = open("/", flags, Mode::empty())
                .map_err(|why| FolderError::io(Path::new("/"), why))?;
            self.name = PathBuf::from("/");
        }
        self.push(&target);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn what_is_missing_is_made_for_its_owner_alone() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("a/b");
        let missing = Folder::open(&path, false, &[]).unwrap_err();
        assert!(missing.is_missing(), "{missing}");
        Folder::open(&path, true, &[]).unwrap();
        assert_eq!((mode(&root.path().join("a")), mode(&path)), (0o700, 0o700));
    }

    #[test]
    fn links_lead_on_but_not_where_the_guest_could_have_made_them() {
        let root = tempfile::tempdir().unwrap();
        let [share, precious] = ["share", "precious"].map(|name| root.path().join(name));
        for directory in [&share, &precious, &share.join("deep")] {
            fs::create_dir(directory).unwrap();
        }
        symlink("share", root.path().join("mine")).unwrap();
        symlink(&precious, share.join("theirs")).unwrap();
        symlink("../../precious", share.join("deep/theirs")).unwrap();
        symlink("mine/theirs", root.path().join("both")).unwrap();

        // By another name than the one that is shared.
        let guests = [root.path().join("mine/../share")];
        let open = |path: &str| Folder::open(&root.path().join(path), true, &guests);
        let folder = open("mine/new").unwrap();
        folder.create(OsStr::new("x"), 0o600).unwrap();
        assert!(share.join("new/x").exists());
        for path in [
            "share/theirs",
            "mine/theirs/x",
            "share/deep/theirs",
            "both",
            "share/deep/../../precious",
        ] {
            let refused = open(path).unwrap_err();
            assert!(matches!(refused, FolderError::Link(_)), "{path}: {refused}");
        }
        Folder::open(&share.join("theirs/x"), true, &[]).unwrap();
        assert!(precious.join("x").is_dir(), "nobody else writes there");
    }

    #[test]
    fn a_ring_of_links_and_a_file_on_the_way_are_errors() {
        let root = tempfile::tempdir().unwrap();
        symlink("ring", root.path().join("ring")).unwrap();
        fs::write(root.path().join("file"), "").unwrap();
        for (path, why) in [("ring/x", Errno::LOOP), ("file/x", Errno::NOTDIR)] {
            let refused = Folder::open(&root.path().join(path), true, &[]).unwrap_err();
            let FolderError::Io { source, .. } = &refused else {
                panic!("{refused}")
            };
            assert_eq!(Errno::from_io_error(source), Some(why), "{path}");
        }
    }
}
