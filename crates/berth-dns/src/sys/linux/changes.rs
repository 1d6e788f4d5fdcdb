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
    network: Source,
    waking_up: Source,
}

/// Something of the kernel that becomes readable when it has news.
#[derive(Debug)]
struct Source {
    /// `None` where the kernel has no such thing.
    fd: Option<AsyncFd<OwnedFd>>,
    /// Takes what there is; tells whether that was news.
    is_news: fn(&OwnedFd) -> io::Result<bool>,
}

impl HostChanges {
    /// Begins to watch. What the kernel does not tell is left out, and said in the log.
    pub(crate) fn watch(files: &HostFiles) -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let mut changes = Self {
            files: files.clone(),
            inotify: register(inotify)?,
            watched: Vec::new(),
            network: Source::new("changes of the network", network(), is_network_news),
            waking_up: Source::new("waking up", endless_timer(), was_clock_set),
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
                news = self.network.next() => return news,
                news = self.waking_up.next() => return news,
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
            resolved_servers,
            server_port: _,
        } = &self.files;
        let files = [
            resolv_conf,
            hosts,
            nsswitch,
            resolved_stub,
            resolved_servers,
        ];
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

impl Source {
    fn new(what: &str, fd: io::Result<OwnedFd>, is_news: fn(&OwnedFd) -> io::Result<bool>) -> Self {
        let fd = fd.and_then(register);
        let fd = fd.inspect_err(|why| tracing::warn!(%why, "the kernel does not tell of {what}"));
        Self {
            fd: fd.ok(),
            is_news,
        }
    }

    /// Waits for news.
    async fn next(&self) -> io::Result<()> {
        let Some(fd) = &self.fd else {
            return std::future::pending().await;
        };
        loop {
            fd.readable().await?.clear_ready();
            if (self.is_news)(fd.get_ref())? {
                return Ok(());
            }
        }
    }
}

fn network() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
    Ok(socket)
}

fn is_network_news(socket: &OwnedFd) -> io::Result<bool> {
    let mut buffer = [0; 4096];
    drained(|| recv(socket, &mut buffer[..], RecvFlags::DONTWAIT).map(drop))
}

/// Never ends, and is cancelled when the clock is set: the kernel does that, too, when the host wakes up.
fn endless_timer() -> io::Result<OwnedFd> {
    let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
    let timer = timerfd_create(TimerfdClockId::Realtime, flags)?;
    arm(&timer)?;
    Ok(timer)
}

fn was_clock_set(timer: &OwnedFd) -> io::Result<bool> {
    let was_set = rustix::io::read(timer, &mut [0; 8]) == Err(Errno::CANCELED);
    arm(timer)?;
    Ok(was_set)
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
impl HostChanges {
    /// The host seems to wake up whenever a byte comes out of this; nothing of this machine's own waking and network is told.
    pub(crate) fn with_waking_up(files: &HostFiles, bytes: OwnedFd) -> io::Result<Self> {
        let mut changes = Self::watch(files)?;
        changes.network.fd = None;
        changes.waking_up = Source::new("waking up", Ok(bytes), |bytes| {
            Ok(rustix::io::read(bytes, &mut [0; 8]).is_ok())
        });
        Ok(changes)
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;
    use std::os::unix::fs::symlink;

    use futures_util::FutureExt as _;

    use super::*;

    /// Changes of a directory's files, and nothing of this machine's network.
    fn changes(root: &Path) -> HostChanges {
        for directory in ["etc", "run/systemd/resolve"] {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        let mut changes = HostChanges::watch(&HostFiles::beneath(root)).unwrap();
        changes.network.fd = None;
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
        // The servers behind systemd-resolved's stub, which stays as it is.
        fs::write(root.path().join("run/systemd/resolve/resolv.conf"), "").unwrap();
        changes.next().await.unwrap();
    }

    /// Nobody may set this machine's clock for a test: what the kernel says it was asked for must do.
    #[tokio::test(flavor = "current_thread")]
    async fn setting_the_clock_would_cancel_the_timer() {
        let root = tempfile::tempdir().unwrap();
        let changes = changes(root.path());
        let timer = changes.waking_up.fd.as_ref().unwrap();
        let said = || {
            let path = format!("/proc/self/fdinfo/{}", timer.as_raw_fd());
            fs::read_to_string(path).unwrap()
        };
        // `TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET`, of `CLOCK_REALTIME`.
        let cancels = ["clockid: 0\n", "settime flags: 03\n"];
        assert!(
            cancels.iter().all(|line| said().contains(line)),
            "{}",
            said()
        );
        assert!(changes.waking_up.next().now_or_never().is_none());
        assert!(!was_clock_set(timer.get_ref()).unwrap());
        assert!(
            cancels.iter().all(|line| said().contains(line)),
            "armed again"
        );
    }
}
