//! One life of a VM: its processes, its monitor, and the tasks that watch them.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use berth_process::spawn::Child;
use tokio::sync::watch;

use crate::error::DriverError;
use crate::qemu::qmp::Qmp;
use crate::tasks::Tasks;

/// Filled step by step during a start, so that a stop finds whatever was begun.
#[derive(Debug, Default)]
pub(super) struct Life {
    parts: Mutex<Parts>,
    /// What of it ended before the VM did.
    troubles: watch::Sender<Vec<String>>,
    tasks: Tasks,
}

#[derive(Debug, Default)]
struct Parts {
    vm: Option<Arc<Child>>,
    tpm: Option<Arc<Child>>,
    daemons: Vec<Arc<Child>>,
    monitor: Option<Qmp>,
    ssh: Option<SocketAddr>,
}

impl Life {
    fn parts(&self) -> MutexGuard<'_, Parts> {
        // Each access is one assignment: a panic elsewhere leaves nothing half done.
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether anything was started.
    pub(super) fn began(&self) -> bool {
        let parts = self.parts();
        parts.vm.is_some() || parts.tpm.is_some() || !parts.daemons.is_empty()
    }

    pub(super) fn note_vm(&self, child: Child) -> Arc<Child> {
        let child = Arc::new(child);
        self.parts().vm = Some(Arc::clone(&child));
        child
    }

    pub(super) fn note_tpm(&self, child: Child) -> Arc<Child> {
        let child = Arc::new(child);
        self.parts().tpm = Some(Arc::clone(&child));
        child
    }

    pub(super) fn note_daemon(&self, child: Child) -> Arc<Child> {
        let child = Arc::new(child);
        self.parts().daemons.push(Arc::clone(&child));
        child
    }

    pub(super) fn daemons(&self) -> Vec<Arc<Child>> {
        self.parts().daemons.clone()
    }

    /// Where helpers tell that they ended.
    pub(super) fn troubles_out(&self) -> watch::Sender<Vec<String>> {
        self.troubles.clone()
    }

    /// What ended before the VM did, in words for people.
    pub(super) fn troubles(&self) -> watch::Receiver<Vec<String>> {
        self.troubles.subscribe()
    }

    pub(super) fn note_monitor(&self, monitor: Qmp) {
        self.parts().monitor = Some(monitor);
    }

    pub(super) fn note_ssh(&self, address: SocketAddr) {
        self.parts().ssh = Some(address);
    }

    pub(super) fn vm(&self) -> Option<Arc<Child>> {
        self.parts().vm.clone()
    }

    pub(super) fn tpm(&self) -> Option<Arc<Child>> {
        self.parts().tpm.clone()
    }

    pub(super) fn ssh(&self) -> Option<SocketAddr> {
        self.parts().ssh
    }

    /// The monitor, if the VM got that far.
    pub(super) fn monitor(&self) -> Option<Qmp> {
        self.parts().monitor.clone()
    }

    /// The monitor, for a command that makes no sense without a running VM.
    pub(super) fn running(&self, command: &str) -> Result<Qmp, DriverError> {
        self.monitor().ok_or_else(|| DriverError::Monitor {
            command: command.to_owned(),
            why: "the VM is not running".to_owned(),
        })
    }

    pub(super) fn tasks(&self) -> &Tasks {
        &self.tasks
    }
}
