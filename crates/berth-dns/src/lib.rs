//! The phone book: a name server for the guest that finds names as the host itself does.
//!
//! [`server`] takes two sockets on loopback and answers; `resolver` says who answers what; [`statics`], [`host`], `upstream`,
//! `system` are the sources; [`wire`] reads and writes messages. Everything that depends on the operating system is in `sys`.

mod cache;
pub mod client;
mod counters;
pub mod host;
mod rebinding;
mod resolver;
pub mod server;
pub mod statics;
mod sys;
mod system;
mod upstream;
pub mod wire;

pub use counters::Counts;
pub use resolver::Policy;
pub use server::{NameServer, ServerReport, Setup, Sockets};
pub use upstream::ServerStatus;
