//! Lanes: further carriers of the link, for connections only.
//!
//! What goes through one carrier waits for what is in it already, and one thread moves it. So connections get carriers of their
//! own where the driver has some, with a thread at each end: bulk in one delays neither a connection in another nor the talk of
//! the agents. A lane greets and multiplexes as the first carrier does, and carries no control stream. It is up only while the
//! link is; without lanes, everything goes through the first carrier.

/// The most lanes that a link has.
pub const MOST: usize = 4;

/// The virtio-serial port of a lane, counted from 1.
#[must_use]
pub fn port_name(lane: usize) -> String {
    format!("io.berth.lane.{lane}")
}
