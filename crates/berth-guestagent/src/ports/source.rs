//! What tells that sockets have changed: the best that the guest's kernel has.

use std::collections::BTreeSet;
use std::io;
use std::time::Duration;

use tokio::time::{Interval, MissedTickBehavior, interval};

use super::by_number::ByNumber;
use super::cgroup::{ControlGroups, News};
use super::filter::UdpFilter;
use super::tracepoints::Tracepoints;
use crate::args::chain;
use crate::netlink::Destroyed;

/// How often to look where nothing tells of new sockets.
const TICK: Duration = Duration::from_secs(3);

/// An open source, best first.
#[derive(Debug)]
pub(super) enum Source {
    /// BPF programs in the control groups.
    ControlGroups(ControlGroups),
    /// Tracepoints of the kernel.
    Tracepoints(Tracepoints),
    /// A tick.
    Ticks(Ticks),
}

impl Source {
    /// Opens the best source that there is.
    pub(super) fn best() -> Self {
        let begins = "ports are watched by";
        let why_no_programs = match ControlGroups::everywhere() {
            Ok(programs) => {
                tracing::info!("{begins} programs in the control groups");
                return Self::ControlGroups(programs);
            }
            Err(why) => chain(&why),
        };
        let why_no_tracepoints = match Tracepoints::open() {
            Ok(tracepoints) => {
                tracing::info!("{begins} tracepoints, not by programs: {why_no_programs}");
                return Self::Tracepoints(tracepoints);
            }
            Err(why) => chain(&why),
        };
        tracing::warn!(
            "{begins} looking every {} s; no programs: {why_no_programs}; no tracepoints: {why_no_tracepoints}",
            TICK.as_secs()
        );
        Self::ticks()
    }

    /// Opens the source that always works.
    pub(super) fn ticks() -> Self {
        Self::Ticks(Ticks::begin())
    }

    /// Waits until sockets have changed, or a UDP socket is gone whose port is `known`.
    pub(super) async fn wait(&mut self, known: &BTreeSet<u16>) -> io::Result<()> {
        match self {
            Self::ControlGroups(programs) => programs.wait().await,
            Self::Tracepoints(tracepoints) => tracepoints.wait(known).await,
            Self::Ticks(ticks) => ticks.wait(known).await,
        }
    }

    /// What there is to know before sockets are looked at.
    pub(super) fn take(&mut self) -> News {
        match self {
            Self::ControlGroups(programs) => programs.take(),
            Self::Tracepoints(_) | Self::Ticks(_) => News::default(),
        }
    }

    /// How long to wait until a change shows.
    pub(super) fn delay(&self) -> Duration {
        match self {
            // The kernel tells that a socket will listen.
            Self::Tracepoints(_) => Duration::from_millis(1),
            Self::ControlGroups(_) | Self::Ticks(_) => Duration::ZERO,
        }
    }

    /// Tells whether a UDP socket was bound to the port that its program asked for, as far as that is known.
    pub(super) fn is_by_number(&self, cookie: u64) -> bool {
        match self {
            Self::ControlGroups(programs) => programs.is_by_number(cookie),
            Self::Tracepoints(_) | Self::Ticks(_) => false,
        }
    }

    /// Has the end of a socket told. Tells whether it would not have been until now.
    pub(super) fn remember(&self, cookie: u64) -> bool {
        match self {
            // When the map is full, the end of others is told.
            Self::ControlGroups(programs) => programs.remember(cookie, false).unwrap_or(false),
            Self::Tracepoints(_) | Self::Ticks(_) => false,
        }
    }

    /// Believes what the agent before this one saw.
    pub(super) fn take_over(&self, record: &ByNumber) {
        if let Self::ControlGroups(programs) = self {
            for cookie in record.cookies() {
                // A full map shows at every other use.
                let _ = programs.remember(cookie, true);
            }
        }
    }

    /// Has sockets told that matter to this filter only.
    pub(super) fn obey(&self, filter: &UdpFilter) {
        if let Self::ControlGroups(programs) = self
            && let Err(why) = programs.name_ports(&filter.named())
        {
            tracing::warn!("the named UDP ports are not watched: {why}");
        }
    }
}

/// Looking every few seconds; only UDP sockets that go are told at once.
#[derive(Debug)]
pub(super) struct Ticks {
    interval: Interval,
    destroyed: Option<Destroyed>,
}

impl Ticks {
    fn begin() -> Self {
        let mut interval = interval(TICK);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first tick comes at once.
        interval.reset();
        Self {
            interval,
            destroyed: Destroyed::listen().ok(),
        }
    }

    async fn wait(&mut self, known: &BTreeSet<u16>) -> io::Result<()> {
        let Some(destroyed) = &self.destroyed else {
            self.interval.tick().await;
            return Ok(());
        };
        tokio::select! {
            _ = self.interval.tick() => Ok(()),
            gone = destroyed.next(|port| known.contains(&port)) => gone,
        }
    }
}
