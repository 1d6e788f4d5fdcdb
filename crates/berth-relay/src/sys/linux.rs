//! What only Linux does.

mod allocator;
mod pacing;
mod pipe;
mod pktinfo;
mod splice;

pub(crate) use allocator::give_memory_back;
pub use pacing::send_unpaced;
pub use pipe::Pipe;
pub(crate) use pipe::close_spare;
pub(crate) use pktinfo::{receive, send, tell_destination};
pub(crate) use splice::move_between;
