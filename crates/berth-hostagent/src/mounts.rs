//! reverse-sshfs, as this instance has it: which way into the guest, who serves, and who is told.

use std::ffi::OsStr;
use std::sync::Arc;
use std::time::Duration;

use berth_config::model::MountType;
use berth_events::board::Board;
use berth_events::state::State;
use berth_mount::server::Server;
use berth_mount::way::link::LinkWay;
use berth_mount::way::ssh::SshWay;
use berth_mount::way::{self, Way};
use berth_mount::{MountState, Mounts, Share};
use tokio::sync::watch;

use crate::agent::{GuestAgentKind, HostAgent};
use crate::forwarding::mapped;
use crate::master::MasterState;
use crate::phases::Causes;
use crate::{file_events, requirements};

/// Limit of unmounting everything: each mount has nine seconds, and those within others come one after the other.
const STOP: Duration = Duration::from_secs(20);

/// Whether the host must set mounts up.
pub(crate) fn applies(agent: &HostAgent) -> bool {
    let config = agent.config();
    config.mount_type == Some(MountType::ReverseSshfs) && !config.mounts.is_empty()
}

/// Starts all mounts, and waits until each is there or has failed once.
pub(crate) async fn begin(agent: &HostAgent) -> Causes {
    let Some(way) = way(agent) else {
        return vec!["there is no way into the guest, so nothing is mounted".into()];
    };
    let mut causes = Causes::new();
    if agent.agent_kind == GuestAgentKind::Lima {
        let fuse = "/run/lima-fuse-ready";
        causes.extend(requirements::marker(agent, fuse, "the guest to get ready for sshfs").await);
    }
    let shares = shares(agent, &mut causes);
    let tasks = tasks(agent);
    let mounts = Mounts::start(shares, &way, &tasks);
    let ending = mounts.clone();
    agent.cleanups.register("mounts", STOP, move || async move {
        let errors = ending.stop().await;
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors.join("; "))
        }
    });
    // Before they are waited for: a phase that takes too long is cut off, and what mounts later is to heal that.
    for (point, state) in mounts.states() {
        follow(point, state, Arc::clone(&agent.board), &agent.tasks);
    }
    causes.extend(mounts.settled().await);
    causes
}

/// Makes the end of a helper of the VM (virtiofsd) a cause of degradation. It lasts: QEMU takes no other one.
pub(crate) fn watch_helpers(agent: &HostAgent) {
    let Some(mut troubles) = agent.driver.troubles() else {
        return;
    };
    let (board, cancel) = (Arc::clone(&agent.board), agent.tasks.cancel.clone());
    agent.tasks.tracker.spawn(async move {
        let watching = async {
            loop {
                let known = troubles.borrow_and_update().clone();
                for trouble in known {
                    tracing::warn!(trouble, "a helper of the VM has ended");
                    board.degrade(trouble);
                }
                if troubles.changed().await.is_err() {
                    return;
                }
            }
        };
        cancel.run_until_cancelled(watching).await;
    });
}

/// Every entry with its server. One whose server cannot be had is a cause.
fn shares(agent: &HostAgent, causes: &mut Causes) -> Vec<(Share, Server)> {
    let config = agent.config();
    let map_owner = agent.host_uid != config.user.uid;
    let mut shares = Vec::new();
    for mount in &config.mounts {
        match Server::choose(&mount.sshfs.sftp_driver, OsStr::new(&agent.path)) {
            Ok(server) => {
                if let Some(warning) = server.warning() {
                    tracing::warn!(mount = mount.mount_point, "{warning}");
                }
                let mut share = Share::of(mount, map_owner);
                share.touch = file_events::secret(agent, &server);
                shares.push((share, server));
            }
            Err(why) => causes.push(format!("mount {:?}: {why}", mount.mount_point)),
        }
    }
    shares
}

pub(crate) fn tasks(agent: &HostAgent) -> way::Tasks {
    way::Tasks {
        tracker: agent.tasks.tracker.clone(),
        cancel: agent.tasks.cancel.clone(),
    }
}

/// The link to our agent; SSH to every other guest.
fn way(agent: &HostAgent) -> Option<Arc<dyn Way>> {
    if let Some(link) = agent.live.guest.get() {
        let sessions = link.sessions(&agent.tasks);
        let handle = link.handle.clone();
        return Some(Arc::new(LinkWay::new(handle, sessions, tasks(agent))));
    }
    let session = Arc::clone(agent.live.session.get()?);
    let master = agent.live.master.get()?;
    let sessions = mapped(&master.state, &agent.tasks, |state| match state {
        MasterState::Up { generation } => Some(*generation),
        MasterState::Down { .. } => None,
    });
    Some(Arc::new(SshWay::new(session, sessions, tasks(agent))))
}

/// Makes what is wrong with a mount a cause of degradation, and takes it back.
fn follow(
    point: &str,
    mut state: watch::Receiver<MountState>,
    board: Arc<Board>,
    tasks: &crate::agent::Tasks,
) {
    let cancel = tasks.cancel.clone();
    let of_this_mount = berth_mount::failure_of(point);
    tasks.tracker.spawn(async move {
        let following = async {
            let mut ready = board.subscribe();
            // Until then the phase tells, and what it has told may not hold any more.
            if ready.wait_for(State::is_ready).await.is_err() {
                return;
            }
            loop {
                let now = state.borrow_and_update().clone();
                let told = causes(&board.state(), &of_this_mount);
                match now {
                    // What was told stays told until it is known better.
                    MountState::Starting | MountState::Pending => {}
                    MountState::Mounted => told.iter().for_each(|old| board.heal(old)),
                    MountState::Failed(new) => {
                        let old = told.iter().filter(|old| **old != new);
                        // First the new one: the instance is not healthy in between.
                        board.degrade(&new);
                        old.for_each(|old| board.heal(old));
                    }
                }
                if state.changed().await.is_err() {
                    return;
                }
            }
        };
        cancel.run_until_cancelled(following).await;
    });
}

/// The causes of degradation that begin so.
fn causes(state: &State, beginning: &str) -> Vec<String> {
    match state {
        State::Degraded { causes } => {
            let ours = causes.iter().filter(|cause| cause.starts_with(beginning));
            ours.cloned().collect()
        }
        _ => Vec::new(),
    }
}
