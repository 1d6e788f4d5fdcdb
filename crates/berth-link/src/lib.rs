//! The shared line between host and guest agent: hello, resynchronisation, multiplexing, typed and bounded messages.
//!
//! The protocol is specified, with golden bytes, in `docs/guest-link.md`. From the carrier upwards:
//!
//! | module | owns |
//! |---|---|
//! | [`hello`] | finding each other on a byte stream that may hold an earlier peer's bytes |
//! | [`frame`], [`mux`] | streams with credit, half-close and reset over one carrier |
//! | [`flow`] | the typed header that every stream opens with |
//! | [`message`], [`event`] | control messages on the wire, and the checked types that callers see |
//! | [`host`] | the host's end: one supervised connection with generations |
//! | [`guest`] | the guest's end: the port, the notice board, requests |
//! | [`mount`], [`files`], [`time`] | what host and guest tell each other about one mount, changes of files, and the clock |
//! | [`fn@apart`] | what shares a task with the driver of a session, and is not woken by it |
//! | [`boot`] | `boot.json`, what the host asks of the guest at every boot (travels in cidata, not over the link) |

mod apart;
mod backoff;
pub mod boot;
mod conversation;
pub mod event;
pub mod files;
pub mod flow;
pub mod frame;
pub mod guest;
pub mod hello;
pub mod host;
pub mod message;
pub mod mount;
pub mod mux;
pub mod session;
mod sys;
mod text;
pub mod time;

pub use apart::apart;
