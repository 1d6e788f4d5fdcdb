//! Which process is meant: a pid alone can be reused, a pid with its start time and the host's boot id cannot.

use std::io;

use serde::{Deserialize, Serialize};

use crate::sys;

/// A process that can be recognised later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessIdentity {
    /// Process id.
    pub pid: u32,
    /// Start time in clock ticks since boot (field 22 of `/proc/PID/stat`), or the platform's equivalent.
    pub start_time: u64,
    /// The host's boot id.
    pub boot_id: String,
}

impl ProcessIdentity {
    /// Looks at the process that has this pid now, which may be one that has ended and waits for its parent.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] when there is none.
    pub fn of(pid: u32) -> io::Result<Self> {
        Ok(Self {
            pid,
            start_time: sys::look_at(pid)?.start_time,
            boot_id: sys::boot_id()?,
        })
    }

    /// This process.
    pub fn current() -> io::Result<Self> {
        Self::of(std::process::id())
    }

    /// Whether this very process still runs. One that has ended and was not waited for yet does not.
    ///
    /// A process that cannot be looked at for a reason other than its absence counts as alive: callers remove things when it
    /// is not.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        match sys::look_at(self.pid) {
            Ok(seen) => {
                seen.running
                    && seen.start_time == self.start_time
                    && sys::boot_id().map_or(true, |id| id == self.boot_id)
            }
            Err(why) => why.kind() != io::ErrorKind::NotFound,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_alive_and_recognised() {
        let me = ProcessIdentity::current().unwrap();
        assert_eq!(me.pid, std::process::id());
        assert!(me.is_alive());
        assert_eq!(ProcessIdentity::of(me.pid).unwrap(), me);
    }

    #[test]
    fn a_reused_pid_is_another_process() {
        let me = ProcessIdentity::current().unwrap();
        let earlier = ProcessIdentity {
            start_time: me.start_time - 1,
            ..me.clone()
        };
        assert!(!earlier.is_alive());
        let before_the_reboot = ProcessIdentity {
            boot_id: "another".into(),
            ..me
        };
        assert!(!before_the_reboot.is_alive());
    }

    #[test]
    fn nobody_has_pid_zero_or_one_beyond_the_limit() {
        for pid in [0, u32::MAX, i32::MAX as u32] {
            let why = ProcessIdentity::of(pid).unwrap_err();
            assert_eq!(why.kind(), io::ErrorKind::NotFound, "pid {pid}: {why}");
        }
    }

    #[test]
    fn a_record_survives_json_of_later_versions() {
        let json = r#"{"pid":1,"start_time":7,"boot_id":"b"}"#;
        let one: ProcessIdentity = serde_json::from_str(json).unwrap();
        assert_eq!(
            one,
            ProcessIdentity {
                pid: 1,
                start_time: 7,
                boot_id: "b".into()
            }
        );
    }
}
