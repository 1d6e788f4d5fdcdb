//! Sockets told by BPF programs at the root of the guest's control groups: at once, and ordinary connections tell nothing.
//!
//! Two maps are shared with the programs. Sockets whose end matters are known there by their cookies: those that the programs saw
//! asking for their UDP port by number, and those that were there before. That is also how a service's UDP socket is told from a
//! client's. Links hold the programs in place; the kernel closes them with the process.

mod bytecode;

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::unix::AsyncFd;

use self::bytecode::{BEGINS, BY_NUMBER, Maps, OTHERWISE, UNKNOWN_ENDS, programs};
use super::detached::root_of;
use crate::sys::bpf::{self, NumberMap, PortBits, PortMap};
use crate::sys::ring::RingReader;
use crate::sys::when_readable;

/// Room for so many bytes of events: some thousand.
const RING: usize = 64 * 1024;

/// Most sockets whose end is noticed: more than a host wants to know of.
const SOCKETS: u32 = 16 * 1024;

/// What happened since the last time it was asked.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct News {
    /// Anything at all.
    pub(super) any: bool,
    /// Cookies of sockets that are about to go, but may be there for a moment still.
    pub(super) ending: BTreeSet<u64>,
    /// A socket may be about to go that is not named.
    pub(super) unnamed: bool,
}

/// Why the kernel takes no programs.
#[derive(Debug, thiserror::Error)]
#[error("could not {verb} {what}")]
pub(super) struct BpfError {
    verb: &'static str,
    what: &'static str,
    #[source]
    source: io::Error,
}

fn failed(verb: &'static str, what: &'static str) -> impl FnOnce(io::Error) -> BpfError {
    move |source| BpfError { verb, what, source }
}

/// The programs at work; gone when dropped.
#[derive(Debug)]
pub(super) struct ControlGroups {
    ring: RingReader,
    readable: AsyncFd<OwnedFd>,
    sockets: NumberMap,
    ports: PortMap,
    _links: Vec<OwnedFd>,
    news: News,
}

impl ControlGroups {
    /// Puts the programs at the root.
    pub(super) fn everywhere() -> Result<Self, BpfError> {
        let root = root_of("cgroup2").map_err(failed("reach", "the control groups"))?;
        Self::below(root.as_fd())
    }

    /// Puts the programs at a control group.
    pub(super) fn below(cgroup: BorrowedFd<'_>) -> Result<Self, BpfError> {
        let _unlimited = Unlimited::begin();
        let sockets = NumberMap::create(SOCKETS).map_err(failed("make", "the map of sockets"))?;
        let ports = PortMap::create().map_err(failed("make", "the map of ports"))?;
        let ring = bpf::create_ring(RING).map_err(failed("make", "the ring"))?;
        let reader = RingReader::open(&ring, RING).map_err(failed("map", "the ring"))?;
        let maps = Maps {
            ring: ring.as_raw_fd(),
            sockets: sockets.as_raw_fd(),
            ports: ports.as_raw_fd(),
        };
        let mut links = Vec::new();
        for program in programs(maps) {
            let name = program.name;
            for &hook in program.hooks {
                let loaded = bpf::load(name, hook, &program.instructions);
                let loaded = loaded.map_err(failed("load", name))?;
                let link = bpf::attach(&loaded, hook, cgroup).map_err(failed("attach", name))?;
                links.push(link);
            }
        }
        Ok(Self {
            ring: reader,
            readable: when_readable(ring).map_err(failed("watch", "the ring"))?,
            sockets,
            ports,
            _links: links,
            news: News::default(),
        })
    }

    /// Waits for news, which [`Self::take`] gives.
    pub(super) async fn wait(&mut self) -> io::Result<()> {
        while !self.news.any {
            // What comes after this makes it ready again.
            self.readable.readable().await?.clear_ready();
            self.drain();
        }
        Ok(())
    }

    /// The news until now.
    pub(super) fn take(&mut self) -> News {
        self.drain();
        std::mem::take(&mut self.news)
    }

    fn drain(&mut self) {
        let news = &mut self.news;
        let is_full = self.ring.drain(|number| {
            news.any = true;
            match number {
                BEGINS => {}
                UNKNOWN_ENDS => news.unnamed = true,
                cookie => _ = news.ending.insert(cookie),
            }
        });
        news.unnamed |= is_full;
    }

    /// Tells whether a UDP socket was bound to the port that its program asked for.
    pub(super) fn is_by_number(&self, cookie: u64) -> bool {
        matches!(self.sockets.get(cookie), Ok(Some(BY_NUMBER)))
    }

    /// Has the end of a socket told. Tells whether it would not have been until now.
    pub(super) fn remember(&self, cookie: u64, by_number: bool) -> io::Result<bool> {
        let reason = if by_number { BY_NUMBER } else { OTHERWISE };
        self.sockets.add(cookie, reason)
    }

    /// Names the UDP ports that matter however they are bound.
    pub(super) fn name_ports(&self, ports: &PortBits) -> io::Result<()> {
        self.ports.set(ports)
    }
}

/// Before Linux 5.11 maps and programs count as locked memory. Programs that the agent starts get the old limit again.
struct Unlimited(Rlimit);

impl Unlimited {
    fn begin() -> Self {
        let old = getrlimit(Resource::Memlock);
        let none = Rlimit {
            current: None,
            maximum: None,
        };
        // Where this fails, the limit may still do.
        let _ = setrlimit(Resource::Memlock, none);
        Self(old)
    }
}

impl Drop for Unlimited {
    fn drop(&mut self) {
        let _ = setrlimit(Resource::Memlock, self.0);
    }
}
