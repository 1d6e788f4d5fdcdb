//! Ports and sockets of the guest on the host, and the other way round, through the built program.

pub(crate) mod expectations;
pub(crate) mod guest_end;
mod host_ports;
pub(crate) mod patience;
mod port_events;
pub(crate) mod table;
mod talk;

mod contention;
mod faults;
mod load;
mod over_ssh;
mod programs;
mod rules;
