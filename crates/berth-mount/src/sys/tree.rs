//! Linux: changes anywhere beneath a directory, by inotify, on a thread of its own that may wait for the disk.
//!
//! Each directory is watched by itself. It is found name by name, without following links, and watched as what was found: nothing
//! outside the shared directory is watched or looked at, whatever a guest does to names meanwhile. When the kernel could not keep
//! all events, everything is looked at for what has changed since.

use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, Stat, openat, statat};
use rustix::io::Errno;
use tokio::sync::watch;

use crate::events::pending::{Kind, Pending};
use crate::events::{Facts, Sight};

/// What of a directory is told.
const CHANGES: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR)
    .union(WatchFlags::EXCL_UNLINK);
/// What of the directory above tells that the shared one is another.
const COMES: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::ONLYDIR);

const DIRECTORY: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// Bytes that are read at a time: some thousand events.
const BUFFER: usize = 128 * 1024;
/// How often is read before what was missed is looked for.
const MOST_READS: usize = 64;
/// Bytes of the thread's stack.
const STACK: usize = 256 * 1024;
/// Directories of a share that are watched or waiting for it. A guest may make as many as it likes: they cost memory here, and
/// watches that the host's user has only so many of.
const MOST_DIRECTORIES: usize = 64 * 1024;
/// How far a file's times may be behind the clock.
const COARSE: Duration = Duration::from_secs(2);

/// The thread. Dropping this ends it.
#[derive(Debug)]
pub(crate) struct TreeWatch {
    pending: Arc<Pending>,
    wake: Arc<OwnedFd>,
}

impl TreeWatch {
    /// Starts watching a directory, and puts what changes into `pending`.
    pub(crate) fn start(
        directory: &Path,
        pending: &Arc<Pending>,
        sight: watch::Sender<Sight>,
    ) -> io::Result<Self> {
        Self::start_with(directory, pending, sight, MOST_DIRECTORIES)
    }

    fn start_with(
        directory: &Path,
        pending: &Arc<Pending>,
        sight: watch::Sender<Sight>,
        most: usize,
    ) -> io::Result<Self> {
        let wake = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let watcher = Watcher {
            directory: directory.to_path_buf(),
            pending: Arc::clone(pending),
            wake: Arc::clone(&wake),
            sight,
            tree: Tree::new()?,
            quiet_since: SystemTime::now(),
            most,
        };
        thread::Builder::new()
            .name("file events".to_owned())
            .stack_size(STACK)
            .spawn(move || watcher.run())?;
        Ok(Self {
            pending: Arc::clone(pending),
            wake,
        })
    }
}

impl Drop for TreeWatch {
    fn drop(&mut self) {
        self.pending.close();
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }
}

/// What is told of a directory's entries that are found.
#[derive(Debug, Clone, Copy)]
enum Tell {
    Nothing,
    All,
    Since(SystemTime),
}

/// Of which watch, what, and to which entry.
type Told = (i32, ReadFlags, Option<Vec<u8>>);

struct Watcher {
    directory: PathBuf,
    pending: Arc<Pending>,
    wake: Arc<OwnedFd>,
    sight: watch::Sender<Sight>,
    tree: Tree,
    /// Nothing before this moment went unnoticed.
    quiet_since: SystemTime,
    /// [`MOST_DIRECTORIES`] but for tests.
    most: usize,
}

impl Watcher {
    fn run(mut self) {
        self.rebuild(Tell::Nothing);
        self.follow();
    }

    fn follow(mut self) {
        while !self.pending.is_closed() {
            let mut polled = [
                PollFd::new(&self.tree.inotify, PollFlags::IN),
                PollFd::new(&*self.wake, PollFlags::IN),
            ];
            match poll(&mut polled, None) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(why) => return self.blind(&io::Error::from(why)),
            }
            let before = SystemTime::now();
            let is_quiet = match self.drain(before) {
                Ok(is_quiet) => is_quiet,
                Err(why) => return self.blind(&why),
            };
            if let Some(since) = self.pending.missed_since() {
                let directory = self.directory.display();
                tracing::debug!(%directory, "too much changed at once: looking for it");
                self.rebuild(Tell::Since(since));
            }
            if is_quiet {
                self.quiet_since = before;
            }
        }
    }

    /// Takes what the kernel has; false: there may be more.
    fn drain(&mut self, now: SystemTime) -> io::Result<bool> {
        let mut buffer = vec![MaybeUninit::uninit(); BUFFER];
        for _ in 0..MOST_READS {
            let events = match self.read(&mut buffer) {
                Ok(events) => events,
                Err(Errno::AGAIN) => return Ok(true),
                Err(Errno::INTR) => continue,
                Err(why) => return Err(why.into()),
            };
            for (wd, what, name) in events {
                if self.heed(wd, what, name.as_deref(), now) {
                    // What follows is about watches that are no more.
                    break;
                }
            }
        }
        Ok(false)
    }

    fn read(&self, buffer: &mut [MaybeUninit<u8>]) -> rustix::io::Result<Vec<Told>> {
        let mut reader = inotify::Reader::new(&self.tree.inotify, buffer);
        let mut events = Vec::new();
        loop {
            let event = reader.next()?;
            let name = event.file_name().map(|name| name.to_bytes().to_vec());
            events.push((event.wd(), event.events(), name));
            if reader.is_buffer_empty() {
                return Ok(events);
            }
        }
    }

    /// Notes what an event tells; returns whether everything was looked at anew.
    fn heed(&mut self, wd: i32, what: ReadFlags, name: Option<&[u8]>, now: SystemTime) -> bool {
        if what.contains(ReadFlags::QUEUE_OVERFLOW) {
            self.pending.miss(self.quiet_since);
            return false;
        }
        let own = self.directory.file_name().map(OsStrExt::as_bytes);
        let is_another = wd == self.tree.above && name == own
            || wd == self.tree.top && what.contains(ReadFlags::MOVE_SELF);
        if is_another {
            self.rebuild(Tell::Since(self.quiet_since));
            return true;
        }
        if what.contains(ReadFlags::IGNORED) {
            self.tree.forget(wd);
            return false;
        }
        let Some(directory) = self.tree.path(wd) else {
            return false;
        };
        let Some(name) = name else {
            if what.contains(ReadFlags::ATTRIB) {
                self.pending.add(directory, Kind::Attributes, now);
            }
            return false;
        };
        let path = joined(&directory, name);
        let is_directory = what.contains(ReadFlags::ISDIR);
        if what.intersects(ReadFlags::DELETE | ReadFlags::MOVED_FROM) {
            if is_directory && what.contains(ReadFlags::MOVED_FROM) {
                self.tree.leave(wd, name);
            }
            self.pending.add(directory, Kind::Contents, now);
        } else if what.intersects(ReadFlags::CREATE | ReadFlags::MOVED_TO) {
            self.pending.add(directory, Kind::Contents, now);
            self.pending.add(path.clone(), Kind::Contents, now);
            if is_directory {
                self.look(path, Tell::All);
            }
        } else if what.contains(ReadFlags::MODIFY) {
            self.pending.add(path, Kind::Contents, now);
        } else {
            self.pending.add(path, Kind::Attributes, now);
        }
        false
    }

    /// Watches everything anew.
    fn rebuild(&mut self, tell: Tell) {
        let tree = match Tree::new() {
            Ok(tree) => tree,
            Err(why) => return self.blind(&why),
        };
        self.tree = tree;
        if let Some(above) = self.directory.parent() {
            // Without it, only a directory that is replaced goes unnoticed.
            let watched = inotify::add_watch(&self.tree.inotify, above, COMES);
            self.tree.above = watched.unwrap_or(NONE);
        }
        // Links on the way to it are the host's own.
        let flags = DIRECTORY - OFlags::NOFOLLOW;
        match openat(CWD, &self.directory, flags, Mode::empty()) {
            Ok(top) => self.tree.root = Some(top),
            // It is waited for.
            Err(why) => return self.blind(&why.into()),
        }
        if let Tell::Since(since) = tell
            && let Some(top) = &self.tree.root
            && statat(top, "", AtFlags::EMPTY_PATH).is_ok_and(|found| changed(&found, since))
        {
            self.pending.add(Vec::new(), Kind::Contents, since);
        }
        if self.look(Vec::new(), tell) {
            self.sight.send_replace(Sight::Clear);
        }
    }

    /// Watches a directory and all beneath it, and tells of what is found there. False: not everything could be watched.
    fn look(&mut self, from: Vec<u8>, tell: Tell) -> bool {
        let mut ahead = vec![from];
        while let Some(path) = ahead.pop() {
            if !self.has_room(0) {
                return false;
            }
            // What is gone by now, or may not be read, is passed over.
            let Ok(directory) = self.tree.open(&path) else {
                continue;
            };
            match self.tree.watch(&directory, &path) {
                Ok(true) => {}
                Ok(false) => continue,
                Err(Errno::NOSPC) => {
                    self.partly(
                        "the kernel watches no more directories for this user: raise fs.inotify.max_user_watches (sysctl)",
                    );
                    return false;
                }
                Err(why) => {
                    let path = String::from_utf8_lossy(&path);
                    tracing::debug!(%path, %why, "a directory is not watched");
                    continue;
                }
            }
            let Ok(entries) = Dir::read_from(&directory) else {
                continue;
            };
            for entry in entries.flatten() {
                let name = entry.file_name().to_bytes();
                if name == b"." || name == b".." {
                    continue;
                }
                let child = joined(&path, name);
                let found = Found::of(&directory, name, entry.file_type(), tell);
                if found.is_news
                    && !self
                        .pending
                        .add_in_time(child.clone(), Kind::Contents, SystemTime::now())
                {
                    return true;
                }
                if !found.is_directory {
                    continue;
                }
                if !self.has_room(ahead.len()) {
                    return false;
                }
                ahead.push(child);
            }
        }
        true
    }

    /// Whether one more directory is watched besides those that wait for it.
    fn has_room(&self, waiting: usize) -> bool {
        let has_room = self.tree.nodes.len() + waiting < self.most;
        if !has_room {
            self.partly(&format!(
                "it has more than {} directories: share those that matter one by one",
                self.most
            ));
        }
        has_room
    }

    fn partly(&self, why: &str) {
        self.sight.send_replace(Sight::Partly(why.to_owned()));
    }

    fn blind(&self, why: &io::Error) {
        self.partly(&why.to_string());
    }
}

/// An entry of a directory.
struct Found {
    is_directory: bool,
    is_news: bool,
}

impl Found {
    fn of(directory: impl AsFd, name: &[u8], kind: FileType, tell: Tell) -> Self {
        let needs_stat = kind == FileType::Unknown || matches!(tell, Tell::Since(_));
        let stat = needs_stat
            .then(|| statat(directory, name, AtFlags::SYMLINK_NOFOLLOW).ok())
            .flatten();
        let kind = stat.map_or(kind, |stat| FileType::from_raw_mode(stat.st_mode));
        Self {
            is_directory: kind == FileType::Directory,
            is_news: match tell {
                Tell::Nothing => false,
                Tell::All => true,
                Tell::Since(since) => stat.is_some_and(|stat| changed(&stat, since)),
            },
        }
    }
}

/// Whether something was changed since then, as far as its times tell. Nobody can set the time of the last change back.
fn changed(found: &Stat, since: SystemTime) -> bool {
    time(found.st_ctime, found.st_ctime_nsec) + COARSE >= since
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "nanoseconds are less than a billion, and earlier than 1970 is as good as then"
)]
fn time(seconds: i64, nanoseconds: impl TryInto<u32>) -> SystemTime {
    let nanoseconds = nanoseconds.try_into().unwrap_or(0);
    UNIX_EPOCH + Duration::new(u64::try_from(seconds).unwrap_or(0), nanoseconds)
}

fn joined(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() {
        return name.to_vec();
    }
    [directory, b"/", name].concat()
}

/// No watch has this number.
const NONE: i32 = -1;

/// The watched directories.
#[derive(Debug)]
struct Tree {
    inotify: OwnedFd,
    root: Option<OwnedFd>,
    nodes: HashMap<i32, Node>,
    /// The shared directory.
    top: i32,
    /// The one that it lies in.
    above: i32,
}

#[derive(Debug)]
struct Node {
    parent: i32,
    name: Box<[u8]>,
    children: HashMap<Box<[u8]>, i32>,
}

impl Tree {
    fn new() -> io::Result<Self> {
        Ok(Self {
            inotify: inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?,
            root: None,
            nodes: HashMap::new(),
            top: NONE,
            above: NONE,
        })
    }

    fn open(&self, path: &[u8]) -> rustix::io::Result<OwnedFd> {
        open_beneath(self.root.as_ref().ok_or(Errno::NOENT)?, path)
    }

    /// Watches a directory that was found at a path; false if it is watched by another path.
    fn watch(&mut self, directory: &OwnedFd, path: &[u8]) -> rustix::io::Result<bool> {
        // The kernel's own name of it, which leads to it and to nothing else.
        let name = format!("/proc/self/fd/{}", directory.as_raw_fd());
        let wd = inotify::add_watch(&self.inotify, name.as_str(), CHANGES)?;
        if self.nodes.contains_key(&wd) {
            return Ok(self.path(wd).as_deref() == Some(path));
        }
        let (above, name) = split(path);
        let parent = if path.is_empty() {
            self.top = wd;
            NONE
        } else {
            let parent = self.find(above).unwrap_or(NONE);
            let Some(node) = self.nodes.get_mut(&parent) else {
                // It went while this one was looked for.
                inotify::remove_watch(&self.inotify, wd)?;
                return Ok(false);
            };
            node.children.insert(name.into(), wd);
            parent
        };
        let node = Node {
            parent,
            name: name.into(),
            children: HashMap::new(),
        };
        self.nodes.insert(wd, node);
        Ok(true)
    }

    fn find(&self, path: &[u8]) -> Option<i32> {
        let mut names = names(path);
        names.try_fold(self.top, |wd, name| {
            self.nodes.get(&wd)?.children.get(name).copied()
        })
    }

    /// The path of a watched directory.
    fn path(&self, wd: i32) -> Option<Vec<u8>> {
        let mut names = Vec::new();
        let mut node = self.nodes.get(&wd)?;
        while node.parent != NONE {
            names.push(&*node.name);
            node = self.nodes.get(&node.parent)?;
        }
        names.reverse();
        Some(names.join(&b'/'))
    }

    /// Ends the watches of a directory that went elsewhere, and of all beneath it.
    fn leave(&mut self, parent: i32, name: &[u8]) {
        let parent = self.nodes.get_mut(&parent);
        let mut gone: Vec<i32> = parent
            .and_then(|parent| parent.children.remove(name))
            .into_iter()
            .collect();
        while let Some(wd) = gone.pop() {
            let _ = inotify::remove_watch(&self.inotify, wd);
            if let Some(node) = self.nodes.remove(&wd) {
                gone.extend(node.children.values());
            }
        }
    }

    /// A watch has ended by itself.
    fn forget(&mut self, wd: i32) {
        let Some(node) = self.nodes.remove(&wd) else {
            return;
        };
        if let Some(parent) = self.nodes.get_mut(&node.parent)
            && parent.children.get(&node.name) == Some(&wd)
        {
            parent.children.remove(&node.name);
        }
    }
}

/// Opens a directory beneath another, name by name, without following links.
fn open_beneath(top: &OwnedFd, path: &[u8]) -> rustix::io::Result<OwnedFd> {
    let top = openat(top, ".", DIRECTORY, Mode::empty())?;
    names(path).try_fold(top, |directory, name| {
        openat(directory, name, DIRECTORY, Mode::empty())
    })
}

fn names(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty())
}

/// A path's directory and last name.
fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

/// What is known of files beneath a directory; nothing of those that are gone.
pub(crate) fn facts(directory: &Path, paths: &[Vec<u8>]) -> io::Result<Vec<Option<Facts>>> {
    let flags = DIRECTORY - OFlags::NOFOLLOW;
    let top = openat(CWD, directory, flags, Mode::empty())?;
    let look = |path: &Vec<u8>| {
        let (above, name) = split(path);
        let above = open_beneath(&top, above).ok()?;
        let found = if name.is_empty() {
            statat(&above, "", AtFlags::EMPTY_PATH).ok()?
        } else {
            statat(&above, name, AtFlags::SYMLINK_NOFOLLOW).ok()?
        };
        Some(Facts {
            modified: time(found.st_mtime, found.st_mtime_nsec),
            size: u64::try_from(found.st_size).unwrap_or(0),
            mode: found.st_mode,
            owner: (found.st_uid, found.st_gid),
        })
    };
    Ok(paths.iter().map(look).collect())
}

#[cfg(test)]
mod tests;
