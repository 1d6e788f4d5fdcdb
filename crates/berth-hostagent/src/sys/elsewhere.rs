//! Where nothing tells of jumps of the clock: they are found when drift is looked for.

/// Never wakes.
#[derive(Debug)]
pub(crate) struct ClockWatch;

impl ClockWatch {
    pub(crate) fn new() -> Self {
        Self
    }

    /// Waits for a jump that nobody tells of.
    #[allow(clippy::unused_async, reason = "elsewhere it waits")]
    pub(crate) async fn changed(&mut self) {
        std::future::pending().await
    }
}
