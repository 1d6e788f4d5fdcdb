//! The person inside: berth's guest agent.
//!
//! One static binary, started early in each boot of a Linux guest. It applies `boot.json` from the cidata volume as a set of
//! boot steps (`boot`), watches the boot's stages (`stages`), and serves the host over the link. When the boot is over it sleeps until
//! the host speaks: it has no timers.
//!
//! | module | owns |
//! |---|---|
//! | `args` | the command line |
//! | `daemon`, `once`, `install` | the three commands |
//! | `boot` | the steps, their order, and the engine that runs them |
//! | `stages` | what tells that a stage of the boot was reached |
//! | `progress` | what this boot has reached: for the host, for a restarted agent, for the console |
//! | `volume` | the cidata volume: mounting it, reading `boot.json` |
//! | `guest` | the system that steps work on: its root, init system, accounts, programs |
//! | `ports` | which sockets listen, and which ports Kubernetes publishes |
//! | `watch`, `netlink` | waiting for files and for the network without polling |
//! | `tunnels` | the flows that the host opens, and the sockets that it has the guest listen on |
//! | `time_sync` | the guest's clock, as the host asks and changes it |
//! | `mounts` | the host's directories through sshfs |
//! | `vsock_ssh` | sshd behind a port of vsock |
//! | `duties`, `cloud_init` | what the host asks for; following cloud-init's log |
//!
//! The crate is empty on other systems than Linux, so that the workspace can be checked there.
#![cfg(target_os = "linux")]

mod accounts;
mod args;
mod block;
mod boot;
mod clock;
mod cloud_init;
mod console;
mod daemon;
mod duties;
mod files;
mod guest;
mod install;
mod log;
mod mount_table;
mod mounts;
mod netlink;
mod once;
mod ports;
mod programs;
mod progress;
mod ready;
mod runtime;
mod stages;
mod sys;
mod time_sync;
mod tunnels;
mod volume;
mod vsock_ssh;
mod watch;

pub use args::run;
