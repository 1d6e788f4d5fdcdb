//! Pipes: the host's directories in the guest.
//!
//! Each share has an owner task (`owner`), which brings the mount up, watches it, and brings it up again when it is lost: the
//! link or the guest may go and come back at any time. What it does is published as a [`MountState`]; nobody else keeps a copy.
//!
//! | module | owns |
//! |---|---|
//! | [`share`] | what is shared, and how |
//! | [`server`] | who serves SFTP for it |
//! | [`way`] | the ways to have the guest mount it: streams of the guest link, or `ssh` |
//! | `owner` | one share's life |
//! | [`events`] | file events: telling the guest what changes in a share |
//! | [`mounts`] | all of an instance's shares: order, start, stop |
//! | `directory` | whether the shared directory is there |

mod directory;
pub mod error;
pub mod events;
pub mod mounts;
mod owner;
pub mod server;
pub mod share;
mod sys;
pub mod way;

pub use error::MountError;
pub use mounts::{MountState, Mounts, MountsHandle};
pub use owner::failure_of;
pub use share::Share;
