//! Ctrl-C and its relatives, for commands that must clean up before they end.

use std::time::Duration;

use anyhow::Context as _;

use crate::sys;

/// The person, or the system, asked this program to end.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("interrupted")]
pub(crate) struct Interrupted;

/// Threads that wait for a server may outlive the program's end by this.
const STRAGGLERS: Duration = Duration::from_millis(100);

/// Runs the asynchronous part of a command on one thread.
pub(crate) fn run<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(4)
        .build()
        .context("cannot start the asynchronous runtime")?;
    let result = runtime.block_on(work);
    runtime.shutdown_timeout(STRAGGLERS);
    result
}

/// Runs to the end, or up to the first signal: then the work is dropped, which undoes what is half done.
pub(crate) async fn unless_interrupted<T>(
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let interrupted = sys::wait_for_interrupt().context("cannot take over signals")?;
    tokio::select! {
        result = work => result,
        () = interrupted => Err(Interrupted.into()),
    }
}
