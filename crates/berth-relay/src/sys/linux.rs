//! What only Linux does.

mod allocator;
mod pktinfo;
mod splice;

pub(crate) use allocator::give_memory_back;
pub(crate) use pktinfo::{receive, send, tell_destination};
pub(crate) use splice::{close_spare, move_between};
