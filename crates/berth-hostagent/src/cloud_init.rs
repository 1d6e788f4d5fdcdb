//! cloud-init's progress, for people who watch a first boot (`--progress`).
//!
//! With our agent the log comes over the link, line by line. Without it, `tail -F` over SSH carries it.

use std::sync::Arc;
use std::time::Duration;

use berth_config::model::GuestOs;
use berth_events::board::Board;
use berth_events::event::CloudInitProgress;
use berth_link::event::Request;
use berth_ssh::exec::Script;
use berth_ssh::session::Session;
use tokio::sync::watch;

use crate::agent::HostAgent;
use crate::guest::GuestLink;
use crate::master::MasterState;

/// Follows the log from its beginning, as root, with what every guest has.
const FOLLOW: &str =
    "#!/bin/sh\nexec sudo -n tail -n +1 -F /var/log/cloud-init-output.log 2>/dev/null\n";
/// Longer than this nobody watches (Lima's limit).
const LIMIT: Duration = Duration::from_secs(600);

/// Reports one message of our agent.
pub(crate) fn tell(board: &Board, progress: berth_link::event::CloudInitProgress) {
    board.cloud_init(CloudInitProgress {
        log_line: progress.line.unwrap_or_default(),
        completed: progress.completed,
        active: !progress.completed,
    });
}

/// Starts reporting, until cloud-init has finished, the limit has passed, or the agent ends.
pub(crate) fn start(agent: &HostAgent) {
    if !agent.progress || agent.config.plain || agent.config.os != GuestOs::Linux {
        return;
    }
    let board = Arc::clone(&agent.board);
    let cancel = agent.tasks.cancel.clone();
    let link = agent.live.guest.get().cloned();
    let session = agent.live.session.get().cloned();
    let master = agent.live.master.get().map(|master| master.state.clone());
    board.cloud_init(CloudInitProgress {
        active: true,
        ..CloudInitProgress::default()
    });
    agent.tasks.tracker.spawn(async move {
        let reported = async {
            match link {
                Some(link) => over_link(link).await,
                None => over_ssh(session.zip(master), &board).await,
            }
        };
        let ended = cancel
            .run_until_cancelled(tokio::time::timeout(LIMIT, reported))
            .await;
        let reason = match ended {
            None => return,
            Some(Ok(Ok(()))) => "cloud-init has finished".to_owned(),
            Some(Ok(Err(why))) => format!("cloud-init's progress is lost: {why}"),
            Some(Err(_)) => format!("cloud-init was still busy after {} s", LIMIT.as_secs()),
        };
        board.cloud_init(CloudInitProgress {
            log_line: reason,
            completed: true,
            active: false,
        });
    });
}

/// Asks our agent for the log in each session; its lines come as events, see [`tell`].
async fn over_link(link: GuestLink) -> Result<(), String> {
    let mut view = link.view.clone();
    let gone = |_| "the guest link was shut down".to_owned();
    loop {
        view.wait_for(|view| view.connected || view.cloud_init_done)
            .await
            .map_err(gone)?;
        if view.borrow().cloud_init_done {
            return Ok(());
        }
        if let Ok(Err(refusal)) = link.handle.request(Request::FollowCloudInit).await {
            return Err(refusal.to_string());
        }
        view.wait_for(|view| !view.connected || view.cloud_init_done)
            .await
            .map_err(gone)?;
    }
}

async fn over_ssh(
    way: Option<(Arc<Session>, watch::Receiver<MasterState>)>,
    board: &Board,
) -> Result<(), String> {
    let (session, mut master) = way.ok_or("there is no way to the guest")?;
    let login = master.wait_for(|state| matches!(state, MasterState::Up { .. }));
    login.await.map_err(|_| "the ssh master was stopped")?;
    let started = session.follow(&Script::new(FOLLOW)).await;
    let mut lines = started.map_err(|why| crate::error::chain(&why))?;
    while let Some(line) = lines.next().await {
        let finished = is_last_line(&line);
        board.cloud_init(CloudInitProgress {
            log_line: line,
            completed: finished,
            active: !finished,
        });
        if finished {
            return Ok(());
        }
    }
    Err("the ssh session ended".to_owned())
}

/// cloud-init's own last line: `Cloud-init v. 22.4.2 finished at …`.
fn is_last_line(line: &str) -> bool {
    line.strip_prefix("Cloud-init v.")
        .is_some_and(|rest| rest.contains("finished at"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_cloud_inits_own_last_line_ends_it() {
        assert!(is_last_line(
            "Cloud-init v. 22.4.2 finished at Mon, 23 Nov 2026. Datasource NoCloud"
        ));
        assert!(!is_last_line("package cloud-init finished"));
        assert!(!is_last_line(
            "Cloud-init v. 22.4.2 running 'modules:final' at Mon"
        ));
    }
}
