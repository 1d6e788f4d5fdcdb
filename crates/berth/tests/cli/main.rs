//! The command line as a person or a script meets it: text, exit code, and what is on the disk afterwards.
//!
//! Every test has a home and a LIMA_HOME of its own and an empty environment. Agents and VMs are shell scripts.
#![cfg(unix)]

mod copy;
mod create;
mod disk;
mod list;
mod sandbox;
mod shell;
mod start;
mod stop;
mod usage;
mod validate;
