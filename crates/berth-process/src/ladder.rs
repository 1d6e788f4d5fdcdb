//! Stopping a process, rung by rung: ask, wait, insist.

use std::pin::Pin;
use std::time::Duration;

use tokio::sync::watch;

use crate::exit::{Exit, gone};

/// What a rung does; its error says why it could not, in words.
pub type Action<'a> = Pin<Box<dyn Future<Output = Result<(), String>> + Send + 'a>>;

/// One way to make a process end, and how long it may take.
pub struct Rung<'a> {
    name: &'static str,
    wait: Duration,
    action: Action<'a>,
}

impl std::fmt::Debug for Rung<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rung")
            .field("name", &self.name)
            .field("wait", &self.wait)
            .finish_non_exhaustive()
    }
}

impl<'a> Rung<'a> {
    /// Describes a rung. `wait` counts from the beginning of the action; zero skips the rung.
    pub fn new(
        name: &'static str,
        wait: Duration,
        action: impl Future<Output = Result<(), String>> + Send + 'a,
    ) -> Self {
        Self {
            name,
            wait,
            action: Box::pin(action),
        }
    }
}

/// How far down it went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Landing {
    /// The rung during which the process ended; `None`: it was gone already.
    pub rung: Option<&'static str>,
    /// How it ended.
    pub exit: Exit,
    /// Rungs whose action failed, each with the reason.
    pub failures: Vec<String>,
}

/// The process is alive after the last rung.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the process is still alive after {rungs}{}", failed(.failures))]
pub struct StillAlive {
    /// The rungs tried, with their waits: `system_powerdown (180 s), SIGKILL (10 s)`.
    pub rungs: String,
    /// Rungs whose action failed, each with the reason.
    pub failures: Vec<String>,
}

fn failed(failures: &[String]) -> String {
    if failures.is_empty() {
        String::new()
    } else {
        format!("; {}", failures.join("; "))
    }
}

/// Goes down the ladder until the process is gone.
///
/// A rung whose action fails is left at once. When `hurry` turns true, everything between is skipped and the last rung is
/// taken.
///
/// # Errors
/// [`StillAlive`] when the last rung's wait is over.
pub async fn descend(
    mut exit: watch::Receiver<Option<Exit>>,
    mut hurry: watch::Receiver<bool>,
    mut rungs: Vec<Rung<'_>>,
) -> Result<Landing, StillAlive> {
    let mut failures = Vec::new();
    let mut tried = Vec::new();
    let already = *exit.borrow();
    if let Some(exit) = already {
        return Ok(Landing {
            rung: None,
            exit,
            failures,
        });
    }
    rungs.retain(|rung| !rung.wait.is_zero());
    let last = rungs.len().saturating_sub(1);
    for (i, rung) in rungs.into_iter().enumerate() {
        let is_last = i == last;
        if *hurry.borrow() && !is_last {
            continue;
        }
        tried.push(format!("{} ({} s)", rung.name, rung.wait.as_secs_f64()));
        tokio::select! {
            biased;
            exit = gone(&mut exit) => return Ok(Landing { rung: Some(rung.name), exit, failures }),
            why = failure(rung.action) => failures.push(format!("{}: {why}", rung.name)),
            () = hurried(&mut hurry), if !is_last => continue,
            () = tokio::time::sleep(rung.wait) => continue,
        }
        // The action failed. Nothing but the last rung is worth waiting for all the same.
        if is_last && let Ok(exit) = tokio::time::timeout(rung.wait, gone(&mut exit)).await {
            return Ok(Landing {
                rung: Some(rung.name),
                exit,
                failures,
            });
        }
    }
    Err(StillAlive {
        rungs: tried.join(", "),
        failures,
    })
}

/// Carries an action out; ends only if it fails.
async fn failure(action: Action<'_>) -> String {
    match action.await {
        Ok(()) => std::future::pending().await,
        Err(why) => why,
    }
}

/// Waits until somebody is in a hurry; for ever when nobody can be any more.
async fn hurried(hurry: &mut watch::Receiver<bool>) {
    if hurry.wait_for(|&hurry| hurry).await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(999);
    const SHORT: Duration = Duration::from_millis(1);
    const KILLED: Exit = Exit::Signal {
        number: 9,
        core_dumped: false,
    };

    /// A process that ends when told to, and records what was done to it.
    struct Patient {
        exit: watch::Sender<Option<Exit>>,
        done: std::sync::Mutex<Vec<&'static str>>,
    }

    impl Patient {
        fn new() -> Self {
            Self {
                exit: watch::Sender::new(None),
                done: std::sync::Mutex::default(),
            }
        }

        fn rung(
            &self,
            name: &'static str,
            wait: Duration,
            result: Result<Option<Exit>, &str>,
        ) -> Rung<'_> {
            let result = result.map_err(str::to_owned);
            Rung::new(name, wait, async move {
                self.done.lock().unwrap().push(name);
                result.map(|exit| {
                    self.exit.send_replace(exit);
                })
            })
        }

        async fn descend(&self, hurry: bool, rungs: Vec<Rung<'_>>) -> Result<Landing, StillAlive> {
            let (_keep, hurry) = watch::channel(hurry);
            descend(self.exit.subscribe(), hurry, rungs).await
        }
    }

    #[tokio::test]
    async fn the_first_rung_that_works_is_the_last_taken() {
        let vm = Patient::new();
        let rungs = vec![
            vm.rung("ask", SHORT, Ok(None)),
            vm.rung("insist", LONG, Ok(Some(KILLED))),
            vm.rung("kill", LONG, Ok(None)),
        ];
        let landing = vm.descend(false, rungs).await.unwrap();
        assert_eq!((landing.rung, landing.exit), (Some("insist"), KILLED));
        assert_eq!(*vm.done.lock().unwrap(), ["ask", "insist"]);
    }

    #[tokio::test]
    async fn a_process_that_is_gone_is_left_alone() {
        let vm = Patient::new();
        vm.exit.send_replace(Some(Exit::Status(0)));
        let landing = vm
            .descend(false, vec![vm.rung("ask", LONG, Ok(None))])
            .await
            .unwrap();
        assert_eq!((landing.rung, landing.exit), (None, Exit::Status(0)));
        assert!(vm.done.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_failed_action_is_not_waited_for() {
        let vm = Patient::new();
        let rungs = vec![
            vm.rung("ask", LONG, Err("the monitor is gone")),
            vm.rung("kill", LONG, Ok(Some(KILLED))),
        ];
        let landing = vm.descend(false, rungs).await.unwrap();
        assert_eq!(landing.rung, Some("kill"));
        assert_eq!(landing.failures, ["ask: the monitor is gone"]);
    }

    #[tokio::test]
    async fn haste_goes_to_the_bottom_and_skips_what_is_switched_off() {
        let vm = Patient::new();
        let rungs = vec![
            vm.rung("ask", LONG, Ok(None)),
            vm.rung("kill", LONG, Ok(Some(KILLED))),
            vm.rung("off", Duration::ZERO, Ok(None)),
        ];
        let landing = vm.descend(true, rungs).await.unwrap();
        assert_eq!(landing.rung, Some("kill"));
        assert_eq!(*vm.done.lock().unwrap(), ["kill"]);
    }

    #[tokio::test]
    async fn haste_that_comes_later_ends_the_waiting() {
        let vm = Patient::new();
        let (ask, hurry) = watch::channel(false);
        let rungs = vec![
            Rung::new("ask", LONG, async {
                ask.send_replace(true);
                Ok(())
            }),
            vm.rung("kill", LONG, Ok(Some(KILLED))),
        ];
        let landing = descend(vm.exit.subscribe(), hurry, rungs).await.unwrap();
        assert_eq!(landing.rung, Some("kill"));
    }

    #[tokio::test]
    async fn what_survives_everything_is_reported_with_everything() {
        let vm = Patient::new();
        let rungs = vec![
            vm.rung("ask", SHORT, Ok(None)),
            vm.rung("kill", SHORT, Err("not permitted")),
        ];
        let why = vm.descend(false, rungs).await.unwrap_err();
        assert_eq!(
            why.to_string(),
            "the process is still alive after ask (0.001 s), kill (0.001 s); kill: not permitted"
        );
    }

    #[tokio::test]
    async fn without_rungs_nothing_is_tried() {
        assert!(Patient::new().descend(false, Vec::new()).await.is_err());
    }
}
