//! The name server as a guest meets it: record types, transports, and upstream servers that behave as servers do.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[cfg(unix)]
mod authority;
mod behaviour;
mod client;
mod following;
mod lab;
mod load;
#[cfg(unix)]
mod nsd;
#[cfg(unix)]
mod outage;
mod policy;
mod upstream;
