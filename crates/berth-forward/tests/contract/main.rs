//! The forwards of an instance, from the host's side: real sockets of this machine, and a guest that is a value.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod binding;
mod carrying;
mod conflicts;
mod property;
mod reverse;
mod sockets;
mod ssh;
mod support;
mod telling;
