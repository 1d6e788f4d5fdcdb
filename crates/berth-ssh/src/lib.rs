//! The locksmith: keys, host keys, options, `ssh.config` and running OpenSSH.
//!
//! | module | owns |
//! |---|---|
//! | [`tool`] | which `ssh` and `ssh-keygen` are used, and what they can do |
//! | [`keys`] | the user's key pair, and the public keys of `~/.ssh` |
//! | [`host_key`] | the guest's host key, made on the host, and `known_hosts` |
//! | [`options`] | the options that every `ssh` of an instance gets |
//! | [`config_file`] | `ssh.config`, and the answers of `show-ssh` |
//! | [`session`] | one instance's sshd: its address, its options, ways to call `ssh` |
//! | [`exec`] | running scripts in the guest |
//! | [`login`] | waiting for the first login of a guest that has no agent to tell |
//! | [`master`] | the `ControlMaster`: a child that holds the one login that others share |
//! | [`forward`] | sockets and ports that the master forwards |

pub mod config_file;
pub mod exec;
pub mod forward;
pub mod host_key;
pub mod keys;
pub mod login;
pub mod master;
pub mod options;
pub mod session;
pub mod tool;

mod banner;
mod held_key;
mod run;
mod sys;
