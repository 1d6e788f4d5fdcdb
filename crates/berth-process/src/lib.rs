//! Staff: spawning, pidfd waiting, stop ladders, stderr tails and adoption of child processes.
//!
//! | module | owns |
//! |---|---|
//! | [`spawn`] | starting a program and watching it until its end |
//! | [`adopt`] | watching a process that somebody else started |
//! | [`exit`] | how a process ended, in words |
//! | [`ladder`] | stopping a process, rung by rung |
//! | [`identity`] | recognising a process later |
//! | [`pidfile`] | pid files as Lima writes and reads them |
//! | [`stderr_log`] | the capped file that a child's stderr goes to |
//! | [`escape`] | showing bytes of strangers safely |
//! | [`limits`] | the number of open files |

pub mod adopt;
pub mod escape;
pub mod exit;
pub mod identity;
pub mod ladder;
pub mod limits;
pub mod pidfile;
pub mod spawn;
pub mod stderr_log;
mod sys;
