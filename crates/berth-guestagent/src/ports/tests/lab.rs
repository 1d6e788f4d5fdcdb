//! A place for a test: the kernel's sockets are its own, and so is the control group in which they are made.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Mode, OFlags, mkdirat, openat, unlinkat};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::boot::testing::Scene;
use crate::guest::Guest;
use crate::ports::cgroup::ControlGroups;
use crate::ports::detached::root_of;
use crate::ports::follow::Follower;
use crate::ports::source::Source;
use crate::ports::tracepoints::Tracepoints;
use crate::ports::{GuestSocket, PortInterest, Sockets};
use crate::progress::RUNTIME_DIRECTORY;
use crate::sys::leave_the_network;

/// Far more than anything here takes.
pub(super) const HANG: Duration = Duration::from_secs(30);

/// Which source to test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    ControlGroups,
    Tracepoints,
    Ticks,
}

/// One test at a time: the process can be in one control group only.
static TURN: Mutex<()> = Mutex::new(());

/// A control group for the threads of this process, and in it one for the calling thread.
pub(super) struct Lab {
    root: OwnedFd,
    /// Where the process was before.
    home: String,
    process: String,
    thread: String,
    /// The guest's files.
    scene: Scene,
    _turn: MutexGuard<'static, ()>,
}

impl Lab {
    /// Runs a test with each of these sources; says so, and why, where one is left out.
    pub(super) fn each(kinds: &[Kind], test: impl AsyncFn(Observer)) {
        let Some(lab) = Self::enter() else { return };
        for kind in kinds {
            lab.run(*kind, &test);
            empty_network();
        }
    }

    /// Runs a test with one source, if there is such a one.
    pub(super) fn run(&self, kind: Kind, test: impl AsyncFn(Observer)) {
        crate::runtime::new().unwrap().block_on(async {
            if kind == Kind::Ticks {
                // Whenever nothing else is to be done, it is time for the next tick.
                tokio::time::pause();
            }
            if let Some(source) = self.source(kind) {
                println!("{kind:?}");
                observe(&self.scene.guest, source, &test).await;
            }
        });
    }

    /// Moves the calling thread, for good as to its network. `None` where that needs more rights: said, so that it is not
    /// taken for a success.
    pub(super) fn enter() -> Option<Self> {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        if !rustix::process::geteuid().is_root() {
            skipped("not root");
            return None;
        }
        empty_network();
        match Self::move_in(turn) {
            Ok(lab) => Some(lab),
            Err(why) => {
                skipped(&format!("no control group: {why}"));
                None
            }
        }
    }

    fn move_in(turn: MutexGuard<'static, ()>) -> io::Result<Self> {
        let groups = fs::read_to_string("/proc/self/cgroup")?;
        let home = groups.lines().find_map(|line| line.strip_prefix("0::/"));
        let process = format!("berth-ports-test.{}", std::process::id());
        let lab = Self {
            root: root_of("cgroup2")?,
            home: home.unwrap_or_default().to_owned(),
            thread: format!("{process}/thread"),
            process,
            scene: Scene::new(),
            _turn: turn,
        };
        fs::create_dir_all(lab.scene.path(RUNTIME_DIRECTORY))?;
        mkdirat(&lab.root, &lab.process, Mode::RWXU)?;
        lab.write(&lab.process, "cgroup.procs", &std::process::id())?;
        mkdirat(&lab.root, &lab.thread, Mode::RWXU)?;
        lab.write(&lab.thread, "cgroup.type", &"threaded")?;
        let thread = rustix::thread::gettid().as_raw_nonzero();
        lab.write(&lab.thread, "cgroup.threads", &thread)?;
        Ok(lab)
    }

    fn write(&self, group: &str, file: &str, text: &impl ToString) -> io::Result<()> {
        let path = Path::new(group).join(file);
        let file = openat(&self.root, &path, OFlags::WRONLY, Mode::empty())?;
        fs::File::from(file).write_all(text.to_string().as_bytes())
    }

    /// The programs, for the sockets that the calling thread makes; `None` where this kernel takes none.
    pub(super) fn programs(&self) -> Option<ControlGroups> {
        let group = openat(&self.root, &self.thread, OFlags::DIRECTORY, Mode::empty()).unwrap();
        let programs = ControlGroups::below(group.as_fd());
        told(programs.map_err(|why| crate::args::chain(&why)))
    }

    fn source(&self, kind: Kind) -> Option<Source> {
        match kind {
            Kind::ControlGroups => self.programs().map(Source::ControlGroups),
            Kind::Tracepoints => {
                let tracepoints = Tracepoints::open();
                let tracepoints = told(tracepoints.map_err(|why| crate::args::chain(&why)));
                tracepoints.map(Source::Tracepoints)
            }
            Kind::Ticks => Some(Source::ticks()),
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let thread = rustix::thread::gettid().as_raw_nonzero();
        let _ = self.write(&self.process, "cgroup.threads", &thread);
        let _ = unlinkat(&self.root, &self.thread, AtFlags::REMOVEDIR);
        let _ = self.write(&self.home, "cgroup.procs", &std::process::id());
        let _ = unlinkat(&self.root, &self.process, AtFlags::REMOVEDIR);
    }
}

/// Moves the calling thread to a network where nobody has a port. In the one before, closed sockets may be there for a while: a program
/// that another test starts has copies of them from its `fork` to its `exec`.
pub(super) fn empty_network() {
    leave_the_network().unwrap();
    let up = Command::new("ip")
        .args(["link", "set", "lo", "up"])
        .status();
    assert!(up.unwrap().success());
}

fn told<T>(opened: Result<T, String>) -> Option<T> {
    opened.inspect_err(|why| skipped(why)).ok()
}

pub(super) fn skipped(why: &str) {
    // Past the test runner, which keeps what passing tests print.
    let thread = std::thread::current();
    let test = thread.name().unwrap_or_default();
    let _ = writeln!(io::stderr(), "SKIPPED on this machine: {test}: {why}");
}

/// What the host would see, and say.
pub(super) struct Observer {
    published: watch::Receiver<Option<(Sockets, Instant)>>,
    interest: watch::Sender<Option<PortInterest>>,
    services: watch::Sender<BTreeSet<GuestSocket>>,
}

impl Observer {
    /// Waits until exactly these sockets are published, and tells when they were.
    pub(super) async fn until(&mut self, expected: &[GuestSocket]) -> Instant {
        let expected: BTreeSet<_> = expected.iter().copied().collect();
        let is_reached = |published: &Option<(Sockets, _)>| {
            published
                .as_ref()
                .is_some_and(|(sockets, _)| **sockets == expected)
        };
        let reached = timeout(HANG, self.published.wait_for(is_reached)).await;
        let reached = reached.map(|published| published.unwrap().as_ref().unwrap().1);
        reached
            .unwrap_or_else(|_| panic!("expected {expected:?}, got {:?}", self.published.borrow()))
    }

    pub(super) fn be_interested(&self, interest: PortInterest) {
        self.interest.send_replace(Some(interest));
    }

    pub(super) fn serve(&self, services: &[GuestSocket]) {
        self.services
            .send_replace(services.iter().copied().collect());
    }
}

async fn observe(guest: &Guest, source: Source, test: &impl AsyncFn(Observer)) {
    let (interest, interests) = watch::channel(Some(PortInterest::default()));
    let (sender, published) = watch::channel(None);
    let services = watch::Sender::default();
    let sockets = watch::Sender::default();
    let follower = Follower::begin(source, guest, interests, services.subscribe(), &sockets);
    let publish = |sockets| _ = sender.send_replace(Some((sockets, Instant::now())));
    let observer = Observer {
        published,
        interest,
        services,
    };
    tokio::select! {
        () = follower.run(&publish) => panic!("it ended"),
        () = test(observer) => {}
    }
}
