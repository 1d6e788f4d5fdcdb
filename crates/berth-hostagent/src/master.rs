//! The owner of the OpenSSH ControlMaster: our child, started when the guest can take a login, started again when it dies.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use berth_ssh::login::LoginError;
use berth_ssh::master::{Master, MasterError};
use berth_ssh::session::Session;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::guest::GuestView;

/// Whether there is a login.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MasterState {
    /// No login yet, or not any more.
    Down {
        /// Why the last attempt failed or the last master ended.
        why: Option<String>,
        /// The guest refuses our key: trying again will not help by itself.
        refused: bool,
    },
    /// `ssh.sock` takes commands.
    Up {
        /// Counts masters from 1.
        generation: u64,
    },
}

/// A login that takes longer is given up (TCG on a busy machine takes seconds).
const LOGIN: Duration = Duration::from_secs(60);
/// Less than sshd's patience with who does not log in (`LoginGraceTime`, 120 s): it punishes addresses that it had to cut off.
const EARLY_LOGIN: Duration = Duration::from_secs(90);
/// First and longest wait between attempts; no event tells when sshd of a foreign guest changes its mind.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// How long one round of probing goes on before what it found is reported.
const FIRST_LOGIN: Duration = Duration::from_secs(600);
/// A guest with our agent that has not answered for so long is tried over SSH anyway.
const AGENT_PATIENCE: Duration = Duration::from_secs(60);

/// A handle to the owner task.
#[derive(Debug, Clone)]
pub struct MasterHandle {
    /// Its state.
    pub state: watch::Receiver<MasterState>,
    stop: CancellationToken,
    stopped: CancellationToken,
}

impl MasterHandle {
    /// Ends the master (`ssh -O exit`, then a signal) and waits for it.
    pub async fn stop(&self) {
        self.stop.cancel();
        self.stopped.cancelled().await;
    }

    /// Whether there is a login now.
    #[must_use]
    pub fn is_up(&self) -> bool {
        matches!(*self.state.borrow(), MasterState::Up { .. })
    }

    /// Starts the owner task. `guest` is `None` for guests without our agent. With `early_key`, a private key, a login may begin
    /// before the guest lets anybody in.
    pub(crate) fn start(
        session: Arc<Session>,
        early_key: Option<PathBuf>,
        guest: Option<watch::Receiver<GuestView>>,
        tasks: &crate::agent::Tasks,
    ) -> Self {
        let (state_out, state) = watch::channel(MasterState::Down {
            why: None,
            refused: false,
        });
        let (stop, stopped) = (CancellationToken::new(), CancellationToken::new());
        let owner = Owner {
            session,
            early_key,
            guest,
            state: state_out,
            stop: stop.clone(),
        };
        let done = stopped.clone().drop_guard();
        tasks.tracker.spawn(async move {
            Box::pin(owner.run()).await;
            drop(done);
        });
        Self {
            state,
            stop,
            stopped,
        }
    }
}

/// Resolves when our guest agent has told of it; never without such an agent.
async fn told_by_agent(
    guest: Option<watch::Receiver<GuestView>>,
    what: impl FnMut(&GuestView) -> bool,
) {
    if let Some(mut view) = guest
        && view.wait_for(what).await.is_ok()
    {
        return;
    }
    std::future::pending::<()>().await;
}

/// Why an attempt ended without a login.
#[derive(Debug, thiserror::Error)]
enum NoLogin {
    #[error(transparent)]
    Probe(#[from] LoginError),
    #[error(transparent)]
    Master(#[from] MasterError),
}

impl NoLogin {
    fn is_refused(&self) -> bool {
        matches!(self, Self::Master(why) if why.is_refused())
    }
}

struct Owner {
    session: Arc<Session>,
    early_key: Option<PathBuf>,
    guest: Option<watch::Receiver<GuestView>>,
    state: watch::Sender<MasterState>,
    stop: CancellationToken,
}

impl Owner {
    async fn run(mut self) {
        let mut wait = FIRST_WAIT;
        let mut generation = 0;
        let stop = self.stop.clone();
        loop {
            let attempt = stop.run_until_cancelled(Box::pin(self.log_in())).await;
            let failure = match attempt {
                None => return,
                Some(Ok(master)) => {
                    generation += 1;
                    wait = FIRST_WAIT;
                    tracing::info!(generation, "logged in over ssh");
                    self.state.send_replace(MasterState::Up { generation });
                    let Some(why) = self.hold(master).await else {
                        return;
                    };
                    tracing::warn!(why, "the ssh master ended; starting another");
                    (why, false)
                }
                Some(Err(why)) => {
                    let refused = why.is_refused();
                    let text = crate::error::chain(&why);
                    tracing::debug!(why = text, "ssh login failed");
                    (text, refused)
                }
            };
            self.state.send_replace(MasterState::Down {
                why: Some(failure.0),
                refused: failure.1,
            });
            if stop.run_until_cancelled(self.pause(wait)).await.is_none() {
                return;
            }
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }

    /// Waits until a login can succeed, then starts a master. Where OpenSSH has none, one login is tried, and every command makes
    /// its own.
    async fn log_in(&mut self) -> Result<Option<Master>, NoLogin> {
        let probed = async {
            if self.guest.is_some() {
                tokio::time::sleep(AGENT_PATIENCE).await;
            }
            self.session.first_login(FIRST_LOGIN).await
        };
        tokio::select! {
            // Whatever the probe has found out by then, the agent knows better.
            biased;
            early = self.agent_lets_in() => if let Some(master) = early {
                return Ok(Some(master));
            },
            result = probed => result?,
        }
        if self.session.control_path().is_none() {
            self.session.first_login(FIRST_LOGIN).await?;
            return Ok(None);
        }
        Ok(Some(Master::start(&self.session, LOGIN).await?))
    }

    /// Waits until the guest's agent says that a login can succeed. When sshd answers before that, the login is begun then, and
    /// is all but done when people are let in.
    async fn agent_lets_in(&self) -> Option<Master> {
        let login_possible = || told_by_agent(self.guest.clone(), GuestView::login_possible);
        if let Some(key) = &self.early_key {
            tokio::select! {
                biased;
                () = login_possible() => return None,
                () = told_by_agent(self.guest.clone(), GuestView::login_may_begin) => {}
            }
            match Master::start_early(&self.session, key, EARLY_LOGIN, login_possible()).await {
                Ok(master) => {
                    tracing::info!("the login began before the guest let people in");
                    return Some(master);
                }
                Err(why) => {
                    let why = crate::error::chain(&why);
                    tracing::debug!(why, "the login that began early came to nothing");
                }
            }
        }
        login_possible().await;
        None
    }

    /// Holds a master until it ends by itself (and says why), or ends it when asked. Nothing tells when logins stop to work
    /// without one.
    async fn hold(&self, master: Option<Master>) -> Option<String> {
        let Some(mut master) = master else {
            self.stop.cancelled().await;
            return None;
        };
        let ended = self.stop.run_until_cancelled(master.ended()).await;
        if ended.is_none()
            && let Err(why) = master.stop().await
        {
            tracing::warn!(
                error = crate::error::chain(&why),
                "the ssh master did not end well"
            );
        }
        ended
    }

    /// Waits before the next attempt; news from the guest cut it short.
    async fn pause(&mut self, wait: Duration) {
        let news = async {
            match &mut self.guest {
                // The sender is gone only when the agent stops.
                Some(view) => drop(view.changed().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = news => tokio::time::sleep(FIRST_WAIT.min(wait)).await,
        }
    }
}
