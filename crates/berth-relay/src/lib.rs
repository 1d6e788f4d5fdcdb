//! Shared plumbing: what lies between a socket and a stream through the guest link, in the host's listeners and in the guest's
//! tunnels.
//!
//! | module | owns |
//! |---|---|
//! | [`mod@join`] | one connection: bytes both ways, half-close, reset, back-pressure |
//! | [`local`] | the socket on this side, TCP or unix |
//! | [`remote`] | the stream to the other end |
//! | [`carrier`] | what carries everything between the two agents |
//! | [`Pipe`] | moving bytes between sockets without a copy in this process |
//! | [`tally`] | what went through, for whoever shows it |
//! | [`accept`] | taking connections, whatever happens |
//! | [`udp`] | flows of datagrams, one stream for each client |
//! | `buffers` | the buffers that busy connections share |

pub mod accept;
mod buffers;
pub mod carrier;
pub mod join;
pub mod local;
pub mod remote;
mod sys;
pub mod tally;
pub mod udp;

pub use carrier::Carrier;
pub use join::{RelayError, join, join_sockets};
pub use local::LocalSocket;
pub use local::poll_socket::PollSocket;
pub use remote::{Copied, RemoteStream};
pub use sys::Pipe;
#[cfg(target_os = "linux")]
pub use sys::send_unpaced;
pub use tally::{Tally, Traffic};
