//! Watching a process that is not our child: a VM that outlived its agent.

use std::io;
use std::sync::Arc;

use tokio::sync::watch;

use crate::exit::{self, Exit, Signal};
use crate::identity::ProcessIdentity;
use crate::spawn::watch_until_end;
use crate::sys;

/// A living process that somebody else started.
///
/// Dropping it does nothing to the process. How it ends is known only if it happens to be our child after all
/// (a process image replaced by `exec` keeps its children); else its end is [`Exit::Unknown`].
#[derive(Debug)]
pub struct Adopted {
    identity: ProcessIdentity,
    handle: Arc<sys::Handle>,
    exit: watch::Receiver<Option<Exit>>,
}

impl Adopted {
    /// Takes hold of the process that `identity` was made of; `None` when it is gone or its pid belongs to another by now.
    /// Needs a tokio runtime.
    ///
    /// # Errors
    /// The process is there, and the system does not let us watch it.
    pub fn open(identity: ProcessIdentity) -> io::Result<Option<Self>> {
        let handle = match sys::Handle::open(identity.pid) {
            Ok(handle) => Arc::new(handle),
            Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(why) => return Err(why),
        };
        // Asked after the handle was opened: from here on the pid cannot become another's unnoticed.
        if !identity.is_alive() {
            return Ok(None);
        }
        let exit = watch_until_end(Arc::clone(&handle), None);
        Ok(Some(Self {
            identity,
            handle,
            exit,
        }))
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.identity.pid
    }

    /// Who it is.
    #[must_use]
    pub fn identity(&self) -> &ProcessIdentity {
        &self.identity
    }

    /// Becomes `Some` when it is gone.
    #[must_use]
    pub fn exit(&self) -> watch::Receiver<Option<Exit>> {
        self.exit.clone()
    }

    /// Waits for its end. May be called, and cancelled, any number of times.
    pub async fn wait(&mut self) -> Exit {
        exit::gone(&mut self.exit).await
    }

    /// Sends a signal. One that is gone already needs none, and gives no error.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        if self.exit.borrow().is_some() {
            return Ok(());
        }
        self.handle.signal(signal)
    }
}
