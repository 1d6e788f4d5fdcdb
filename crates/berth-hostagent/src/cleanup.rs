//! The cleanup stack: what was set up is taken down in reverse order, nothing is skipped, nothing registered late is lost.

use std::fmt;
use std::pin::Pin;
use std::sync::Mutex;
use std::time::Duration;

use tokio::sync::watch;

type Work = Box<dyn FnOnce() -> Pin<Box<dyn Future<Output = Result<(), String>> + Send>> + Send>;

/// One thing to take down.
struct Cleanup {
    name: String,
    deadline: Duration,
    work: Work,
}

/// Everything that must be taken down when the agent stops.
///
/// Cleanups run last in, first out, each within its own deadline. A cleanup registered while the stack is being taken down runs
/// in the same pass; one registered after that is taken down by the next [`Cleanups::run_all`], which the agent calls once more
/// when no task is left that could register anything.
#[derive(Default)]
pub struct Cleanups {
    stack: Mutex<Vec<Cleanup>>,
}

impl fmt::Debug for Cleanups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stack = self.lock();
        f.debug_list()
            .entries(stack.iter().map(|c| &c.name))
            .finish()
    }
}

/// How long a cleanup may still take once somebody is in a hurry.
const HURRIED: Duration = Duration::from_secs(1);

impl Cleanups {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Cleanup>> {
        // A panic while the lock is held cannot leave the vector half changed.
        self.stack
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Registers what to do at the end. `name` stands in error messages.
    pub fn register<F, R>(&self, name: impl Into<String>, deadline: Duration, work: F)
    where
        F: FnOnce() -> R + Send + 'static,
        R: Future<Output = Result<(), String>> + Send + 'static,
    {
        self.lock().push(Cleanup {
            name: name.into(),
            deadline,
            work: Box::new(move || Box::pin(work())),
        });
    }

    /// Runs everything registered so far, and what is registered meanwhile, and returns every error.
    ///
    /// When `hurry` turns true, the cleanup under way and each one after it get one second.
    pub async fn run_all(&self, mut hurry: watch::Receiver<bool>) -> Vec<String> {
        let mut errors = Vec::new();
        loop {
            let Some(cleanup) = self.lock().pop() else {
                return errors;
            };
            let Cleanup {
                name,
                deadline,
                work,
            } = cleanup;
            tracing::debug!(cleanup = name, "taking down");
            let limit = async {
                tokio::select! {
                    () = tokio::time::sleep(deadline) => deadline,
                    () = hurried(&mut hurry) => {
                        tokio::time::sleep(HURRIED.min(deadline)).await;
                        HURRIED.min(deadline)
                    }
                }
            };
            tokio::select! {
                biased;
                result = work() => if let Err(why) = result {
                    errors.push(format!("{name}: {why}"));
                },
                waited = limit => errors.push(format!("{name}: not done after {} s", waited.as_secs())),
            }
        }
    }
}

/// Resolves once `hurry` is true; never if its sender is gone.
pub(crate) async fn hurried(hurry: &mut watch::Receiver<bool>) {
    if hurry.wait_for(|&now| now).await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn log() -> (Arc<Mutex<Vec<&'static str>>>, Cleanups) {
        (Arc::default(), Cleanups::default())
    }

    #[tokio::test]
    async fn runs_in_reverse_and_keeps_every_error() {
        let (seen, cleanups) = log();
        for (name, result) in [
            ("first", Ok(())),
            ("second", Err("broken".to_owned())),
            ("third", Ok(())),
        ] {
            let seen = Arc::clone(&seen);
            cleanups.register(name, Duration::from_secs(9), move || async move {
                seen.lock().unwrap().push(name);
                result
            });
        }
        let (_tx, hurry) = watch::channel(false);
        let errors = cleanups.run_all(hurry).await;
        assert_eq!(*seen.lock().unwrap(), ["third", "second", "first"]);
        assert_eq!(errors, ["second: broken"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stuck_cleanup_does_not_hold_up_the_others() {
        let (seen, cleanups) = log();
        let after = Arc::clone(&seen);
        cleanups.register("after", Duration::from_secs(5), move || async move {
            after.lock().unwrap().push("after");
            Ok(())
        });
        cleanups.register("stuck", Duration::from_secs(7), std::future::pending);
        let (_tx, hurry) = watch::channel(false);
        let errors = cleanups.run_all(hurry).await;
        assert_eq!(errors, ["stuck: not done after 7 s"]);
        assert_eq!(*seen.lock().unwrap(), ["after"]);
    }

    #[tokio::test(start_paused = true)]
    async fn hurry_shortens_the_wait() {
        let (_, cleanups) = log();
        cleanups.register("stuck", Duration::from_secs(3600), std::future::pending);
        let (tx, hurry) = watch::channel(false);
        let begin = tokio::time::Instant::now();
        let (errors, ()) = tokio::join!(cleanups.run_all(hurry), async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            tx.send(true).unwrap();
        });
        assert_eq!(errors, ["stuck: not done after 1 s"]);
        assert_eq!(begin.elapsed().as_secs(), 3);
    }

    #[tokio::test]
    async fn what_is_registered_while_taking_down_still_runs() {
        let (seen, cleanups) = log();
        let cleanups = Arc::new(cleanups);
        let (again, late) = (Arc::clone(&cleanups), Arc::clone(&seen));
        cleanups.register("early", Duration::from_secs(9), move || async move {
            again.register("late", Duration::from_secs(9), move || async move {
                late.lock().unwrap().push("late");
                Ok(())
            });
            Ok(())
        });
        let (_tx, hurry) = watch::channel(false);
        assert!(cleanups.run_all(hurry).await.is_empty());
        assert_eq!(*seen.lock().unwrap(), ["late"]);
    }
}
