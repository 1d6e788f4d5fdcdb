//! Sockets told by the kernel's tracepoints, where it takes no programs.
//!
//! TCP by a socket's state: that it will listen (a moment later), that it does no more. Bound UDP sockets tell nothing but the
//! system call; closed ones are told by `sock_diag(7)`.

use std::collections::BTreeSet;
use std::ffi::CStr;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::fs::{Mode, OFlags, openat};
use rustix::time::Timespec;
use tokio::io::unix::AsyncFd;

use super::detached::root_of;
use crate::netlink::Destroyed;
use crate::sys::perf::{Point, Processor};
use crate::sys::when_readable;

/// Where tracepoints are described, if they are not mounted elsewhere.
const DIRECTORIES: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// Processors that are switched on.
const ONLINE: &str = "/sys/devices/system/cpu/online";

/// Most processors: no machine has more.
const MAX_PROCESSORS: usize = 1024;

/// A tracepoint, and which of its events matter.
struct Tracepoint {
    /// Its directory.
    path: &'static str,
    /// See the kernel's `Documentation/trace/events.rst`.
    filter: &'static CStr,
}

/// 10 is `TCP_LISTEN`. What begins to listen is told by the system call again, after it does; but not the 32-bit call.
const TRACEPOINTS: [Tracepoint; 3] = [
    Tracepoint {
        path: "events/sock/inet_sock_set_state",
        filter: c"oldstate == 10 || newstate == 10",
    },
    Tracepoint {
        path: "events/syscalls/sys_exit_listen",
        filter: c"ret == 0",
    },
    Tracepoint {
        path: "events/syscalls/sys_exit_bind",
        filter: c"ret == 0",
    },
];

/// Why tracepoints tell nothing.
#[derive(Debug, thiserror::Error)]
#[error("could not {verb} {what}")]
pub(super) struct TraceError {
    verb: &'static str,
    what: &'static str,
    #[source]
    source: io::Error,
}

fn failed<T: Into<io::Error>>(
    verb: &'static str,
    what: &'static str,
) -> impl FnOnce(T) -> TraceError {
    move |why| TraceError {
        verb,
        what,
        source: why.into(),
    }
}

/// The tracepoints, on the processors that are switched on at the beginning; silent when dropped.
#[derive(Debug)]
pub(super) struct Tracepoints {
    /// Readable when one of the processors is.
    any: AsyncFd<OwnedFd>,
    processors: Vec<Processor>,
    destroyed: Destroyed,
}

impl Tracepoints {
    /// Begins to watch.
    pub(super) fn open() -> Result<Self, TraceError> {
        let points: Vec<Point> = TRACEPOINTS
            .iter()
            .map(Tracepoint::point)
            .collect::<Result<_, _>>()?;
        let online = fs::read_to_string(ONLINE).map_err(failed("read", ONLINE))?;
        let processors = processors(&online)
            .into_iter()
            .map(|number| Processor::watch(number, &points))
            .collect::<Result<Vec<_>, _>>()
            .map_err(failed("watch", "tracepoints"))?;
        let any = any_of(&processors).map_err(failed("wait for", "tracepoints"))?;
        let destroyed = Destroyed::listen().map_err(failed("hear of", "closed UDP sockets"))?;
        Ok(Self {
            any,
            processors,
            destroyed,
        })
    }

    /// Waits until one is passed, or a UDP socket is gone whose port is `known`.
    pub(super) async fn wait(&mut self, known: &BTreeSet<u16>) -> io::Result<()> {
        tokio::select! {
            passed = self.passed() => passed,
            gone = self.destroyed.next(|port| known.contains(&port)) => gone,
        }
    }

    async fn passed(&self) -> io::Result<()> {
        self.any.readable().await?.clear_ready();
        // Takes notice of all, so that each can become readable again.
        let mut events = Vec::with_capacity(self.processors.len());
        epoll::wait(
            &self.any,
            spare_capacity(&mut events),
            Some(&Timespec::default()),
        )?;
        Ok(())
    }
}

/// A descriptor that becomes readable when one of the processors does.
fn any_of(processors: &[Processor]) -> io::Result<AsyncFd<OwnedFd>> {
    let any = epoll::create(CreateFlags::CLOEXEC)?;
    for processor in processors {
        let flags = EventFlags::IN | EventFlags::ET;
        epoll::add(&any, processor, EventData::new_u64(0), flags)?;
    }
    when_readable(any)
}

impl Tracepoint {
    fn point(&self) -> Result<Point, TraceError> {
        Ok(Point {
            id: self.id().map_err(failed("read the id of", self.path))?,
            filter: self.filter,
        })
    }

    /// What `perf_event_open(2)` calls it.
    fn id(&self) -> io::Result<u64> {
        let file = format!("{}/id", self.path);
        let mut mounts = DIRECTORIES.iter();
        let file = match mounts.find_map(|mount| File::open(format!("{mount}/{file}")).ok()) {
            Some(file) => file,
            None => openat(root_of("tracefs")?, file, OFlags::CLOEXEC, Mode::empty())?.into(),
        };
        let mut text = String::new();
        file.take(64).read_to_string(&mut text)?;
        text.trim().parse().map_err(io::Error::other)
    }
}

/// The numbers in a list like `0-3,6`.
fn processors(list: &str) -> Vec<i32> {
    let ranges = list.trim().split(',').filter_map(|range| {
        let (first, end) = range.split_once('-').unwrap_or((range, range));
        Some(first.parse().ok()?..=end.parse().ok()?)
    });
    ranges.flatten().take(MAX_PROCESSORS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_ranges_and_numbers() {
        assert_eq!(processors("0\n"), [0]);
        assert_eq!(processors("0-2,5,7-8\n"), [0, 1, 2, 5, 7, 8]);
        assert_eq!(processors("x,3-,2-1,4\n"), [4]);
        assert_eq!(processors("0-2000000000").len(), MAX_PROCESSORS);
    }
}
