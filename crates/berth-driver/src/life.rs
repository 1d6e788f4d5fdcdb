//! One life of a VM: its process, and the tasks that serve it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use berth_process::spawn::Child;

use crate::tasks::Tasks;

/// What was begun, noted at once, so that a stop finds it however far a start got.
#[derive(Debug, Default)]
pub(crate) struct Life {
    parts: Mutex<Parts>,
    tasks: Tasks,
}

#[derive(Debug, Default)]
struct Parts {
    began: bool,
    vm: Option<Arc<Child>>,
    ssh: Option<SocketAddr>,
}

impl Life {
    fn parts(&self) -> MutexGuard<'_, Parts> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From here on files belong to this life.
    pub(crate) fn begin(&self) {
        self.parts().began = true;
    }

    pub(crate) fn began(&self) -> bool {
        self.parts().began
    }

    pub(crate) fn note_vm(&self, vm: Child) -> Arc<Child> {
        let vm = Arc::new(vm);
        self.parts().vm = Some(Arc::clone(&vm));
        vm
    }

    pub(crate) fn vm(&self) -> Option<Arc<Child>> {
        self.parts().vm.clone()
    }

    pub(crate) fn note_ssh(&self, address: SocketAddr) {
        self.parts().ssh = Some(address);
    }

    pub(crate) fn ssh(&self) -> Option<SocketAddr> {
        self.parts().ssh
    }

    pub(crate) fn tasks(&self) -> &Tasks {
        &self.tasks
    }
}
