//! From what is pending to the guest, batch by batch.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use berth_link::files::{Batch, Change, HostEnd, MAX_COST};
use berth_link::flow::FlowHeader;
use berth_link::host::LinkHandle;
use berth_link::mount::MAX_PATH;
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::pending::{Kind, Pending};
use super::{Facts, Sight};
use crate::error::chain;
use crate::sys::{TreeWatch, facts};
use crate::way::Tasks;

/// Pauses after a batch that was not taken, if no new session comes first.
const PAUSES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// How long the guest may take for a batch. It limits that itself to less.
const BATCH_LIMIT: Duration = Duration::from_secs(60);
/// Files whose last state is remembered, to know an echo.
const MOST_ECHOES: usize = 16 * 1024;

/// Who touches files in the guest.
#[async_trait]
pub trait Raiser: Send + 'static {
    /// A number that changes when the guest is connected anew; `None` while it is not.
    fn sessions(&self) -> watch::Receiver<Option<u64>>;

    /// Has everything in a batch touched. The error is for people; the batch is told again.
    async fn raise(&mut self, batch: &Batch) -> Result<(), String>;
}

/// Which time the guest gives a file that it touches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stamp {
    /// The one for which the host's SFTP server changes nothing ([`berth_sftp::Share::touch`]), in seconds since 1970.
    Secret(u32),
    /// The one that it has.
    Own,
}

/// The file events of one share. Dropping it ends them.
#[derive(Debug)]
pub struct FileEvents {
    sight: watch::Receiver<Sight>,
    _stop: tokio_util::sync::DropGuard,
}

impl FileEvents {
    /// Watches a directory of the host, and has what changes there touched beneath `point` in the guest.
    ///
    /// # Errors
    /// The host has no such events.
    pub fn start(
        directory: &Path,
        point: &str,
        stamp: Stamp,
        raiser: Box<dyn Raiser>,
        tasks: &Tasks,
    ) -> io::Result<Self> {
        let pending = Arc::new(Pending::default());
        let (tell, sight) = watch::channel(Sight::Dark);
        let watched = TreeWatch::start(directory, &pending, tell)?;
        let feed = Feed {
            directory: directory.to_path_buf(),
            point: point.to_owned(),
            stamp,
            pending,
            raiser,
            echoes: HashMap::new(),
        };
        let stop = tasks.cancel.child_token();
        let until = stop.clone();
        tasks.tracker.spawn(async move {
            until.run_until_cancelled(Box::pin(feed.run())).await;
            drop(watched);
        });
        Ok(Self {
            sight,
            _stop: CancellationToken::drop_guard(stop),
        })
    }

    /// How much of the directory is seen, and every change of that.
    #[must_use]
    pub fn sight(&self) -> watch::Receiver<Sight> {
        self.sight.clone()
    }
}

struct Feed {
    directory: PathBuf,
    point: String,
    stamp: Stamp,
    pending: Arc<Pending>,
    raiser: Box<dyn Raiser>,
    /// How files were when they were told, where touching them changes them.
    echoes: HashMap<Vec<u8>, Facts>,
}

impl Feed {
    async fn run(mut self) {
        let mut sessions = self.raiser.sessions();
        loop {
            let cost = |path: &[u8]| cost(path);
            let paths = self.pending.next(MAX_COST, cost).await;
            let changes = self.stamped(paths).await;
            if changes.is_empty() {
                continue;
            }
            let batch = Batch {
                point: self.point.clone(),
                changes,
            };
            let mut pause = PAUSES.0;
            loop {
                if sessions.wait_for(Option::is_some).await.is_err() {
                    return;
                }
                sessions.mark_unchanged();
                let Err(why) = self.raiser.raise(&batch).await else {
                    break;
                };
                tracing::debug!(point = self.point, why, "file events wait");
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    news = sessions.changed() => if news.is_err() { return },
                }
                pause = PAUSES.1.min(pause * 2);
            }
        }
    }

    /// Gives each change its time. What is gone, and what changed only because it was touched, is left out.
    async fn stamped(&mut self, mut changed: Vec<(Vec<u8>, Kind)>) -> Vec<Change> {
        // Deeper than any program there can name it.
        changed.retain(|(path, _)| path.len() <= MAX_PATH);
        if let Stamp::Secret(seconds) = self.stamp {
            let time = UNIX_EPOCH + Duration::from_secs(seconds.into());
            let change = |(path, _)| Change { path, time };
            return changed.into_iter().map(change).collect();
        }
        let (paths, kinds): (Vec<_>, Vec<_>) = changed.into_iter().unzip();
        let directory = self.directory.clone();
        let looked = tokio::task::spawn_blocking(move || {
            let found = facts(&directory, &paths);
            (paths, found)
        });
        let (paths, found) = match looked.await {
            Ok((paths, Ok(found))) => (paths, found),
            Ok((_, Err(why))) => {
                tracing::debug!(point = self.point, %why, "nothing is told of changed files");
                return Vec::new();
            }
            Err(_) => return Vec::new(),
        };
        let found = paths.into_iter().zip(kinds).zip(found);
        let told = found.filter_map(|((path, kind), facts)| {
            let time = self.news(&path, kind, facts)?;
            Some(Change { path, time })
        });
        told.collect()
    }

    /// The time of a file that is another than when it was told last.
    fn news(&mut self, path: &[u8], kind: Kind, facts: Option<Facts>) -> Option<SystemTime> {
        let Some(facts) = facts else {
            self.echoes.remove(path);
            return None;
        };
        if self.echoes.len() >= MOST_ECHOES {
            self.echoes.clear();
        }
        let known = self.echoes.insert(path.to_vec(), facts);
        let is_echo = kind == Kind::Attributes && known == Some(facts);
        (!is_echo).then_some(facts.modified)
    }
}

fn cost(path: &[u8]) -> usize {
    let change = Change {
        path: Vec::new(),
        time: UNIX_EPOCH,
    };
    change.cost() + path.len()
}

/// Our guest agent touches, over the guest link.
#[derive(Debug)]
pub struct LinkRaiser {
    handle: LinkHandle,
    sessions: watch::Receiver<Option<u64>>,
    talk: Option<HostEnd>,
}

impl LinkRaiser {
    /// Uses the link. `sessions`: the number of the session that is up.
    #[must_use]
    pub fn new(handle: LinkHandle, sessions: watch::Receiver<Option<u64>>) -> Self {
        Self {
            handle,
            sessions,
            talk: None,
        }
    }
}

#[async_trait]
impl Raiser for LinkRaiser {
    fn sessions(&self) -> watch::Receiver<Option<u64>> {
        self.sessions.clone()
    }

    async fn raise(&mut self, batch: &Batch) -> Result<(), String> {
        let mut talk = if let Some(talk) = self.talk.take() {
            talk
        } else {
            let stream = self.handle.open_stream(&FlowHeader::files());
            HostEnd::new(stream.map_err(|why| chain(&why))?)
        };
        match timeout(BATCH_LIMIT, talk.tell(batch)).await {
            Ok(Ok(())) => {
                self.talk = Some(talk);
                Ok(())
            }
            Ok(Err(why)) => Err(chain(&why)),
            Err(_) => Err(format!("no answer for {} s", BATCH_LIMIT.as_secs())),
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests;
