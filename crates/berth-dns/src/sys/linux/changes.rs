//! News of the host's configuration: its files, its addresses and routes, its waking up.
#![allow(
    unsafe_code,
    reason = "tokio's safe registration of descriptors is deprecated"
)]

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, bind, recv, socket_with};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::host::HostFiles;

/// `RTMGRP_IPV4_IFADDR`, `RTMGRP_IPV4_ROUTE`, `RTMGRP_IPV6_IFADDR`, `RTMGRP_IPV6_ROUTE` of `linux/rtnetlink.h`.
const GROUPS: u32 = 0x10 | 0x40 | 0x100 | 0x400;

/// Longest chain of symbolic links that is followed to a file.
const MAX_LINKS: usize = 8;

/// Says when the host's configuration of names, or its network, may have changed.
#[derive(Debug)]
pub(crate) struct HostChanges {
    files: HostFiles,
    inotify: AsyncFd<OwnedFd>,
    /// Names of files, in watched directories, that matter; by the watch's number.
    watched: Vec<(i32, BTreeSet<std::ffi::OsString>)>,
    network: Option<AsyncFd<OwnedFd>>,
    /// A timer that never ends, and is cancelled when the clock is set: that is also done when the host wakes up.
    wake_up: Option<AsyncFd<OwnedFd>>,
}

impl HostChanges {
    /// Begins to watch. What the kernel does not tell is left out, and said in the log.
    pub(crate) fn watch(files: &HostFiles) -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let told = |what, source: io::Result<AsyncFd<OwnedFd>>| {
            source
                .inspect_err(|why| tracing::warn!(%why, "the kernel does not tell of {what}"))
                .ok()
        };
        let mut changes = Self {
            files: files.clone(),
            inotify: register(inotify)?,
            watched: Vec::new(),
            network: told("changes of the network", network()),
            wake_up: told("waking up", wake_up()),
        };
        changes.watch_files();
        Ok(changes)
    }

    /// Waits until something may have changed since the last call.
    pub(crate) async fn next(&mut self) -> io::Result<()> {
        loop {
            tokio::select! {
                readable = self.inotify.readable() => {
                    readable?.clear_ready();
                    if self.read_file_events()? {
                        // Links may lead elsewhere by now, and directories may have come.
                        self.watch_files();
                        return Ok(());
                    }
                }
                readable = readable(self.network.as_ref()) => {
                    readable?;
                    let mut buffer = [0; 4096];
                    if let Some(socket) = &self.network
                        && drained(|| recv(socket, &mut buffer[..], RecvFlags::DONTWAIT).map(drop))?
                    {
                        return Ok(());
                    }
                }
                readable = readable(self.wake_up.as_ref()) => {
                    readable?;
                    if let Some(timer) = &self.wake_up {
                        let mut buffer = [0; 8];
                        let was_set = rustix::io::read(timer, &mut buffer) == Err(Errno::CANCELED);
                        arm(timer.get_ref())?;
                        if was_set {
                            return Ok(());
                        }
                    }
                }
            }
        }
    }

    /// Takes all events; tells whether one was of a file that matters.
    fn read_file_events(&self) -> io::Result<bool> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&self.inotify, &mut buffer);
        let mut matters = false;
        loop {
            match events.next() {
                Ok(event) => {
                    let name = event.file_name().map(std::ffi::CStr::to_string_lossy);
                    let is_watched = |(watch, names): &(i32, BTreeSet<_>)| {
                        let name = name.as_deref().map(std::ffi::OsStr::new);
                        *watch == event.wd() && name.is_none_or(|name| names.contains(name))
                    };
                    matters |= self.watched.iter().any(is_watched);
                    // The queue was full: anything may have changed.
                    matters |= event.wd() < 0;
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(matters),
                Err(why) => return Err(why.into()),
            }
        }
    }

    /// Watches the directories of all files, and of what they are links to: a file that is replaced has a new inode.
    fn watch_files(&mut self) {
        let mut watched: Vec<(i32, BTreeSet<_>)> = Vec::new();
        let flags = WatchFlags::CLOSE_WRITE
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::MOVED_FROM
            | WatchFlags::MOVED_TO
            | WatchFlags::ONLYDIR;
        let HostFiles {
            resolv_conf,
            hosts,
            nsswitch,
            resolved_stub,
            ..
        } = &self.files;
        let files = [resolv_conf, hosts, nsswitch, resolved_stub];
        for (directory, name) in files.into_iter().flat_map(|file| places(file)) {
            // Directories that are not there appear in those above, which are not watched: such a service was not installed.
            let Ok(watch) = inotify::add_watch(&self.inotify, &directory, flags) else {
                continue;
            };
            match watched.iter_mut().find(|(known, _)| *known == watch) {
                Some((_, names)) => {
                    names.insert(name);
                }
                None => watched.push((watch, BTreeSet::from([name]))),
            }
        }
        let is_left = |watch: &i32| !watched.iter().any(|(known, _)| known == watch);
        for watch in self.watched.iter().map(|(watch, _)| *watch).filter(is_left) {
            // Gone already when the directory was deleted.
            let _ = inotify::remove_watch(&self.inotify, watch);
        }
        self.watched = watched;
    }
}

/// The directory and name of a file, and of every file that it is a link to.
fn places(file: &Path) -> Vec<(PathBuf, std::ffi::OsString)> {
    let mut places = Vec::new();
    let mut path = file.to_path_buf();
    for _ in 0..MAX_LINKS {
        let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
            break;
        };
        places.push((directory.to_path_buf(), name.to_owned()));
        match fs::read_link(&path) {
            Ok(target) => path = directory.join(target),
            Err(_) => break,
        }
    }
    places
}

async fn readable(source: Option<&AsyncFd<OwnedFd>>) -> io::Result<()> {
    match source {
        Some(source) => {
            source.readable().await?.clear_ready();
            Ok(())
        }
        None => std::future::pending().await,
    }
}

/// Takes everything that waits; tells whether there was anything.
fn drained(mut take: impl FnMut() -> Result<(), Errno>) -> io::Result<bool> {
    let mut any = false;
    loop {
        match take() {
            // What did not fit into the queue was news as well.
            Ok(()) | Err(Errno::NOBUFS) => any = true,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(any),
            Err(why) => return Err(why.into()),
        }
    }
}

fn network() -> io::Result<AsyncFd<OwnedFd>> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
    register(socket)
}

fn wake_up() -> io::Result<AsyncFd<OwnedFd>> {
    let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
    let timer = timerfd_create(TimerfdClockId::Realtime, flags)?;
    arm(&timer)?;
    register(timer)
}

fn arm(timer: &OwnedFd) -> io::Result<()> {
    let never = Itimerspec {
        it_interval: Timespec::default(),
        it_value: Timespec {
            tv_sec: i64::MAX / 1_000_000_000,
            tv_nsec: 0,
        },
    };
    let flags = TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET;
    timerfd_settime(timer, flags, &never)?;
    Ok(())
}

fn register(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned, so it is open, and it stays the same until the `AsyncFd` is dropped.
    let registered = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
    Ok(registered?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use futures_util::FutureExt as _;

    use super::*;

    /// Changes of a directory's files, and nothing of this machine's network.
    fn changes(root: &Path) -> HostChanges {
        for directory in ["etc", "run/systemd/resolve"] {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        let mut changes = HostChanges::watch(&HostFiles::beneath(root)).unwrap();
        changes.network = None;
        changes
    }

    #[tokio::test(flavor = "current_thread")]
    async fn files_that_matter_are_news_however_they_change() {
        let root = tempfile::tempdir().unwrap();
        let etc = root.path().join("etc");
        let mut changes = changes(root.path());
        fs::write(etc.join("resolv.conf"), "nameserver 10.0.0.1\n").unwrap();
        changes.next().await.unwrap();
        fs::write(etc.join("new"), "").unwrap();
        tokio::task::yield_now().await;
        assert!(changes.next().now_or_never().is_none(), "not ours yet");
        fs::rename(etc.join("new"), etc.join("hosts")).unwrap();
        changes.next().await.unwrap();
        // A link to a file elsewhere: what it leads to is watched, too.
        let stub = root.path().join("run/other");
        fs::create_dir_all(&stub).unwrap();
        fs::remove_file(etc.join("resolv.conf")).unwrap();
        symlink("../run/other/resolv.conf", etc.join("resolv.conf")).unwrap();
        changes.next().await.unwrap();
        fs::write(stub.join("resolv.conf"), "nameserver 10.0.0.2\n").unwrap();
        changes.next().await.unwrap();
        fs::remove_file(etc.join("hosts")).unwrap();
        changes.next().await.unwrap();
    }
}
