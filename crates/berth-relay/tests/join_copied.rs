//! Connections between a socket and a stream whose bytes are copied.

#![allow(clippy::unwrap_used, reason = "tests only")]

#[path = "cases/connection.rs"]
mod connection;
mod support;

fn remote(stream: support::Stream) -> berth_relay::Copied<support::Stream> {
    berth_relay::Copied(stream)
}
