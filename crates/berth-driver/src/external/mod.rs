//! Lima's external drivers: programs of their own that speak gRPC on a socket in the instance's directory.
//!
//! Both ends are here: a client, which makes such a program a driver of berth, and a server, which makes a driver of berth such
//! a program, so that Lima can use it.
//!
//! | module | owns |
//! |---|---|
//! | [`discovery`] | which external drivers there are |
//! | [`client`] | one as a [`crate::driver::Driver`] |
//! | [`server`] | serving a [`crate::driver::Driver`] |
//! | [`inspect_status`] | asking one for an instance's status, without a socket |
//! | `message`, `info`, `instance` | the wire: protobuf, and the JSON in it |
//! | `files` | what lies in the instance's directory |

pub mod client;
pub mod discovery;
mod files;
mod info;
pub mod inspect_status;
mod instance;
mod message;
pub mod server;
