//! Lima's language: a client of the `GuestService` that Lima's own guest agent serves.
//!
//! gRPC over plaintext HTTP/2 with prior knowledge, on whatever byte stream the caller connects (`ga.sock`, vsock). The service
//! has no package: its methods are `/GuestService/GetInfo`, `GetEvents`, `PostInotify`, `Tunnel` and `SyncTime`.
//!
//! | module | owns |
//! |---|---|
//! | [`client`] | [`client::GuestApi`], the way in: one HTTP/2 connection and the methods called on it |
//! | [`tunnel`] | a connection or a flow of datagrams to a socket in the guest |
//! | [`file_events`] | file events of the host, for the guest |
//! | [`port`] | listening ports of the guest, checked |
//! | [`error`] | what can go wrong, and what it is in the words of [`std::io::ErrorKind`] |
//! | [`message`] | the wire, as Lima numbers its fields |
//! | `connection`, `window` | HTTP/2, and how much of the guest's data may wait in our memory |
//! | `fields` | reading protobuf without building it |
//!
//! gRPC is spoken by hand on the `h2` crate (`berth-grpc`): a tunnel then needs no task of its own, is reset the moment it is dropped, and takes
//! from the guest only what its reader has room for.
//!
//! The guest is not trusted: messages are capped, every entry is parsed, and no text of the guest reaches the caller unescaped.

pub mod client;
pub mod error;
pub mod file_events;
pub mod message;
pub mod port;
pub mod tunnel;

mod connection;
mod fields;
mod window;
