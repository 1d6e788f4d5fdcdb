//! The runtime: one thread, and small ones beside it for what may block.

use std::io;

use tokio::runtime::{Builder, Runtime};

/// Enough for a system call. The usual 2 MiB would stay with the agent once a thread was used: the kernel may back them with one
/// huge page.
const STACK: usize = 128 * 1024;

/// Makes the runtime of a command.
pub(crate) fn new() -> io::Result<Runtime> {
    Builder::new_current_thread()
        .enable_all()
        .thread_stack_size(STACK)
        .max_blocking_threads(2)
        .build()
}
