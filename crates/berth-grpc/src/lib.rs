//! gRPC by hand on the `h2` crate: plaintext HTTP/2 with prior knowledge, on whatever byte stream the caller brings.
//!
//! | module | owns |
//! |---|---|
//! | [`call`] | one call of a client: messages framed on a stream, and the status at its end |
//! | [`client`] | a connection for calls of one answer and for streams of answers |
//! | [`server`] | answering them |
//! | [`frame`] | the prefix before each message, and how large one may be |
//! | [`status`] | gRPC's status codes, and how their text travels |
//! | [`error`] | what can go wrong with a call |
//!
//! The peer is not trusted: messages and headers are capped, and no text of it reaches the caller unescaped. What a call holds
//! is bounded by the windows that whoever makes the connection chooses.

pub mod call;
pub mod client;
pub mod error;
pub mod frame;
pub mod server;
pub mod status;
