//! One share's life: brought up, watched, brought up again.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::directory::Directory;
use crate::error::{MountError, chain};
use crate::mounts::MountState;
use crate::server::Server;
use crate::share::Share;
use crate::way::{Live, Way};

/// First and longest pause between attempts that fail for the same reason. A new session of the guest cuts it short.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));
/// A mount that held so long was no accident: pauses begin from the first again.
const HELD: Duration = Duration::from_secs(10);
/// How long a mount may be away before it is told: a restart of the guest's agent takes less.
const PATIENCE: Duration = Duration::from_secs(5);
/// Limit of the last word to the guest.
const UNMOUNT: Duration = Duration::from_secs(9);

/// The task that owns a share.
pub(crate) struct Owner {
    pub(crate) share: Share,
    pub(crate) server: Server,
    pub(crate) way: Arc<dyn Way>,
    /// The mount that this one's mount point lies in.
    pub(crate) parent: Option<(String, watch::Receiver<MountState>)>,
    pub(crate) state: watch::Sender<MountState>,
    pub(crate) stop: CancellationToken,
}

impl Owner {
    /// Runs until it is stopped; then the share is unmounted. The error is what could not be unmounted.
    pub(crate) async fn run(self) -> Result<(), MountError> {
        let mut directory = Directory::new(&self.share.directory);
        if let Err(why) = directory.create().await {
            tracing::warn!(error = %why, "a shared directory");
        }
        let mut pauses = Pauses::default();
        loop {
            let stop = self.stop.clone();
            let up = stop.run_until_cancelled(self.bring_up(&mut directory, &mut pauses));
            let Some(mut live) = up.await else {
                return Ok(());
            };
            let since = Instant::now();
            tracing::info!(point = self.share.point, "mounted in the guest");
            self.tell(MountState::Mounted);
            let lost = stop
                .run_until_cancelled(self.hold(live.as_mut(), &mut directory))
                .await;
            let Some(why) = lost else {
                return match timeout(UNMOUNT, live.unmount()).await {
                    Ok(done) => done,
                    Err(_) => Err(MountError::TimedOut(UNMOUNT)),
                };
            };
            // The rest of the old mount goes before the new one comes.
            drop(live);
            tracing::warn!(point = self.share.point, why = %chain(&why), "not mounted any more");
            self.tell(if why.is_lasting() {
                self.failed(&why)
            } else {
                MountState::Pending
            });
            if since.elapsed() > HELD {
                pauses = Pauses::default();
            }
        }
    }

    /// Tries until it is mounted. What lasts is told meanwhile.
    async fn bring_up(&self, directory: &mut Directory, pauses: &mut Pauses) -> Box<dyn Live> {
        let mut patience = Some(Instant::now() + PATIENCE);
        let mut sessions = self.way.sessions();
        loop {
            sessions.mark_unchanged();
            let attempt = self.attempt(directory, &mut sessions, &mut patience);
            let why = match attempt.await {
                Ok(live) => return live,
                Err(why) => why,
            };
            tracing::debug!(point = self.share.point, why = %chain(&why), "not mounted");
            if why.is_lasting() {
                self.tell(self.failed(&why));
                patience = None;
            }
            tokio::select! {
                () = tokio::time::sleep(pauses.next()) => {}
                _ = sessions.changed() => {}
            }
        }
    }

    /// One attempt, once everything that it needs is there.
    async fn attempt(
        &self,
        directory: &mut Directory,
        sessions: &mut watch::Receiver<Option<u64>>,
        patience: &mut Option<Instant>,
    ) -> Result<Box<dyn Live>, MountError> {
        if !directory.is_there().await {
            self.tell(self.failed(&MountError::Missing(self.share.directory.clone())));
            *patience = None;
            directory.appears().await;
        }
        self.patiently(
            patience,
            MountError::NoGuest,
            sessions.wait_for(Option::is_some),
        )
        .await
        .map_err(|_| MountError::NoGuest)?;
        if let Some((point, parent)) = &self.parent {
            let mut parent = parent.clone();
            let mounted = parent.wait_for(|state| *state == MountState::Mounted);
            let missing = MountError::Parent(point.clone());
            let mounted = self.patiently(patience, missing, mounted).await;
            drop(mounted.map_err(|_| MountError::NoGuest)?);
        }
        self.way.mount(&self.share, &self.server).await
    }

    /// Waits, and tells what is missing when patience ends. The first start of a guest takes as long as it takes: its phases
    /// tell of that.
    async fn patiently<T>(
        &self,
        patience: &mut Option<Instant>,
        missing: MountError,
        wait: impl Future<Output = T>,
    ) -> T {
        let was_up = *self.state.borrow() != MountState::Starting;
        let Some(end) = patience.filter(|_| was_up) else {
            return wait.await;
        };
        let mut wait = std::pin::pin!(wait);
        if let Ok(done) = tokio::time::timeout_at(end, &mut wait).await {
            return done;
        }
        *patience = None;
        self.tell(self.failed(&missing));
        wait.await
    }

    /// Watches a mount until it is lost. A directory that comes and goes is only told of: the mount shows what there is.
    async fn hold(&self, live: &mut dyn Live, directory: &mut Directory) -> MountError {
        loop {
            tokio::select! {
                why = live.ended() => return why,
                is_there = directory.changed() => self.tell(if is_there {
                    MountState::Mounted
                } else {
                    self.failed(&MountError::Missing(self.share.directory.clone()))
                }),
            }
        }
    }

    fn failed(&self, why: &MountError) -> MountState {
        let from = self.share.directory.display();
        let beginning = failure_of(&self.share.point);
        MountState::Failed(format!("{beginning} (of {from}): {}", chain(why)))
    }

    fn tell(&self, state: MountState) {
        self.state.send_if_modified(|known| {
            let changed = *known != state;
            *known = state;
            changed
        });
    }
}

/// Pauses between attempts.
#[derive(Debug)]
struct Pauses(Duration);

impl Default for Pauses {
    fn default() -> Self {
        Self(PAUSES.0)
    }
}

impl Pauses {
    fn next(&mut self) -> Duration {
        let now = self.0;
        self.0 = PAUSES.1.min(now * 2);
        now
    }
}

/// How every [`MountState::Failed`] of a share begins.
#[must_use]
pub fn failure_of(point: &str) -> String {
    format!("mount {point:?} does not work")
}
