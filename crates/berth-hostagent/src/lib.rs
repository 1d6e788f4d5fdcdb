//! The control room: one host agent owns one virtual machine from start to exit.
//!
//! | module | owns |
//! |---|---|
//! | [`mod@serve`] | the process: lock, pid file, API, construct, run, the last event |
//! | [`agent`] | what an agent has |
//! | `construct` | `HostAgent::new` |
//! | `run` | `HostAgent::run`: start, wait, take down |
//! | `phases`, `requirements` | what happens between "the VM runs" and "ready" |
//! | `copy_to_host` | files of the guest on the host, at the end of a start |
//! | `file_events` | changes of shared files, for the guest |
//! | [`guest`] | what the guest agent has told us |
//! | [`lima_agent`] | the connection to Lima's guest agent, for guests that have that one |
//! | [`master`] | the owner of the SSH ControlMaster |
//! | [`cleanup`] | what is taken down, in which order |
//! | [`signals`] | who asked us to stop, and how urgently |
//! | `api` | HTTP on `ha.sock` |
//! | `forwarding` | what carries forwarded ports and sockets, what feeds the reconciler, and who is told |
//! | [`ports`] | ports of the host that an instance keeps |
//! | `cloud_init`, `report`, `ssh_setup`, `vnc` | one concern each, as they are named |

pub mod agent;
pub mod cleanup;
pub mod error;
pub mod guest;
pub mod lima_agent;
pub mod master;
pub mod ports;
pub mod serve;
pub mod signals;

mod api;
mod cloud_init;
mod construct;
mod copy_to_host;
mod file_events;
mod forwarding;
mod mounts;
mod names;
mod phases;
mod report;
mod requirements;
mod run;
mod ssh_setup;
mod sys;
mod time_sync;
mod vnc;

pub use error::AgentError;
pub use serve::{ServeOptions, serve};
