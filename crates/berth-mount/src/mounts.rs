//! All of an instance's shares: side by side, but those within each other in their order.

use std::sync::Arc;

use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::owner::Owner;
use crate::server::Server;
use crate::share::Share;
use crate::way::{Tasks, Way};

/// How a share is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountState {
    /// It was never mounted yet, and nothing speaks against it.
    Starting,
    /// It was lost a moment ago.
    Pending,
    /// It is mounted, by the guest's own table.
    Mounted,
    /// It is not, with the share and the reason in words for people.
    Failed(String),
}

/// Starts the tasks that own the shares.
#[derive(Debug)]
pub struct Mounts;

/// All shares of an instance. Clones share them.
#[derive(Debug, Clone)]
pub struct MountsHandle(Arc<Vec<Held>>);

/// What is held of one share's owner.
#[derive(Debug)]
struct Held {
    point: String,
    /// How many other shares it lies in.
    depth: usize,
    state: watch::Receiver<MountState>,
    stop: CancellationToken,
    stopped: std::sync::Mutex<Option<oneshot::Receiver<Result<(), String>>>>,
}

impl Mounts {
    /// Starts one owner for each share.
    #[must_use]
    pub fn start(shares: Vec<(Share, Server)>, way: &Arc<dyn Way>, tasks: &Tasks) -> MountsHandle {
        let all: Vec<Share> = shares.iter().map(|(share, _)| share.clone()).collect();
        let states: Vec<_> = all
            .iter()
            .map(|_| watch::channel(MountState::Starting))
            .collect();
        let watched: Vec<_> = states.iter().map(|(_, state)| state.clone()).collect();
        let held = shares
            .into_iter()
            .zip(states)
            .map(|((share, server), (out, state))| {
                let parent = share.parent(&all);
                let (tell, stopped) = oneshot::channel();
                let held = Held {
                    point: share.point.clone(),
                    depth: depth(&share, &all),
                    state,
                    stop: tasks.cancel.child_token(),
                    stopped: std::sync::Mutex::new(Some(stopped)),
                };
                let owner = Owner {
                    share,
                    server,
                    way: Arc::clone(way),
                    parent: parent.map(|index| (all[index].point.clone(), watched[index].clone())),
                    state: out,
                    stop: held.stop.clone(),
                };
                tasks.tracker.spawn(async move {
                    let ended = Box::pin(owner.run()).await;
                    let _ = tell.send(ended.map_err(|why| crate::error::chain(&why)));
                });
                held
            });
        MountsHandle(Arc::new(held.collect()))
    }
}

fn depth(share: &Share, all: &[Share]) -> usize {
    std::iter::successors(share.parent(all), |index| all[*index].parent(all)).count()
}

impl MountsHandle {
    /// The state of each share, and every change: by mount point.
    pub fn states(&self) -> impl Iterator<Item = (&str, watch::Receiver<MountState>)> {
        let held = self.0.iter();
        held.map(|held| (held.point.as_str(), held.state.clone()))
    }

    /// Waits until each share is mounted or has failed for the first time; returns the failures.
    pub async fn settled(&self) -> Vec<String> {
        let mut failures = Vec::new();
        for (_, mut state) in self.states() {
            let settled = state.wait_for(|state| *state != MountState::Starting).await;
            if let Ok(MountState::Failed(why)) = settled.as_deref() {
                failures.push(why.clone());
            }
        }
        failures
    }

    /// Unmounts everything, what lies within others first; returns what did not work.
    pub async fn stop(&self) -> Vec<String> {
        let mut errors = Vec::new();
        let deepest = self.0.iter().map(|held| held.depth).max().unwrap_or(0);
        for depth in (0..=deepest).rev() {
            let level: Vec<&Held> = self.0.iter().filter(|held| held.depth == depth).collect();
            for held in &level {
                held.stop.cancel();
            }
            for held in level {
                let stopped = held.stopped.lock();
                let stopped = stopped
                    .unwrap_or_else(std::sync::PoisonError::into_inner)
                    .take();
                let Some(stopped) = stopped else { continue };
                if let Ok(Err(why)) = stopped.await {
                    errors.push(format!("unmount {:?} in the guest: {why}", held.point));
                }
            }
        }
        errors
    }
}
