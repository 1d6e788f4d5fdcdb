//! The filing cabinet: LIMA_HOME, instance record, locks, identity, status and disks.
//!
//! | module | owns |
//! |---|---|
//! | [`home`] | `$LIMA_HOME` and what lies beside the instances |
//! | [`dir`] | the names of an instance's files |
//! | [`files`] | writing a file so that nobody sees half of it |
//! | [`create`], [`delete`] | making an instance directory, sweeping it, removing it |
//! | [`record`] | `berth.json` |
//! | [`lock`] | who is the agent of an instance |
//! | [`pids`] | which of an instance's processes are alive |
//! | [`disk`] | additional disks and who uses them |
//! | [`info`] | asking an agent over `ha.sock` |
//! | [`inspect`] | all of it together: the state of an instance, as `list` shows it |

pub mod create;
pub mod delete;
pub mod dir;
pub mod disk;
pub mod files;
pub mod home;
pub mod info;
pub mod inspect;
pub mod lock;
pub mod pids;
mod problem;
pub mod record;
mod sys;

pub use berth_config::name;
