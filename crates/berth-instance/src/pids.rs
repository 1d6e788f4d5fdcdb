//! Which of an instance's processes are alive.
//!
//! berth's own are known by lock and identity. Those that Lima started are known by their pid files only, by Lima's rule: a
//! number that belongs to a living process counts, and the file of a dead one is removed by whoever looks.

use std::path::Path;
use std::time::Duration;

use berth_process::identity::ProcessIdentity;
use berth_process::pidfile;

use crate::dir::InstanceDir;
use crate::lock::InstanceLock;
use crate::problem::with_causes;
use crate::record::{Record, VmRecord};
use crate::sys;

/// Drivers that may have left a pid file when the configuration does not say which one it is.
const DRIVERS: [&str; 3] = ["qemu", "vz", "krunkit"];

/// How long a server may take to accept a connection.
const PATIENCE: Duration = Duration::from_millis(500);

/// How the pid file of an external driver's server ends, after the driver's name.
const SERVER_PID: &str = ".drv.pid";

/// The external drivers that serve the instance, or did.
fn names_of_servers(dir: &InstanceDir) -> Vec<String> {
    let entries = std::fs::read_dir(dir.path())
        .into_iter()
        .flatten()
        .flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<_> = names
        .filter_map(|name| Some(name.strip_suffix(SERVER_PID)?.to_owned()))
        .collect();
    names.sort();
    names
}

/// The pid that a server's file names, as long as somebody listens on the server's socket: the number of one that is gone may be
/// another's by now.
fn look_for_server(dir: &InstanceDir, name: &str) -> Option<u32> {
    let pid = pidfile::read(&dir.path().join(format!("{name}{SERVER_PID}")));
    let listens = sys::connect(&dir.path().join(format!("{name}.drv.sock")), PATIENCE).is_ok();
    pid.ok().flatten().filter(|_| listens)
}

/// What lives of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Processes {
    /// One of our agents holds the lock.
    pub locked: bool,
    /// The agent, ours or Lima's.
    pub agent: Option<u32>,
    /// The process of the VM.
    pub vm: Option<u32>,
    /// The server of an external driver. It may serve no VM.
    pub driver_server: Option<u32>,
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
        let served = names_of_servers(dir);
        found.vm = found.look_for_vm(dir, driver, &served, record.vm.as_ref());
        found.driver_server = served.iter().find_map(|name| look_for_server(dir, name));
        found
    }

    fn look_for_vm(
        &mut self,
        dir: &InstanceDir,
        driver: Option<&str>,
        served: &[String],
        recorded: Option<&VmRecord>,
    ) -> Option<u32> {
        if let Some(vm) = recorded
            && vm.identity.is_alive()
        {
            return Some(vm.identity.pid);
        }
        let drivers = match driver {
            Some(driver) => vec![driver],
            None => DRIVERS
                .into_iter()
                .chain(served.iter().map(String::as_str))
                .collect(),
        };
        drivers.into_iter().find_map(|driver| {
            let known = recorded
                .filter(|vm| vm.driver == driver)
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
        let alive = match ProcessIdentity::of(pid) {
            // One that nobody has waited for yet is gone all the same.
            Ok(process) => process.is_alive(),
            // Not to be looked at is not dead.
            Err(why) => why.kind() != std::io::ErrorKind::NotFound,
        };
        if !alive && !owned {
            self.note(pidfile::remove_if_names(path, pid));
        }
        alive.then_some(pid)
    }

    fn note<T, E: std::error::Error>(&mut self, result: Result<T, E>) -> Option<T> {
        result
            .map_err(|why| self.problems.push(with_causes(&why)))
            .ok()
    }
}
