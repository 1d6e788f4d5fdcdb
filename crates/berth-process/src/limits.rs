//! Limits of this process.

use crate::sys;

/// Raises the soft limit on open files to the hard one: every forwarded connection needs two.
///
/// A refusal is logged, not returned: the agent works with fewer, and says so when they run out. Returns the limit now in
/// force; `None` where the system has none.
pub fn raise_open_files() -> Option<u64> {
    match sys::raise_open_files() {
        Ok(limit) => limit,
        Err(why) => {
            tracing::warn!(error = %why, "cannot raise the limit on open files");
            None
        }
    }
}
