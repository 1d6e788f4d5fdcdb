//! An SFTP server (version 3) that is confined to one shared directory, for the `sshfs` of a guest.
//!
//! The client is hostile. Whatever path it names is resolved beneath the shared directory, read-only is enforced here and not in the
//! guest, and memory, handles and threads are bounded however it behaves.
//!
//! | module | owns |
//! |---|---|
//! | [`share`] | what is shared, and how much a client may ask for |
//! | [`serve`](mod@serve) | the way in |
//! | `descriptors` | a pair of descriptors as a stream |
//! | `session` | a client's stream: what is answered at once, what by a thread |
//! | `workers` | the threads that wait for disks |
//! | `order` | which requests may overtake which |
//! | `operation` | a request with its handles looked up |
//! | `desk` | requests carried out |
//! | `tree` | finding what is beneath the shared directory |
//! | `handles` | what a client has open |
//! | `path` | what a client's path means |
//! | `outbox` | replies on their way out |
//! | `wire` | the protocol's bytes |
//! | `sys` | what depends on the operating system |

#[cfg(unix)]
pub mod descriptors;
pub mod serve;
pub mod share;

#[cfg(unix)]
mod desk;
#[cfg(unix)]
mod handles;
#[cfg(unix)]
mod operation;
#[cfg(unix)]
mod order;
#[cfg(unix)]
mod outbox;
#[cfg(unix)]
mod path;
#[cfg(unix)]
mod session;
#[cfg(unix)]
mod sys;
#[cfg(unix)]
mod tree;
#[cfg(unix)]
mod wire;
#[cfg(unix)]
mod workers;

#[doc(hidden)]
pub use serve::serve_walking;
pub use serve::{Ended, ServeError, Violation, serve};
pub use share::{Caller, Limits, Share};
