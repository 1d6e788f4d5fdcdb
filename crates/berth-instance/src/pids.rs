//! Which of an instance's processes are alive.
//!
//! berth's own are known by lock and identity. Those that Lima started are known by their pid files only, by Lima's rule: a
//! number that belongs to a living process counts, and the file of a dead one is removed by whoever looks.

use std::path::Path;

use berth_process::identity::ProcessIdentity;
use berth_process::pidfile;

use crate::dir::InstanceDir;
use crate::lock::InstanceLock;
use crate::problem::with_causes;
use crate::record::{Record, VmRecord};

/// Drivers that may have left a pid file when the configuration does not say which one it is.
const DRIVERS: [&str; 3] = ["qemu", "vz", "krunkit"];

/// What lives of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Processes {
    /// One of our agents holds the lock.
    pub locked: bool,
    /// The agent, ours or Lima's.
    pub agent: Option<u32>,
    /// The process of the VM.
    pub vm: Option<u32>,
    /// What could not be found out, in words.
    pub problems: Vec<String>,
}

impl Processes {
    /// Whether anything of the instance runs, or may run.
    #[must_use]
    pub fn any(&self) -> bool {
        self.locked || self.agent.is_some() || self.vm.is_some() || !self.problems.is_empty()
    }

    /// Looks at lock, record and pid files. `driver` is the instance's driver; `None`: any that may be.
    #[must_use]
    pub fn look(dir: &InstanceDir, driver: Option<&str>) -> Self {
        let mut found = Self::default();
        let record = found.note(Record::load(dir)).unwrap_or_default();
        let holder = found.note(InstanceLock::is_held(dir)).flatten();
        found.locked = holder.is_some();
        found.agent = match holder {
            Some(holder) => holder
                .pid
                .or_else(|| found.note(pidfile::read(&dir.ha_pid())).flatten()),
            None => found.by_file(&dir.ha_pid(), record.agent.as_ref(), false),
        };
        found.vm = found.look_for_vm(dir, driver, record.vm.as_ref());
        found
    }

    fn look_for_vm(
        &mut self,
        dir: &InstanceDir,
        driver: Option<&str>,
        recorded: Option<&VmRecord>,
    ) -> Option<u32> {
        if let Some(vm) = recorded
            && vm.identity.is_alive()
        {
            return Some(vm.identity.pid);
        }
        let drivers = driver.as_slice();
        let drivers = if drivers.is_empty() {
            &DRIVERS[..]
        } else {
            drivers
        };
        drivers.iter().find_map(|driver| {
            let known = recorded
                .filter(|vm| vm.driver == *driver)
                .map(|vm| &vm.identity);
            self.by_file(&dir.vm_pid(driver), known, self.locked)
        })
    }

    /// The living process that a pid file names. `known`, if it has the same pid, is who wrote the file: a pid that was given to
    /// another since then is not taken for it. With `owned` the file belongs to a living agent, who removes it itself.
    fn by_file(
        &mut self,
        path: &Path,
        known: Option<&ProcessIdentity>,
        owned: bool,
    ) -> Option<u32> {
        let pid = self.note(pidfile::read(path)).flatten()?;
        if let Some(known) = known
            && known.pid == pid
        {
            return known.is_alive().then_some(pid);
        }
        match ProcessIdentity::of(pid) {
            Err(why) if why.kind() == std::io::ErrorKind::NotFound => {
                if !owned {
                    self.note(pidfile::remove_if_names(path, pid));
                }
                None
            }
            // Alive, or not to be looked at, which a dead one could be.
            _ => Some(pid),
        }
    }

    fn note<T, E: std::error::Error>(&mut self, result: Result<T, E>) -> Option<T> {
        result
            .map_err(|why| self.problems.push(with_causes(&why)))
            .ok()
    }
}
