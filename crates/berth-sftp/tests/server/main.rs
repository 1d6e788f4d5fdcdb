//! The server from the outside: a client of raw packets, and programs of others.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod client;
mod confinement;
mod conformance;
mod disks;
mod endless;
mod limits;
mod program;
mod random;
mod special;
mod streams;
