//! The name server as a guest meets it: record types, transports, and upstream servers that behave as servers do.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod authority;
mod behaviour;
mod client;
mod following;
mod lab;
mod load;
mod policy;
mod upstream;
