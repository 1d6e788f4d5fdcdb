//! What the multiplexer costs: both ends in this process, a thread each, a socket pair between them.
//!
//! `cargo run --release -p berth-link --example measure [MEGABYTES] [WHAT...]`, with any of `streams`, `splice`, `relay`, `copy`, `ping`,
//! `open`; all without arguments. `relay` puts TCP sockets and a relay on both sides, `copy` the same with relays that have
//! buffers of their own; both compare with `splice`, two relays that splice, without the link. CPU time is that of the two
//! ends, without whoever makes and takes the bytes.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a program that measures: a failure ends it, and figures are rounded"
)]

#[cfg(target_os = "linux")]
mod bench;

fn main() {
    #[cfg(target_os = "linux")]
    bench::run();
    #[cfg(not(target_os = "linux"))]
    panic!("it measures with what only Linux has");
}
