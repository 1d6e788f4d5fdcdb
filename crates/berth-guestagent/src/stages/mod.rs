//! What tells that a stage of the boot was reached: one future each, which ends when it was.

use std::time::Duration;

/// Long past any boot: nobody will make the user, or plug the network in, any more.
pub(crate) const STAGE_LIMIT: Duration = Duration::from_hours(1);

pub(crate) mod login;
pub(crate) mod network;
pub(crate) mod sshd;
