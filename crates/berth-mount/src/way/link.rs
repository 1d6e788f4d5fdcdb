//! Over the guest link: our agent mounts, and tells.

use std::io::ErrorKind;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use berth_link::flow::FlowHeader;
use berth_link::host::LinkHandle;
use berth_link::mount::{Ask, HostEnd, MountOrder, TalkError, Told};
use tokio::sync::watch;
use tokio::time::timeout;

use super::{Live, Serving, Tasks, Way};
use crate::error::MountError;
use crate::server::Server;
use crate::share::Share;

/// The guest may have to install sshfs first, and limits that itself to ten minutes.
const READY_LIMIT: Duration = Duration::from_secs(660);
/// From then on, it takes the start of a program.
const MOUNT_LIMIT: Duration = Duration::from_secs(60);
/// Writing out what is left in the guest's memory.
const UNMOUNT_LIMIT: Duration = Duration::from_secs(8);

/// Streams of the guest link.
#[derive(Debug)]
pub struct LinkWay {
    handle: LinkHandle,
    sessions: watch::Receiver<Option<u64>>,
    tasks: Tasks,
    /// The last number that a mount got. They need only differ within a session.
    last: AtomicU32,
}

impl LinkWay {
    /// Uses the link. `sessions`: the number of the session that is up.
    #[must_use]
    pub fn new(handle: LinkHandle, sessions: watch::Receiver<Option<u64>>, tasks: Tasks) -> Self {
        Self {
            handle,
            sessions,
            tasks,
            last: AtomicU32::new(0),
        }
    }
}

#[async_trait]
impl Way for LinkWay {
    fn sessions(&self) -> watch::Receiver<Option<u64>> {
        self.sessions.clone()
    }

    async fn mount(&self, share: &Share, server: &Server) -> Result<Box<dyn Live>, MountError> {
        let id = self.last.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        let mut talk = HostEnd::new(self.handle.open_stream(&FlowHeader::mount(id))?);
        let order = MountOrder {
            point: share.point.clone(),
            source: server.source(share),
            writable: share.writable,
            cache: share.cache,
            follow_symlinks: share.follow_symlinks,
            map_owner: share.map_owner,
            file_events: share.touch.is_some(),
        };
        talk.ask(Ask::Order(order)).await.map_err(talk_error)?;
        match next(&mut talk, READY_LIMIT).await? {
            Told::Ready => {}
            Told::Failed(why) => return Err(MountError::Guest(why)),
            _ => return Err(MountError::Protocol),
        }
        let data = self.handle.open_stream(&FlowHeader::mount_data(id))?;
        let mut serving = Serving::start(server, share, tokio::io::split(data), &self.tasks);
        let told = tokio::select! {
            // When both fail, the guest knows better.
            biased;
            told = next(&mut talk, MOUNT_LIMIT) => told?,
            ended = serving.ended() => match timeout(LAST_WORDS, talk.told()).await {
                Ok(Ok(told)) => told,
                _ => return Err(ended),
            },
        };
        match told {
            Told::Mounted => Ok(Box::new(LinkMount { talk, serving })),
            Told::Failed(why) => Err(MountError::Guest(why)),
            _ => Err(MountError::Protocol),
        }
    }
}

/// How long the guest's last words may take when the server's end has come first.
const LAST_WORDS: Duration = Duration::from_secs(2);

async fn next(talk: &mut HostEnd, limit: Duration) -> Result<Told, MountError> {
    match timeout(limit, talk.told()).await {
        Ok(told) => told.map_err(talk_error),
        Err(_) => Err(MountError::TimedOut(limit)),
    }
}

fn talk_error(why: TalkError) -> MountError {
    match why {
        TalkError::Io(why) if why.kind() == ErrorKind::Unsupported => MountError::TooOld,
        why @ (TalkError::Io(_) | TalkError::Ended) => MountError::Talk(why),
        _ => MountError::Protocol,
    }
}

/// A mount of our agent.
struct LinkMount {
    talk: HostEnd,
    serving: Serving,
}

#[async_trait]
impl Live for LinkMount {
    async fn ended(&mut self) -> MountError {
        tokio::select! {
            biased;
            told = self.talk.told() => told_at_the_end(told),
            ended = self.serving.ended() => match timeout(LAST_WORDS, self.talk.told()).await {
                Ok(told) => told_at_the_end(told),
                Err(_) => ended,
            },
        }
    }

    async fn unmount(mut self: Box<Self>) -> Result<(), MountError> {
        self.talk.ask(Ask::Unmount).await.map_err(talk_error)?;
        match next(&mut self.talk, UNMOUNT_LIMIT).await? {
            Told::Unmounted { busy } => {
                if busy {
                    self.serving.leave();
                }
                Ok(())
            }
            Told::Failed(why) => Err(MountError::Guest(why)),
            Told::Ready | Told::Mounted => Err(MountError::Protocol),
        }
    }
}

fn told_at_the_end(told: Result<Told, TalkError>) -> MountError {
    match told {
        Ok(Told::Failed(why)) => MountError::Guest(why),
        // The agent in the guest ends, and unmounts first.
        Ok(Told::Unmounted { .. }) => MountError::NoGuest,
        Ok(Told::Ready | Told::Mounted) => MountError::Protocol,
        Err(why) => talk_error(why),
    }
}
