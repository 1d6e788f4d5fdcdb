//! Tasks that end together, with whatever they serve.

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Tasks, and what ends them: [`Tasks::end`] in order, or being dropped.
#[derive(Debug, Default)]
pub(crate) struct Tasks {
    tracker: TaskTracker,
    cancel: CancellationToken,
}

impl Tasks {
    /// For those who spawn by themselves.
    pub(crate) fn tracker(&self) -> &TaskTracker {
        &self.tracker
    }

    /// Tells those that they are to end.
    pub(crate) fn cancellation(&self) -> CancellationToken {
        self.cancel.clone()
    }

    /// Runs a task until it is to end.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let cancel = self.cancellation();
        self.tracker.spawn(async move {
            cancel.run_until_cancelled(task).await;
        });
    }

    /// Ends all of them, and waits for that.
    pub(crate) async fn end(&self) {
        self.cancel.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}
