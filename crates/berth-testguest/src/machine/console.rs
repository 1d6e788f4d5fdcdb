//! Serial ports: a log file, and a socket that shows one client what is printed.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use rustix::event::PollFlags;

/// One character device that is neither a monitor nor a port.
#[derive(Debug)]
pub(super) struct SerialLine {
    listener: Option<UnixListener>,
    client: Option<UnixStream>,
    log: Option<File>,
}

impl SerialLine {
    /// A line with a non-blocking listening socket, a log, or neither.
    pub(super) fn new(listener: Option<OwnedFd>, log: Option<File>) -> Self {
        Self {
            listener: listener.map(Into::into),
            client: None,
            log,
        }
    }

    /// What to wait for.
    pub(super) fn interest(&self) -> Option<(BorrowedFd<'_>, PollFlags)> {
        let client = self.client.as_ref().map(AsFd::as_fd);
        let listener = self.listener.as_ref().map(AsFd::as_fd);
        client.or(listener).map(|fd| (fd, PollFlags::IN))
    }

    /// Takes in a client, or what it typed, which nobody in the guest reads.
    pub(super) fn attend(&mut self) {
        if let Some(mut client) = self.client.as_ref() {
            match client.read(&mut [0; 4096]) {
                Ok(0) => self.client = None,
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => self.client = None,
                _ => {}
            }
        } else if let Some(listener) = &self.listener {
            self.client = listener
                .accept()
                .and_then(|(client, _)| client.set_nonblocking(true).map(|()| client))
                .ok();
        }
    }

    /// Shows what the guest printed. A client that does not keep up loses some of it.
    pub(super) fn print(&mut self, bytes: &[u8]) {
        if let Some(log) = &mut self.log {
            let _ = log.write_all(bytes);
        }
        if let Some(mut client) = self.client.as_ref() {
            let _ = client.write(bytes);
        }
    }
}
