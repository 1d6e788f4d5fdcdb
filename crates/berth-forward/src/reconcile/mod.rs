//! The forwards of one instance: what listens is made to agree with what ought to, after every change.
//!
//! One task owns everything that listens ([`Reconciler::start`]); it looks at the rules, at what the guest listens on, and at
//! what became of its own listeners. What ought not to listen is closed before anything new is opened, because an address may have
//! moved. What cannot listen is tried again: at once when the system says that the port is free (Linux) or somebody asks
//! ([`ForwardsHandle::kick`]), else after 250 ms, doubling to 10 s; there is no timer while nothing fails.
//!
//! A lost guest agent closes nothing. A client that connects meanwhile waits for [`Limits::link`] and is then refused with a
//! reset. Ports that were reported are forgotten when the next report says so.
//!
//! Where this differs from Lima on purpose: the forward of a port exists once, however many sockets of the guest lead to it, and
//! lives as long as one of them; where rules compete for a host port the earlier rule has it; connections that the guest
//! refuses are refused with a reset; there is a `failed` notice, and `forwarding` means that it listens.

mod entry;
mod explain;
mod owner;
mod status;

use std::path::PathBuf;
use std::sync::Arc;

use berth_config::platform::HostOs;
use tokio::sync::{Notify, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::address::GuestPorts;
use crate::guest::{Access, NoticeSink};
use crate::limits::Limits;
use crate::rules::RuleList;

use owner::Owner;
use status::Published;
pub use status::{ForwardState, ForwardStatus, Status};

/// What the forwards of an instance depend on and does not change.
#[derive(Debug, Clone)]
pub struct Setting {
    /// The effective rules.
    pub rules: RuleList,
    /// The host's system.
    pub os: HostOs,
    /// The instance's own directory of sockets (`sock`): what is made in it is for the user alone.
    pub own_dir: PathBuf,
    /// How much there may be.
    pub limits: Limits,
}

/// Starts the task that owns the forwards.
#[derive(Debug)]
pub struct Reconciler;

impl Reconciler {
    /// Starts the owner task on `tracker`; it runs until `cancel`, [`ForwardsHandle::stop`], or until all handles are dropped.
    ///
    /// Static rules and unix sockets are forwarded from the start, ports as `guest_ports` reports them.
    #[must_use = "everything ends when the handle is dropped"]
    pub fn start(
        setting: Setting,
        access: Access,
        guest_ports: watch::Receiver<GuestPorts>,
        notices: NoticeSink,
        tracker: &TaskTracker,
        cancel: &CancellationToken,
    ) -> ForwardsHandle {
        let (published, status) = watch::channel(Published::default());
        let kick = Arc::new(Notify::new());
        let stop = cancel.child_token();
        let stopped = CancellationToken::new();
        let owner = Owner::new(
            setting,
            access,
            guest_ports,
            notices,
            published,
            Arc::clone(&kick),
            tracker,
        );
        let (stopping, done) = (stop.clone(), stopped.clone().drop_guard());
        tracker.spawn(async move {
            owner.run(stopping).await;
            drop(done);
        });
        ForwardsHandle {
            status,
            kick,
            stop: Arc::new(stop.drop_guard()),
            stopped,
        }
    }
}

/// A handle to the owner task. When the last one is dropped, everything ends.
#[derive(Debug, Clone)]
pub struct ForwardsHandle {
    status: watch::Receiver<Published>,
    kick: Arc<Notify>,
    stop: Arc<DropGuard>,
    stopped: CancellationToken,
}

impl ForwardsHandle {
    /// How every forward stands now.
    #[must_use]
    pub fn status(&self) -> Status {
        self.status.borrow().status()
    }

    /// Waits until the status is as asked; `None` if everything ended before.
    pub async fn wait_for(&self, mut reached: impl FnMut(&Status) -> bool) -> Option<Status> {
        let mut watched = self.status.clone();
        loop {
            let status = watched.borrow_and_update().status();
            if reached(&status) {
                return Some(status);
            }
            watched.changed().await.ok()?;
        }
    }

    /// Waits until everything that does not depend on the guest's ports was tried once, and returns what of it does not listen.
    pub async fn settled(&self) -> Vec<ForwardStatus> {
        let settled = self.wait_for(|status| status.is_settled).await;
        let all = settled.map_or_else(Vec::new, |status| status.forwards);
        let missing =
            |forward: &ForwardStatus| forward.is_static && forward.state != ForwardState::Listening;
        all.into_iter().filter(missing).collect()
    }

    /// Says that something may have changed that nobody tells (the computer woke up, a network came): whatever does not listen is
    /// tried again at once.
    pub fn kick(&self) {
        self.kick.notify_one();
    }

    /// Closes everything, ends all connections, and waits for that.
    pub async fn stop(&self) {
        self.stop.token().cancel();
        self.stopped.cancelled().await;
    }
}
