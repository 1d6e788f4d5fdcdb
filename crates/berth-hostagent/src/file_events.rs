//! `mountInotify`: what changes in a shared directory on the host is raised in the guest, as far as its mounts allow.

use std::ffi::OsStr;
use std::sync::Arc;

use async_trait::async_trait;
use berth_config::model::{Config, GuestOs, Mount, MountType};
use berth_events::board::Board;
use berth_guest_api::client::GuestApi;
use berth_guest_api::file_events::FileEvents as PostedEvents;
use berth_link::files::Batch;
use berth_mount::events::{FileEvents, LinkRaiser, Raiser, Sight, Stamp};
use berth_mount::server::Server;
use tokio::sync::watch;

use crate::agent::{GuestAgentKind, HostAgent, Tasks};
use crate::error::chain;
use crate::lima_agent::LimaAgent;
use crate::phases::Causes;

/// Whether file events are wanted.
pub(crate) fn applies(agent: &HostAgent) -> bool {
    let config = agent.config();
    config.mount_inotify
        && !config.plain
        && config.os == GuestOs::Linux
        && !config.mounts.is_empty()
}

/// The time that stands for "changed on the host" in mounts that our own server serves; nothing where no events are wanted.
pub(crate) fn secret(agent: &HostAgent, server: &Server) -> Option<u32> {
    let raised = cfg!(target_os = "linux") && agent.agent_kind != GuestAgentKind::None;
    if !applies(agent) || !raised || *server != Server::Builtin {
        return None;
    }
    let drawn = agent.live.touch.get_or_init(|| {
        let mut random = [0; 4];
        // 31 bits: a time that every file system knows.
        getrandom::fill(&mut random).ok()?;
        Some(u32::from_le_bytes(random) >> 1)
    });
    *drawn
}

/// Starts the events of every mount that can have them, and says which cannot.
pub(crate) fn begin(agent: &HostAgent) -> Causes {
    let mut causes = Causes::new();
    for mount in &agent.config().mounts {
        let point = mount.mount_point.as_str();
        let stamp = match stamp(agent, mount) {
            Ok(stamp) => stamp,
            Err(why) => {
                tracing::warn!(
                    mount = point,
                    "mountInotify: no file events are raised: {why}"
                );
                continue;
            }
        };
        let Some(raiser) = raiser(agent) else {
            causes.push("mountInotify: there is no way to the guest agent".to_owned());
            return causes;
        };
        let tasks = crate::mounts::tasks(agent);
        match FileEvents::start(&mount.location, point, stamp, raiser, &tasks) {
            Ok(events) => follow(events, point, Arc::clone(&agent.board), &agent.tasks),
            Err(why) => tracing::warn!(
                mount = point,
                "mountInotify: no file events are raised: {why}"
            ),
        }
    }
    causes
}

/// Which time files of a mount are given, or why none can be touched there.
fn stamp(agent: &HostAgent, mount: &Mount) -> Result<Stamp, &'static str> {
    let config = agent.config();
    let ours = Server::choose(&mount.sshfs.sftp_driver, OsStr::new(&agent.path));
    let server = ours.ok().filter(|_| is_sshfs(config));
    decide(agent.agent_kind, mount.writable, server.as_ref()).map(|secret| {
        let time = server
            .filter(|_| secret)
            .and_then(|server| self::secret(agent, &server));
        time.map_or(Stamp::Own, Stamp::Secret)
    })
}

fn is_sshfs(config: &Config) -> bool {
    config.mount_type == Some(MountType::ReverseSshfs)
}

/// Whether touching a file can be kept from changing it. `server`: who serves it, where that is SFTP.
fn decide(
    agent: GuestAgentKind,
    writable: bool,
    server: Option<&Server>,
) -> Result<bool, &'static str> {
    let builtin = server == Some(&Server::Builtin);
    match (agent, writable) {
        (GuestAgentKind::None, _) => Err("the guest has no agent"),
        (_, true) => Ok(builtin),
        (GuestAgentKind::Berth, false) if builtin => Ok(true),
        (GuestAgentKind::Lima, false) if builtin => {
            Err("Lima's guest agent cannot touch files of a read-only mount")
        }
        (_, false) if server.is_some() => {
            Err("`sftpDriver: openssh-sftp-server` lets nobody touch files of a read-only mount")
        }
        (_, false) => Err("files of read-only mounts can be touched with reverse-sshfs only"),
    }
}

fn raiser(agent: &HostAgent) -> Option<Box<dyn Raiser>> {
    match agent.agent_kind {
        GuestAgentKind::Berth => {
            let link = agent.live.guest.get()?;
            let sessions = link.sessions(&agent.tasks);
            Some(Box::new(LinkRaiser::new(link.handle.clone(), sessions)))
        }
        GuestAgentKind::Lima => {
            let lima = agent.live.lima.get()?;
            Some(Box::new(LimaRaiser {
                sessions: lima.sessions(&agent.tasks),
                agent: lima.clone(),
                stream: None,
            }))
        }
        GuestAgentKind::None => None,
    }
}

/// Holds the events of a mount, and makes a cause of what they cannot see.
fn follow(events: FileEvents, point: &str, board: Arc<Board>, tasks: &Tasks) {
    let cancel = tasks.cancel.clone();
    let beginning = format!("mountInotify: not all changes in {point:?} are seen");
    tasks.tracker.spawn(async move {
        let following = async {
            let mut sight = events.sight();
            let mut told = None;
            loop {
                let now = match &*sight.borrow_and_update() {
                    Sight::Dark | Sight::Clear => None,
                    Sight::Partly(why) => Some(format!("{beginning}: {why}")),
                };
                if now != told {
                    if let Some(now) = &now {
                        tracing::warn!("{now}");
                        board.degrade(now);
                    }
                    if let Some(old) = &told {
                        board.heal(old);
                    }
                    told = now;
                }
                if sight.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        cancel.run_until_cancelled(following).await;
    });
}

/// Lima's guest agent touches, by `PostInotify`.
#[derive(Debug)]
struct LimaRaiser {
    agent: LimaAgent,
    sessions: watch::Receiver<Option<u64>>,
    stream: Option<PostedEvents>,
}

#[async_trait]
impl Raiser for LimaRaiser {
    fn sessions(&self) -> watch::Receiver<Option<u64>> {
        self.sessions.clone()
    }

    async fn raise(&mut self, batch: &Batch) -> Result<(), String> {
        let mut stream = if let Some(stream) = self.stream.take() {
            stream
        } else {
            let calls: GuestApi = self.agent.calls().ok_or("Lima's guest agent is away")?;
            calls.file_events().await.map_err(|why| chain(&why))?
        };
        for change in &batch.changes {
            // Its messages are text.
            let Ok(name) = std::str::from_utf8(&change.path) else {
                continue;
            };
            let path = format!("{}/{name}", batch.point.trim_end_matches('/'));
            if path.len() <= berth_link::mount::MAX_PATH {
                let posted = stream.post(&path, change.time).await;
                posted.map_err(|why| chain(&why))?;
            }
        }
        self.stream = Some(stream);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_touched_is_named() {
        use GuestAgentKind::{Berth, Lima, None as Nobody};
        let (builtin, openssh) = (Server::Builtin, Server::OpenSsh("/sftp-server".into()));
        for (agent, writable, server, expected) in [
            (Berth, true, Some(&builtin), Ok(true)),
            (Berth, false, Some(&builtin), Ok(true)),
            (Berth, true, Some(&openssh), Ok(false)),
            (Berth, false, Some(&openssh), Err("openssh-sftp-server")),
            (Berth, true, None, Ok(false)),
            (Berth, false, None, Err("reverse-sshfs only")),
            (Lima, true, Some(&builtin), Ok(true)),
            (Lima, false, Some(&builtin), Err("Lima's guest agent")),
            (Nobody, true, Some(&builtin), Err("no agent")),
        ] {
            match (decide(agent, writable, server), expected) {
                (Err(why), Err(part)) => assert!(why.contains(part), "{why}"),
                (decided, expected) => assert_eq!(decided, expected, "{agent:?} {writable}"),
            }
        }
    }
}
