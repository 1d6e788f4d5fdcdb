//! Console events of Windows. Its unix sockets wait for a runtime that has them.

use std::io;
use std::path::Path;

use tokio::io::DuplexStream;
use tokio::signal::windows::{CtrlBreak, CtrlC, CtrlClose, ctrl_break, ctrl_c, ctrl_close};

/// The console events that ask the agent to stop.
#[derive(Debug)]
pub(crate) struct Signals {
    interrupt: CtrlC,
    terminate: CtrlBreak,
    hangup: CtrlClose,
}

impl Signals {
    /// Replaces the default actions, for the rest of the process.
    pub(crate) fn take_over() -> io::Result<Self> {
        Ok(Self {
            interrupt: ctrl_c()?,
            terminate: ctrl_break()?,
            hangup: ctrl_close()?,
        })
    }

    /// Waits for the next one and names it.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "CTRL_C",
            _ = self.terminate.recv() => "CTRL_BREAK",
            _ = self.hangup.recv() => "CTRL_CLOSE",
        }
    }
}

/// A socket of this machine, named by a path: Windows has them, the async runtime does not yet.
#[derive(Debug)]
pub(crate) struct LocalListener(std::convert::Infallible);

impl LocalListener {
    /// Refuses.
    pub(crate) fn bind(_path: &Path) -> io::Result<Self> {
        Err(unsupported())
    }

    /// The next connection.
    pub(crate) async fn accept(&self) -> io::Result<DuplexStream> {
        match self.0 {}
    }
}

/// Refuses.
pub(crate) async fn connect_local(_path: &Path) -> io::Result<DuplexStream> {
    Err(unsupported())
}

fn unsupported() -> io::Error {
    io::Error::new(
        io::ErrorKind::Unsupported,
        "unix sockets are not built for Windows yet",
    )
}
