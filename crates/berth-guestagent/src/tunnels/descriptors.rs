//! The limit of open files.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::MOST_FLOWS;

/// Files that are enough: one for each flow, and as many again for everything else.
///
/// Not more, even where the kernel allows millions: the programs that the agent starts inherit it, and some of them walk through all
/// that could be open.
const ENOUGH: u64 = 2 * MOST_FLOWS as u64;

/// Allows as many open files as flows may need, as far as the hard limit lets it.
pub(super) fn raise_limit() -> io::Result<()> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.map_or(ENOUGH, |maximum| maximum.min(ENOUGH));
    if current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    let raised = Rlimit {
        current: Some(wanted),
        maximum,
    };
    setrlimit(Resource::Nofile, raised)?;
    Ok(())
}
