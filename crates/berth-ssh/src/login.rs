//! Waiting for the first login of a guest that has no agent to tell when it is ready.
//!
//! An attempt is cheap at first: a TCP connection that waits for sshd's banner. Only then is `ssh` started. Two attempts may be
//! under way at once, since a connection that was made before the guest listened can hang while a new one would succeed.

use std::time::Duration;

use berth_process::escape::escape_untrusted_lines;
use berth_process::exit::Exit;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep_until, timeout};

use crate::banner::{Banner, read_banner};
use crate::exec::{ExecError, SSH_FAILED, Script};
use crate::session::{Session, Via};

/// How long an attempt waits for the banner, and the first one for the login.
const ATTEMPT: Duration = Duration::from_secs(3);
/// How long a login may take at most: an emulated machine computes keys for seconds. Each that ran out of time doubles it.
const LONGEST_LOGIN: Duration = Duration::from_secs(24);
/// When an attempt has been silent for so long, a second one joins it.
const SECOND_AFTER: Duration = Duration::from_millis(1500);
/// First and longest wait after a failure.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// Wait after a refused key: sshd locks out who fails too often (`PerSourcePenalties` counts five seconds for each).
const REFUSED_WAIT: Duration = Duration::from_secs(5);

/// How far an attempt came, from the least to the most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stage {
    /// Nobody listens.
    Refused(String),
    /// Somebody accepts, and no sshd answers: the guest's network or sshd is not up.
    NoBanner(String),
    /// sshd has said who it is; the login did not end.
    Banner {
        /// Its identification (`SSH-2.0-OpenSSH_9.2p1`), escaped.
        banner: String,
        /// Why the login failed, escaped.
        why: String,
    },
    /// sshd's host key is not the pinned one.
    WrongHostKey(String),
    /// sshd refuses the key.
    KeyRefused(String),
}

/// No login in time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no login within {} s: {stage}", .limit.as_secs())]
pub struct LoginError {
    /// How far the last attempt came.
    pub stage: Stage,
    /// How long was waited.
    pub limit: Duration,
}

impl std::fmt::Display for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(why) => write!(f, "nobody listens ({why})"),
            Self::NoBanner(why) => write!(f, "connected, but no sshd answers ({why})"),
            Self::Banner { banner, why } => {
                write!(
                    f,
                    "sshd answers ({banner}), but the login does not end: {why}"
                )
            }
            Self::WrongHostKey(why) => {
                write!(
                    f,
                    "sshd shows another host key than the one handed to the guest: {why}"
                )
            }
            Self::KeyRefused(why) => write!(f, "sshd refuses the user's key: {why}"),
        }
    }
}

impl Stage {
    /// Reads from `ssh`'s own messages why a login failed after the banner.
    pub(crate) fn of_failed_ssh(banner: String, stderr: &[u8]) -> Self {
        let why = escape_untrusted_lines(stderr.trim_ascii());
        if why.contains("Host key verification failed") {
            Self::WrongHostKey(why)
        } else if why.contains("Permission denied (")
            || why.contains("Too many authentication failures")
        {
            Self::KeyRefused(why)
        } else {
            Self::Banner { banner, why }
        }
    }
}

/// An attempt that came to nothing.
struct Failure {
    stage: Stage,
    out_of_time: bool,
}

impl From<Stage> for Failure {
    fn from(stage: Stage) -> Self {
        Self {
            stage,
            out_of_time: false,
        }
    }
}

impl Session {
    /// Tries to log in until it works or `limit` is over. Dropping the future ends every attempt.
    pub async fn first_login(&self, limit: Duration) -> Result<(), LoginError> {
        self.first_login_telling(limit, |_| {}).await
    }

    /// The same, and tells how far each attempt came that did not log in.
    pub async fn first_login_telling(
        &self,
        limit: Duration,
        mut tell: impl FnMut(&Stage),
    ) -> Result<(), LoginError> {
        let give_up = Instant::now() + limit;
        let mut attempts = FuturesUnordered::new();
        let mut next = Instant::now();
        let mut wait = FIRST_WAIT;
        let mut patience = ATTEMPT;
        let mut reached = Stage::NoBanner("no attempt has ended yet".to_owned());
        loop {
            tokio::select! {
                () = sleep_until(give_up) => return Err(LoginError { stage: reached, limit }),
                () = sleep_until(next), if attempts.len() < 2 => {
                    attempts.push(self.attempt(patience));
                    next = Instant::now() + SECOND_AFTER;
                }
                Some(outcome) = attempts.next() => {
                    let Err(failure) = outcome else { return Ok(()) };
                    tracing::debug!(stage = %failure.stage, "no login yet");
                    tell(&failure.stage);
                    if failure.out_of_time && matches!(failure.stage, Stage::Banner { .. }) {
                        patience = (patience * 2).min(LONGEST_LOGIN);
                    }
                    next = Instant::now() + match failure.stage {
                        Stage::KeyRefused(_) => REFUSED_WAIT,
                        _ => wait,
                    };
                    wait = (wait * 2).min(LONGEST_WAIT);
                    reached = failure.stage;
                }
            }
        }
    }

    async fn attempt(&self, patience: Duration) -> Result<(), Failure> {
        let banner = match timeout(ATTEMPT, read_banner(self.address())).await {
            Ok(Banner::Seen(banner)) => banner,
            Ok(Banner::Refused(why)) => return Err(Stage::Refused(why).into()),
            Ok(Banner::Missing(why)) => return Err(Stage::NoBanner(why).into()),
            Err(_) => {
                let stage = Stage::NoBanner(format!("silent for {} s", ATTEMPT.as_secs()));
                return Err(Failure {
                    stage,
                    out_of_time: true,
                });
            }
        };
        let script = Script::new("#!/bin/sh\nexit 0\n");
        match self.run_via(Via::Own, &script, patience).await {
            Ok(output) if output.exit != Exit::Status(SSH_FAILED) => Ok(()),
            Ok(output) => Err(Stage::of_failed_ssh(banner, &output.stderr).into()),
            Err(why) => {
                let out_of_time = matches!(why, ExecError::TimedOut { .. });
                let stage = Stage::Banner {
                    banner,
                    why: why.to_string(),
                };
                Err(Failure { stage, out_of_time })
            }
        }
    }
}
