//! The guest's end of the link: the port, the notice board that the host reads, and the host's requests.
//!
//! [`open_port`], a [`Board`] and [`Duties`] make a [`serve()`]. While no host is there, the agent sleeps until the port says
//! otherwise; what happens meanwhile is on the board for the next session.

mod board;
mod duties;
mod port;
mod ports;
mod reverse;
mod serve;
mod talk;

pub use board::{Board, GuestIdentity};
pub use duties::Duties;
pub use port::{Port, PortError, VsockListener, open_port, ring_over_vsock};
pub use reverse::ReverseOpener;
pub use serve::{Arrival, serve, serve_carrier};
